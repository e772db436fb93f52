"""Texts from texts, and summaries: what transformers' generate and decode give, and what is cut."""

import dataclasses
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import zip_longest

import pytest
import torch

from minitransformer import (
    CheckpointError,
    T5Config,
    T5ForConditionalGeneration,
    Tokenizer,
    pipeline,
)
from minitransformer.tasks.text_to_text import Summarization, TextToTextGeneration
from tests.tiny import BART, MARIAN, T5, TEXTS, real_tokenizer, save_checkpoint, their_texts

# Marian's tokenizer in transformers recommends a package.
pytestmark = pytest.mark.filterwarnings("ignore:Recommended. pip install sacremoses")
LONG = "la ragazza legge un libro e " * 20
# As in the config.json of google-t5/t5-small, but shorter.
SUMMARIES = {
    "early_stopping": True,
    "length_penalty": 2.0,
    "max_length": 11,
    "min_length": 5,
    "no_repeat_ngram_size": 2,
    "num_beams": 3,
    "prefix": "come va: ",
}


@pytest.fixture(scope="module", params=[BART, T5, MARIAN])
def path(request, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp(request.param), request.param, codes=())


@pytest.fixture(scope="module")
def generate(tmp_path_factory) -> TextToTextGeneration:
    directory = tmp_path_factory.mktemp("one")
    return pipeline(
        "text2text-generation", save_checkpoint(directory, "T5ForConditionalGeneration")
    )


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """A T5 whose config has parameters for summaries."""
    return save_checkpoint(
        tmp_path_factory.mktemp("summaries"),
        "T5ForConditionalGeneration",
        config={"task_specific_params": {"summarization": SUMMARIES}},
    )


def texts_of(answers, name="generated_text"):
    return [answer[name] for answer in answers]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_new_tokens": 7, "no_repeat_ngram_size": 1},
        {"max_length": 9, "min_length": 6, "num_beams": 3, "length_penalty": 2.0},
    ],
)
def test_the_texts_are_those_of_transformers(path, fields):
    ours = pipeline("text2text-generation", path)(TEXTS, **fields)
    assert [[text] for text in texts_of(ours)] == their_texts(path, TEXTS, **fields)


def test_several_answers_to_each_text(path):
    fields = {"max_new_tokens": 7, "num_beams": 3, "num_return_sequences": 2}
    generate = pipeline("text2text-generation", path)
    ours = generate(TEXTS, **fields)
    assert [texts_of(several) for several in ours] == their_texts(path, TEXTS, **fields)
    assert generate(TEXTS[0], **fields) == ours[0]


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "MarianMTModel"])
def test_the_generation_config_of_the_checkpoint(name, tmp_path):
    """generation_config.json with what published checkpoints of both families have."""
    says = {
        "forced_bos_token_id": 5,
        "forced_eos_token_id": 0,
        "bad_words_ids": [[7]],
        "num_beams": 3,
        "length_penalty": 2.0,
        "early_stopping": True,
        "no_repeat_ngram_size": 2,
        "max_length": 9,
        "min_length": 4,
    }
    path = save_checkpoint(tmp_path, name, codes=(), generation=says)
    generate = pipeline("text2text-generation", path)
    assert [[text] for text in texts_of(generate(TEXTS))] == their_texts(path, TEXTS)
    # Arguments of a call override it, and without beams their settings do not count.
    asked = {"num_beams": 1, "no_repeat_ngram_size": 0}
    ours = generate(TEXTS, **asked)
    assert [[text] for text in texts_of(ours)] == their_texts(path, TEXTS, **asked)


def test_one_text_or_many(generate):
    one = generate(TEXTS[0], max_new_tokens=3)
    many = generate(TEXTS, max_new_tokens=3)
    assert one == many[:1]
    assert len(many) == len(TEXTS)
    assert generate([], max_new_tokens=3) == []
    assert pipeline("text2text", generate.tokenizer.source)(TEXTS, max_new_tokens=3) == many


def test_what_is_computed_together_changes_nothing(path):
    generate = pipeline("text2text-generation", path)
    small = TextToTextGeneration(generate.model, generate.tokenizer, batch_size=2)
    for fields in ({"max_new_tokens": 6}, {"max_length": 9, "min_length": 3, "num_beams": 2}):
        every = generate(TEXTS, **fields)
        assert small(TEXTS, **fields) == every
        assert [generate(text, **fields)[0] for text in TEXTS] == every


def test_padding_after_the_end_is_no_text(generate):
    """Where the padding token is a word, it would be read as one."""
    long = generate(TEXTS, max_new_tokens=9)
    ids = [generate.tokenizer(answer["generated_text"])["input_ids"] for answer in long]
    ends = next(tokens[1] for tokens in ids if len(tokens) > 2)
    word = generate.tokenizer("ragazza")["input_ids"][0]
    texts = generate(TEXTS, max_new_tokens=9, eos_token_id=ends, pad_token_id=word)
    alone = [generate(text, max_new_tokens=9, eos_token_id=ends)[0] for text in TEXTS]
    assert texts == alone
    assert len({len(answer["generated_text"]) for answer in texts}) > 1


def test_truncation_is_reported(tmp_path):
    path = save_checkpoint(tmp_path, "BartForConditionalGeneration")
    summarize = pipeline("summarization", path)
    texts = ["ciao", LONG, "un libro", LONG + "bene"]
    tokens = [len(summarize.tokenizer(text)["input_ids"]) for text in texts]
    with pytest.warns(UserWarning) as caught:
        answers = summarize(texts, max_new_tokens=6)
    assert [str(warning.message) for warning in caught] == [
        f"2 of 4 texts had to be truncated to 60 tokens: texts[1] has {tokens[1]}, "
        f"texts[3] has {tokens[3]}"
    ]
    assert caught[0].filename == __file__
    cut = summarize.tokenizer(texts[1], truncation=True, max_length=60)["input_ids"]
    assert cut[-1] == summarize.tokenizer.eos_token_id
    ids = summarize._generate([cut], summarize.settings.config, None, {"max_new_tokens": 6})[0][0]
    assert answers[1]["summary_text"] == summarize.tokenizer.decode(ids, True)
    with pytest.warns(UserWarning, match="texts.0. has") as caught:
        list(summarize.stream(LONG, max_new_tokens=2))
    assert caught[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_t5_reads_texts_of_any_length_unless_its_tokenizer_has_a_limit(tmp_path):
    path = save_checkpoint(tmp_path, "T5ForConditionalGeneration")
    generate = pipeline("text2text-generation", path)
    generate([LONG, "ciao"], max_new_tokens=2)
    generate.tokenizer.model_max_length = 30
    with pytest.warns(UserWarning, match="1 of 2 texts had to be truncated to 30 tokens"):
        generate([LONG, "ciao"], max_new_tokens=2)


def test_a_summary_has_the_parameters_of_the_config(summaries):
    summarize = pipeline("summarization", summaries)
    assert isinstance(summarize, Summarization)
    answers = summarize(TEXTS)
    fields = {name: value for name, value in SUMMARIES.items() if name != "prefix"}
    prefixed = [SUMMARIES["prefix"] + text for text in TEXTS]
    assert [[t] for t in texts_of(answers, "summary_text")] == their_texts(
        summaries, prefixed, **fields
    )
    plain = TextToTextGeneration(summarize.model, summarize.tokenizer)
    assert texts_of(plain(prefixed, **fields)) == texts_of(answers, "summary_text")
    # A call overrides the config, and greedy search ignores the settings of beams.
    assert texts_of(summarize(TEXTS, num_beams=1, prefix=""), "summary_text") == texts_of(
        plain(TEXTS, max_length=11, min_length=5, no_repeat_ngram_size=2)
    )
    # Another task has nothing of this.
    with pytest.raises(ValueError, match="number of tokens to generate is not set"):
        pipeline("text2text-generation", summaries)(TEXTS)


@pytest.mark.parametrize("optimize", [True, False])
def test_overlapping_calls_have_each_their_own_parameters(summaries, optimize):
    """Each call is in the middle of the other: both wait for one another in the encoder."""
    summarize = pipeline("summarization", summaries, optimize=optimize)
    before = summarize.model.generation_config
    calls = [
        partial(summarize, TEXTS[0]),
        partial(summarize, TEXTS[0], num_beams=1, max_length=8, prefix=""),
    ]
    alone = [call() for call in calls]
    assert alone[0] != alone[1]
    barrier, seen = threading.Barrier(2, timeout=60), []

    def wait(*_):
        seen.append(summarize.model.generation_config)
        barrier.wait()

    hook = summarize.model.backbone.encoder.register_forward_pre_hook(wait)
    with ThreadPoolExecutor(2) as pool:
        together = [pool.submit(call) for call in calls]
        assert [call.result() for call in together] == alone
    hook.remove()
    assert len(seen) == 2
    assert all(config is before for config in [*seen, summarize.model.generation_config])


def test_streams_in_turns_have_each_their_own_parameters(summaries):
    summarize = pipeline("summarization", summaries)
    plain = TextToTextGeneration(summarize.model, summarize.tokenizer)
    before = summarize.model.generation_config
    streams = [
        summarize.stream(TEXTS[0], num_beams=1),
        plain.stream(TEXTS[0], max_new_tokens=8),
        summarize.stream(TEXTS[0], num_beams=1, no_repeat_ngram_size=0, prefix=""),
    ]
    pieces = [*zip_longest(*streams, fillvalue="")]
    assert summarize.model.generation_config is before
    assert ["".join(several) for several in zip(*pieces, strict=True)] == [
        summarize(TEXTS[0], num_beams=1)[0]["summary_text"],
        plain(TEXTS[0], max_new_tokens=8)[0]["generated_text"],
        summarize(TEXTS[0], num_beams=1, no_repeat_ngram_size=0, prefix="")[0]["summary_text"],
    ]


def test_a_prefix_of_all_tasks(tmp_path):
    """As in facebook/bart-large-cnn, whose prefix is a space."""
    path = save_checkpoint(tmp_path, "BartForConditionalGeneration", config={"prefix": " "})
    summarize = pipeline("summarization", path)
    assert summarize.settings.prefix == " "
    plain = TextToTextGeneration(summarize.model, summarize.tokenizer)
    (answer,) = summarize(" ciao", max_new_tokens=5)
    assert plain.settings.prefix == " "  # a loaded model keeps it
    (other,) = plain("  ciao", max_new_tokens=5, prefix="")
    assert answer["summary_text"] == other["generated_text"]


def test_null_in_the_parameters_of_a_task_means_the_default(tmp_path):
    null = {"max_length": 9, "prefix": None, "num_beams": None}
    config = {"task_specific_params": {"summarization": null}}
    path = save_checkpoint(tmp_path, "T5ForConditionalGeneration", config=config)
    settings = pipeline("summarization", path).settings
    assert (settings.prefix, settings.config.max_length, settings.config.num_beams) == ("", 9, 1)


def test_a_prefix_is_not_added_twice(summaries):
    summarize = pipeline("summarization", summaries)
    for ask in (summarize, lambda texts: summarize.stream(texts[0], num_beams=1)):
        with pytest.raises(ValueError, match=r"texts\[0\] begins with the prefix 'come va: '"):
            ask(["come va: ciao"])
        with pytest.raises(ValueError, match=r"texts\[0\] begins with the prefix 'come va: '"):
            ask(["come va:ciao"])
    assert summarize("come va: ciao", prefix="") == summarize("ciao")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_beam": 4}, "config.json: unknown field 'num_beam': did you mean 'num_beams'"),
        ({"num_beam_groups": 2}, "num_beam_groups=2 would change the generated text"),
        ({"num_beams": 0}, "config.json: task_specific_params, summarization: num_beams=0"),
        ({"prefix": 7}, "config.json: the prefix of summarization must be a string, not 7"),
    ],
)
def test_what_is_wrong_in_the_config_is_named(parameters, message, tmp_path):
    config = {"task_specific_params": {"summarization": parameters}}
    path = save_checkpoint(tmp_path, "T5ForConditionalGeneration", config=config)
    with pytest.raises(CheckpointError, match=message):
        pipeline("summarization", path)
    assert pipeline("text2text-generation", path)("ciao", max_new_tokens=2)


def test_pieces_are_streamed(summaries):
    summarize = pipeline("summarization", summaries)
    pieces = list(summarize.stream(TEXTS[0], num_beams=1))
    assert "".join(pieces) == summarize(TEXTS[0], num_beams=1)[0]["summary_text"]
    assert len(pieces) > 2
    with pytest.raises(ValueError, match="num_beams=1"):
        summarize.stream(TEXTS[0])
    with pytest.raises(TypeError, match="unknown GenerationConfig field 'use_cache'"):
        summarize.stream(TEXTS[0], num_beams=1, use_cache=False)
    with pytest.raises(TypeError, match="text.0. must be a str, not list"):
        summarize.stream(TEXTS)


@pytest.mark.slow
def test_a_real_vocabulary(tmp_path):
    path = save_checkpoint(tmp_path, "T5ForConditionalGeneration", tokenizer=real_tokenizer("t5"))
    generate = pipeline("text2text-generation", path)
    texts = ["The cat sleeps.", "Une ville, été comme hiver", "a <extra_id_0> b"]
    for fields in ({}, {"no_repeat_ngram_size": 1}, {"num_beams": 3}):
        ours = generate(texts, max_new_tokens=20, **fields)
        theirs = their_texts(path, texts, max_new_tokens=20, **fields)
        assert [[text] for text in texts_of(ours)] == theirs
    drawn = {"do_sample": True, "top_k": 0, "temperature": 5.0, "max_new_tokens": 30}
    for seed in range(5):
        whole = generate(texts[0], seed=seed, **drawn)[0]["generated_text"]
        assert "".join(generate.stream(texts[0], seed=seed, **drawn)) == whole


def test_a_seed_determines_the_samples(generate):
    drawn = {"max_new_tokens": 8, "do_sample": True}
    first = generate(TEXTS, seed=3, **drawn)
    assert first == generate(TEXTS, seed=3, **drawn)
    assert first != generate(TEXTS, seed=4, **drawn)


@pytest.mark.parametrize(
    ("texts", "fields", "error", "message"),
    [
        ("ciao", {}, ValueError, "number of tokens to generate is not set; pass max_new_tokens"),
        ("ciao", {"max_tokens": 3}, TypeError, "'max_tokens'; did you mean 'max_new_tokens'"),
        ("ciao", {"max_new_tokens": 0}, ValueError, "max_new_tokens=0"),
        (["ciao", " "], {"max_new_tokens": 3}, ValueError, r"texts\[1\] is empty"),
        (["ciao", 3], {"max_new_tokens": 3}, TypeError, r"texts\[1\] must be a str, not int"),
    ],
)
def test_what_is_wrong_is_named(generate, texts, fields, error, message):
    with pytest.raises(error, match=message):
        generate(texts, **fields)


def test_more_than_the_decoder_has_positions_for(tmp_path):
    generate = pipeline("summarization", save_checkpoint(tmp_path, "BartForConditionalGeneration"))
    with pytest.raises(ValueError, match="60 new ones exceed the model's 60 positions"):
        generate("ciao", max_new_tokens=60)


@pytest.mark.parametrize("task", ["summarization", "text2text-generation", "translation"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GPT2LMHeadModel", "this is a GPT2LMHeadModel, which is for text-generation$"),
        (
            "BartForSequenceClassification",
            "which is for text-classification, zero-shot-classification; "
            "BartForConditionalGeneration.from_pretrained.path. loads it and warns",
        ),
        ("BartModel", "this is a BartModel; BartForConditionalGeneration.from_pretrained"),
    ],
)
def test_the_right_task_is_named(task, name, message, tmp_path):
    with pytest.raises(ValueError, match=f"{task} needs a model such as .*{message}"):
        pipeline(task, save_checkpoint(tmp_path, name))


def test_a_tokenizer_of_another_model(generate, tmp_path):
    path = save_checkpoint(tmp_path, "GPT2LMHeadModel")
    with pytest.raises(ValueError, match="they do not belong together"):
        TextToTextGeneration(generate.model, Tokenizer.from_pretrained(path))
    model = T5ForConditionalGeneration(generate.model.config)
    assert TextToTextGeneration(model, generate.tokenizer)("ciao", max_new_tokens=1)


def test_ids_without_a_token_are_no_text(tmp_path):
    """T5 has 28 rows more than its tokenizer has tokens."""
    path = save_checkpoint(tmp_path, "T5ForConditionalGeneration")
    tokenizer = Tokenizer.from_pretrained(path)
    task = pipeline("text2text-generation", path)
    sizes = dataclasses.asdict(task.model.config) | {"vocab_size": tokenizer.vocab_size + 7}
    torch.manual_seed(0)
    larger = T5ForConditionalGeneration(T5Config(**sizes))
    task = TextToTextGeneration(larger, tokenizer)
    only_new = list(range(tokenizer.vocab_size))
    assert task("ciao", max_new_tokens=4, suppress_tokens=only_new) == [{"generated_text": ""}]


def test_a_model_that_is_saved_keeps_the_parameters_of_its_tasks(summaries, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    shutil.copytree(summaries, first)
    before = json.loads((first / "config.json").read_text())
    (first / "config.json").write_text(json.dumps(before | {"prefix": "un libro: "}))
    for source, target in ((first, second), (second, third)):
        T5ForConditionalGeneration.from_pretrained(source).save_pretrained(target)
        Tokenizer.from_pretrained(source).save_pretrained(target)
        saved = json.loads((target / "config.json").read_text())
        assert saved["task_specific_params"] == {"summarization": SUMMARIES}
        assert saved["prefix"] == "un libro: "
    there, here = (pipeline("summarization", path) for path in (first, third))
    assert here.settings == there.settings
    assert here(TEXTS) == there(TEXTS)
    assert pipeline("text2text-generation", third).settings.prefix == "un libro: "
    new = T5ForConditionalGeneration(there.model.config)
    new.save_pretrained(tmp_path / "new")
    assert (
        not {"prefix", "task_specific_params"}
        & json.loads((tmp_path / "new" / "config.json").read_text()).keys()
    )
