"""Text generation: transformers' texts, in batches of any kind, and errors."""

import json

import pytest
import torch

from minitransformer import CheckpointError, GPT2LMHeadModel, Tokenizer, pipeline
from minitransformer.tasks import generation
from minitransformer.tasks.text_generation import TextGeneration
from tests.tiny import (
    TEXTS,
    real_tokenizer,
    save_checkpoint,
    their_pipeline,
    tokenizer_of,
)


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("gpt2"), "GPT2LMHeadModel")


@pytest.fixture(scope="module")
def generate(path) -> TextGeneration:
    return pipeline("text-generation", path)


@pytest.fixture
def shapes(monkeypatch):
    """The shapes of the batches."""
    seen = []
    original = generation.generate

    def recorded(model, input_ids, mask, **arguments):
        seen.append((tuple(input_ids.shape), int(mask.sum())))
        return original(model, input_ids, mask, **arguments)

    monkeypatch.setattr(generation, "generate", recorded)
    return seen


def of_lengths(*lengths):
    """Texts of so many tokens."""
    return ["z" * length for length in lengths]


def new_texts(answers):
    return [[answer["generated_text"] for answer in several] for several in answers]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_new_tokens": 8},
        {"max_new_tokens": 6, "return_full_text": False},
        {"max_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0},
        {"max_length": 28},  # with prompts of unequal length, each of which counts its own
        {"max_length": 28, "min_length": 25, "eos_token_id": [7, 24], "num_beams": 2},
        {"max_new_tokens": 6, "no_repeat_ngram_size": 1, "repetition_penalty": 1.5},
    ],
)
def test_the_answers_are_those_of_transformers(path, generate, fields):
    theirs = their_pipeline("text-generation", path)
    answers = generate(TEXTS, **fields)
    assert answers == theirs(TEXTS, do_sample=False, **fields)
    assert generate(TEXTS[0], **fields) == answers[0]


def test_a_text_that_ends_what_is_generated(path, generate):
    whole = generate(TEXTS, max_new_tokens=9, return_full_text=False)
    text = whole[0][0]["generated_text"]
    pairs = [text[place : place + 2] for place in range(1, len(text) - 3)]
    stop = next(pair for pair in pairs if pair.isascii())  # in the midst, of two tokens
    answers = generate(TEXTS, max_new_tokens=9, stop_strings=[stop], return_full_text=False)
    assert len(answers[0][0]["generated_text"]) < len(text)
    theirs = their_pipeline("text-generation", path)
    asked = {"max_new_tokens": 9, "do_sample": False, "return_full_text": False}
    assert answers == theirs(TEXTS, stop_sequence=stop, **asked)


def test_an_empty_prompt_is_the_first_token(path, generate, tmp_path):
    theirs = their_pipeline("text-generation", path)
    assert generate("", max_new_tokens=5) == theirs("", max_new_tokens=5, do_sample=False)
    path = save_checkpoint(tmp_path, "GPT2LMHeadModel", bos_token_id=None)
    with pytest.raises(ValueError, match=r"texts\[1\] is empty, and bos_token_id=None"):
        pipeline("text-generation", path)(["a", ""], max_new_tokens=5)


def test_what_is_computed_together_changes_nothing(generate):
    small = TextGeneration(generate.model, generate.tokenizer, batch_size=2)
    for fields in ({"max_new_tokens": 7}, {"max_length": 28, "num_beams": 2}):
        every = generate(TEXTS, **fields)
        assert small(TEXTS, **fields) == every
        assert [generate(text, **fields) for text in TEXTS] == every
    assert generate([], max_new_tokens=7) == []


def test_texts_of_like_length_are_computed_together(generate, shapes):
    small = TextGeneration(generate.model, generate.tokenizer, batch_size=2)
    texts = of_lengths(3, 9, 2, 9, 9)
    small(texts, max_new_tokens=1)
    assert shapes == [((2, 9), 18), ((2, 9), 12), ((1, 2), 2)]
    shapes.clear()
    small(texts, max_length=10)  # each must count its own tokens
    assert shapes == [((2, 9), 18), ((1, 9), 9), ((1, 3), 3), ((1, 2), 2)]
    shapes.clear()
    small(texts, max_new_tokens=3, min_length=4)
    assert len(shapes) == 4
    shapes.clear()
    small(texts, max_new_tokens=3, min_new_tokens=2)
    assert len(shapes) == 3


def test_a_tokenizer_without_padding_or_end(generate):
    bare = Tokenizer(generate.tokenizer.backend, {})
    asked = {"max_new_tokens": 5, "return_full_text": False}
    assert TextGeneration(generate.model, bare)(TEXTS, **asked) == generate(TEXTS, **asked)


def test_what_a_tokenizer_puts_after_a_text_ends_no_prompt(tmp_path, monkeypatch):
    tokenizer = tokenizer_of("Bart", tmp_path)
    assert tokenizer("ciao")["input_ids"][-1] == tokenizer.eos_token_id
    path = save_checkpoint(tmp_path, "GPT2LMHeadModel", tokenizer=tokenizer)
    generate = pipeline("text-generation", path, optimize=False)
    seen = []
    next_token_logits = generate.model.next_token_logits

    def recorded(input_ids, attention_mask, **arguments):
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            seen.append(ids[mask.bool()].tolist())
        return next_token_logits(input_ids, attention_mask, **arguments)

    monkeypatch.setattr(generate.model, "next_token_logits", recorded)
    generate(["ciao", "ciao</s>", ""], max_new_tokens=1)
    start, *word, end = tokenizer("ciao")["input_ids"]
    assert seen == [[start, *word, end], [start, *word], [start]]


def test_a_space_that_depends_on_the_prompt_is_preserved(tmp_path):
    """transformers decodes the new tokens by themselves, and the space is lost."""
    tokenizer = tokenizer_of("T5", tmp_path)
    path = save_checkpoint(tmp_path, "GPT2LMHeadModel", tokenizer=tokenizer)
    generate = pipeline("text-generation", path)
    words = {tokenizer.id_to_token(token): token for token in range(tokenizer.vocab_size)}
    word, token = next((w, t) for w, t in words.items() if w[0] == "▁" and len(w) > 1)
    others = [other for other in words.values() if other != token]
    (answer,) = generate("come", max_new_tokens=2, suppress_tokens=others)
    assert answer["generated_text"] == f"come {word[1:]} {word[1:]}"


def test_a_seed_determines_the_samples(generate):
    drawn = {"max_new_tokens": 8, "do_sample": True, "num_return_sequences": 2}
    first = generate(TEXTS, seed=3, **drawn)
    assert first == generate(TEXTS, seed=3, **drawn)
    assert first != generate(TEXTS, seed=4, **drawn)
    assert all(len(set(texts)) == 2 for texts in new_texts(first))
    small = TextGeneration(generate.model, generate.tokenizer, batch_size=1)
    twice = new_texts(small(["ciao", "ciao"], seed=3, **drawn))
    assert twice[0] != twice[1]  # each batch is sampled again


def test_pieces_are_streamed(generate):
    for fields in ({}, {"do_sample": True, "seed": 5}):
        pieces = generate.stream(TEXTS[0], max_new_tokens=12, **fields)
        assert iter(pieces) is pieces
        pieces = list(pieces)
        whole = generate(TEXTS[0], max_new_tokens=12, return_full_text=False, **fields)
        assert "".join(pieces) == whole[0]["generated_text"]
        assert len(pieces) > 3
    for error, message, fields in (
        (ValueError, "number of tokens to generate is not set", {}),
        (ValueError, "num_beams=1", {"max_new_tokens": 2, "num_beams": 2}),
        (ValueError, r"texts\[0\] has 11 tokens; with 50 new", {"max_new_tokens": 50}),
        (TypeError, "'max_new_token'; did you mean 'max_new_tokens'", {"max_new_token": 2}),
        (TypeError, "unknown GenerationConfig field 'use_cache'", {"use_cache": False}),
    ):
        with pytest.raises(error, match=message):
            generate.stream(*of_lengths(11), **fields)  # before a piece is requested
    with pytest.raises(TypeError, match="must be a str, not list"):
        generate.stream(["ciao"], max_new_tokens=2)


def test_a_prefix_is_read_and_not_given_back(path, generate, tmp_path):
    theirs = their_pipeline("text-generation", path)
    for length in ({"max_length": 20, "min_length": 18}, {"max_new_tokens": 5}):
        answers = generate(TEXTS, prefix="ciao, ", **length)
        assert answers == theirs(TEXTS, prefix="ciao, ", do_sample=False, **length)
    assert answers != generate(TEXTS, max_new_tokens=5)
    (pieces,) = generate.stream(TEXTS[0], prefix="ciao, ", max_new_tokens=1)
    assert answers[0][0]["generated_text"].startswith(TEXTS[0] + pieces)
    path = save_checkpoint(
        tmp_path, "GPT2LMHeadModel", config={"prefix": "ciao, "}, generation={"max_length": 20}
    )
    theirs = their_pipeline("text-generation", path)
    assert theirs.prefix == "ciao, "
    generate = pipeline("text-generation", path)
    answers = generate(TEXTS)
    assert answers == theirs(TEXTS, do_sample=False)
    assert answers == generate(TEXTS, max_length=20)
    streamed = "".join(generate.stream(TEXTS[0]))
    assert answers[0][0]["generated_text"] == TEXTS[0] + streamed


def test_the_config_sets_the_parameters_of_the_task(tmp_path):
    """As that of the published gpt2 does."""
    asked = {"do_sample": True, "max_length": 20}
    config = {"task_specific_params": {"text-generation": asked}}
    path = save_checkpoint(tmp_path, "GPT2LMHeadModel", config=config)
    generate = pipeline("text-generation", path)
    model, tokenizer = GPT2LMHeadModel.from_pretrained(path), Tokenizer.from_pretrained(path)
    in_hand = TextGeneration(model, tokenizer)
    model.task_specific_params = {}
    plain = TextGeneration(model, tokenizer)
    assert generate("ciao", seed=1) == plain("ciao", seed=1, **asked)
    assert generate("ciao", seed=1) == in_hand("ciao", seed=1)
    assert generate("ciao", seed=1, temperature=0.5) == plain(
        "ciao", seed=1, temperature=0.5, **asked
    )
    greedy = generate("ciao", do_sample=False, max_new_tokens=4)
    assert greedy == plain("ciao", max_new_tokens=4)
    assert generate.model.generation_config == plain.model.generation_config
    config["task_specific_params"]["text-generation"] = {"num_beam_groups": 2}
    path = save_checkpoint(tmp_path, "GPT2LMHeadModel", config=config)
    with pytest.raises(CheckpointError, match="num_beam_groups=2 would change the generated text"):
        pipeline("text-generation", path)


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        ({}, ValueError, "number of tokens to generate is not set; pass max_new_tokens"),
        (
            {"max_new_tokens": 40},
            ValueError,
            r"texts\[2\] has 37 tokens; with 40 new ones .* 60 .*set max_new_tokens to at most 23",
        ),
        (
            {"max_length": 37},
            ValueError,
            r"texts\[2\] has 37 tokens, which leaves no room for a new one in max_length=37",
        ),
        ({"max_length": 61}, ValueError, r"texts\[0\] has 11 tokens; with 50 new ones"),
        ({"max_tokens": 3}, TypeError, "'max_tokens'; did you mean 'max_new_tokens'"),
        ({"max_new_tokens": 3, "streamer": None}, TypeError, "unknown GenerationConfig field"),
        ({"max_new_tokens": 3, "temperature": 0.7}, ValueError, "without do_sample=True"),
        ({"max_new_tokens": 3, "seed": -1}, ValueError, "seed=-1"),
    ],
)
def test_what_is_wrong_is_named(generate, fields, error, message):
    with pytest.raises(error, match=message):
        generate(of_lengths(11, 2, 37), **fields)


def test_a_prompt_that_is_too_long_itself(generate):
    with pytest.raises(ValueError, match=r"texts\[1\] has 61 tokens; with 1 new one .*shorten it"):
        generate(of_lengths(1, 61), max_new_tokens=1)
    assert len(generate(of_lengths(1, 59), max_new_tokens=1)) == 2  # one position is left


def test_what_is_no_text_is_named(generate):
    with pytest.raises(TypeError, match=r"texts\[1\] must be a str, not int"):
        generate(["ciao", 3], max_new_tokens=2)
    with pytest.raises(TypeError, match="texts must be a str or a list of str"):
        generate(7, max_new_tokens=2)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "T5ForConditionalGeneration",
            "text-generation needs a model such as GPT2LMHeadModel; this is a T5ForConditional"
            "Generation, which is for summarization, text2text-generation, translation$",
        ),
        (
            "GPT2ForSequenceClassification",
            "which is for text-classification, zero-shot-classification; GPT2LMHeadModel.from_pre",
        ),
        (
            "GPT2Model",
            "this is a GPT2Model; GPT2LMHeadModel.from_pretrained.path. loads it and warns",
        ),
    ],
)
def test_the_right_task_is_named(name, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        pipeline("text-generation", save_checkpoint(tmp_path, name))


def test_a_batch_of_zero(generate):
    with pytest.raises(ValueError, match="batch_size=0"):
        TextGeneration(generate.model, generate.tokenizer, batch_size=0)


def test_a_refused_call_leaves_the_generation_config_as_it_was(generate):
    before = generate.model.generation_config
    with pytest.raises(ValueError, match="number of tokens to generate is not set"):
        generate("ciao")
    assert generate.model.generation_config is before


@pytest.mark.slow
def test_a_real_vocabulary(tmp_path):
    """Random tokens of GPT-2's vocabulary: many are parts of characters."""
    tokenizer = real_tokenizer("gpt2")
    path = save_checkpoint(tmp_path, "GPT2LMHeadModel", tokenizer=tokenizer)
    generate, theirs = pipeline("text-generation", path), their_pipeline("text-generation", path)
    texts = ["The cat", "Perché no? L'acqua è fredda", "日本語", " two  spaces\n"]
    for fields in ({}, {"no_repeat_ngram_size": 1}, {"num_beams": 3, "num_return_sequences": 3}):
        ours = generate(texts, max_new_tokens=20, **fields)
        assert ours == theirs(texts, do_sample=False, max_new_tokens=20, **fields)
    drawn = {"do_sample": True, "top_k": 0, "temperature": 5.0, "max_new_tokens": 30}
    for seed in range(20):
        whole = generate(texts[2], seed=seed, return_full_text=False, **drawn)[0]["generated_text"]
        assert "".join(generate.stream(texts[2], seed=seed, **drawn)) == whole


@pytest.mark.cuda
def test_on_a_gpu(path, generate):
    there = pipeline("text-generation", path, device="cuda")
    assert next(there.model.parameters()).device.type == torch.device("cuda").type
    assert there(TEXTS, max_new_tokens=6) == generate(TEXTS, max_new_tokens=6)


def test_a_config_that_is_no_json(path, tmp_path):
    other = save_checkpoint(tmp_path, "GPT2LMHeadModel", config={"task_specific_params": "none"})
    assert json.loads((other / "config.json").read_text())["task_specific_params"] == "none"
    answers, expected = (
        pipeline("text-generation", each)("ciao", max_new_tokens=4) for each in (other, path)
    )
    assert answers == expected
