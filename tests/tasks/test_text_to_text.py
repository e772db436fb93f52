"""Texts from texts, and summaries: what transformers' generate and decode give, and what is cut."""

import dataclasses
import json
import shutil

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
from tests.tasks.tiny_checkpoints import TEXTS
from tests.tasks.tiny_writers import WRITERS, real_tokenizer, save_writer, their_texts

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


@pytest.fixture(scope="module", params=WRITERS)
def path(request, tmp_path_factory):
    return save_writer(tmp_path_factory.mktemp(request.param), request.param, codes=())


@pytest.fixture(scope="module")
def write(tmp_path_factory) -> TextToTextGeneration:
    directory = tmp_path_factory.mktemp("one")
    return pipeline("text2text-generation", save_writer(directory, "T5ForConditionalGeneration"))


@pytest.fixture(scope="module")
def summaries(tmp_path_factory):
    """A T5 whose config says how to ask for a summary."""
    return save_writer(
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
    write = pipeline("text2text-generation", path)
    ours = write(TEXTS, **fields)
    assert [texts_of(several) for several in ours] == their_texts(path, TEXTS, **fields)
    assert write(TEXTS[0], **fields) == ours[0]


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "MarianMTModel"])
def test_the_checkpoint_says_how_it_is_asked(name, tmp_path):
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
    path = save_writer(tmp_path, name, codes=(), generation=says)
    write = pipeline("text2text-generation", path)
    assert [[text] for text in texts_of(write(TEXTS))] == their_texts(path, TEXTS)
    # What a call says goes before it, and beams may go without what is said of them.
    asked = {"num_beams": 1, "no_repeat_ngram_size": 0}
    ours = write(TEXTS, **asked)
    assert [[text] for text in texts_of(ours)] == their_texts(path, TEXTS, **asked)


def test_one_text_or_many(write):
    one = write(TEXTS[0], max_new_tokens=3)
    many = write(TEXTS, max_new_tokens=3)
    assert one == many[:1]
    assert len(many) == len(TEXTS)
    assert write([], max_new_tokens=3) == []
    assert pipeline("text2text", write.tokenizer.source)(TEXTS, max_new_tokens=3) == many


def test_what_is_computed_together_changes_nothing(path):
    write = pipeline("text2text-generation", path)
    small = TextToTextGeneration(write.model, write.tokenizer, batch_size=2)
    for fields in ({"max_new_tokens": 6}, {"max_length": 9, "min_length": 3, "num_beams": 2}):
        every = write(TEXTS, **fields)
        assert small(TEXTS, **fields) == every
        assert [write(text, **fields)[0] for text in TEXTS] == every


def test_rows_that_end_early_are_not_filled_up_with_words(write):
    """Where the padding token is a word, it would be read as one."""
    long = write(TEXTS, max_new_tokens=9)
    ends = write.tokenizer(long[0]["generated_text"])["input_ids"][1]
    word = write.tokenizer("ragazza")["input_ids"][0]
    texts = write(TEXTS, max_new_tokens=9, eos_token_id=ends, pad_token_id=word)
    alone = [write(text, max_new_tokens=9, eos_token_id=ends)[0] for text in TEXTS]
    assert texts == alone
    assert len({len(answer["generated_text"].split()) for answer in texts}) > 1


def test_what_is_cut_off_is_said(tmp_path):
    path = save_writer(tmp_path, "BartForConditionalGeneration")
    sum_up = pipeline("summarization", path)
    texts = ["ciao", LONG, "un libro", LONG + "bene"]
    tokens = [len(sum_up.tokenizer(text)["input_ids"]) for text in texts]
    with pytest.warns(UserWarning) as said:
        answers = sum_up(texts, max_new_tokens=6)
    assert [str(warning.message) for warning in said] == [
        f"2 of 4 texts had to be truncated to 60 tokens: texts[1] has {tokens[1]}, "
        f"texts[3] has {tokens[3]}"
    ]
    assert said[0].filename == __file__
    cut = sum_up.tokenizer(texts[1], truncation=True, max_length=60)["input_ids"]
    assert cut[-1] == sum_up.tokenizer.eos_token_id
    written = sum_up._write([cut], sum_up.settings.config, None, {"max_new_tokens": 6})
    assert answers[1]["summary_text"] == sum_up.tokenizer.decode(written[0][0], True)
    with pytest.warns(UserWarning, match="texts.0. has") as said:
        list(sum_up.stream(LONG, max_new_tokens=2))
    assert said[0].filename == __file__


@pytest.mark.filterwarnings("error")
def test_t5_reads_texts_of_any_length_unless_its_tokenizer_says_how_long(tmp_path):
    path = save_writer(tmp_path, "T5ForConditionalGeneration")
    write = pipeline("text2text-generation", path)
    write([LONG, "ciao"], max_new_tokens=2)
    write.tokenizer.model_max_length = 30
    with pytest.warns(UserWarning, match="1 of 2 texts had to be truncated to 30 tokens"):
        write([LONG, "ciao"], max_new_tokens=2)


def test_a_summary_is_asked_for_as_the_config_says(summaries):
    sum_up = pipeline("summarization", summaries)
    assert isinstance(sum_up, Summarization)
    answers = sum_up(TEXTS)
    fields = {name: value for name, value in SUMMARIES.items() if name != "prefix"}
    prefixed = [SUMMARIES["prefix"] + text for text in TEXTS]
    assert [[t] for t in texts_of(answers, "summary_text")] == their_texts(
        summaries, prefixed, **fields
    )
    plain = TextToTextGeneration(sum_up.model, sum_up.tokenizer)
    assert texts_of(plain(prefixed, **fields)) == texts_of(answers, "summary_text")
    # A call goes before the config, and greedy search needs nothing of what is said of beams.
    assert texts_of(sum_up(TEXTS, num_beams=1, prefix=""), "summary_text") == texts_of(
        plain(TEXTS, max_length=11, min_length=5, no_repeat_ngram_size=2)
    )
    # Another task has nothing of this.
    with pytest.raises(ValueError, match="how many tokens are to be written"):
        pipeline("text2text-generation", summaries)(TEXTS)


def test_a_prefix_of_all_tasks(tmp_path):
    """As in facebook/bart-large-cnn, whose prefix is a space."""
    path = save_writer(tmp_path, "BartForConditionalGeneration", config={"prefix": " "})
    sum_up = pipeline("summarization", path)
    assert sum_up.settings.prefix == " "
    plain = TextToTextGeneration(sum_up.model, sum_up.tokenizer)
    (answer,) = sum_up(" ciao", max_new_tokens=5)
    assert answer["summary_text"] == plain("  ciao", max_new_tokens=5)[0]["generated_text"]


def test_a_prefix_does_not_stand_twice(summaries):
    sum_up = pipeline("summarization", summaries)
    for ask in (sum_up, lambda texts: sum_up.stream(texts[0], num_beams=1)):
        with pytest.raises(ValueError, match=r"texts\[0\] begins with the prefix 'come va: '"):
            ask(["come va: ciao"])
    assert sum_up("come va: ciao", prefix="") == sum_up("ciao")


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"num_beam": 4}, "config.json: unknown field 'num_beam': did you mean 'num_beams'"),
        ({"num_beam_groups": 2}, "num_beam_groups=2 would change what is written"),
        ({"num_beams": 0}, "config.json: task_specific_params, summarization: num_beams=0"),
        ({"prefix": 7}, "config.json: the prefix of summarization is no text: 7"),
    ],
)
def test_what_is_wrong_in_the_config_is_named(parameters, message, tmp_path):
    config = {"task_specific_params": {"summarization": parameters}}
    path = save_writer(tmp_path, "T5ForConditionalGeneration", config=config)
    with pytest.raises(CheckpointError, match=message):
        pipeline("summarization", path)
    assert pipeline("text2text-generation", path)("ciao", max_new_tokens=2)


def test_pieces_as_they_come(summaries):
    sum_up = pipeline("summarization", summaries)
    pieces = list(sum_up.stream(TEXTS[0], num_beams=1))
    assert "".join(pieces) == sum_up(TEXTS[0], num_beams=1)[0]["summary_text"]
    assert len(pieces) > 2
    with pytest.raises(ValueError, match="num_beams=1"):
        sum_up.stream(TEXTS[0])
    with pytest.raises(TypeError, match="unknown GenerationConfig field 'use_cache'"):
        sum_up.stream(TEXTS[0], num_beams=1, use_cache=False)
    with pytest.raises(TypeError, match="text.0. must be a str, not list"):
        sum_up.stream(TEXTS)


@pytest.mark.slow
def test_a_real_vocabulary(tmp_path):
    path = save_writer(tmp_path, "T5ForConditionalGeneration", tokenizer=real_tokenizer("t5"))
    write = pipeline("text2text-generation", path)
    texts = ["The cat sleeps.", "Une ville, été comme hiver", "a <extra_id_0> b"]
    for fields in ({}, {"no_repeat_ngram_size": 1}, {"num_beams": 3}):
        ours = write(texts, max_new_tokens=20, **fields)
        theirs = their_texts(path, texts, max_new_tokens=20, **fields)
        assert [[text] for text in texts_of(ours)] == theirs
    drawn = {"do_sample": True, "top_k": 0, "temperature": 5.0, "max_new_tokens": 30}
    for seed in range(20):
        whole = write(texts[0], seed=seed, **drawn)[0]["generated_text"]
        assert "".join(write.stream(texts[0], seed=seed, **drawn)) == whole


def test_a_seed_says_what_is_drawn(write):
    drawn = {"max_new_tokens": 8, "do_sample": True}
    first = write(TEXTS, seed=3, **drawn)
    assert first == write(TEXTS, seed=3, **drawn)
    assert first != write(TEXTS, seed=4, **drawn)


@pytest.mark.parametrize(
    ("texts", "fields", "error", "message"),
    [
        ("ciao", {}, ValueError, "how many tokens are to be written[?] Pass max_new_tokens"),
        ("ciao", {"max_tokens": 3}, TypeError, "'max_tokens'; did you mean 'max_new_tokens'"),
        ("ciao", {"max_new_tokens": 0}, ValueError, "max_new_tokens=0"),
        (["ciao", " "], {"max_new_tokens": 3}, ValueError, r"texts\[1\] is empty"),
        (["ciao", 3], {"max_new_tokens": 3}, TypeError, r"texts\[1\] must be a str, not int"),
    ],
)
def test_what_is_wrong_is_named(write, texts, fields, error, message):
    with pytest.raises(error, match=message):
        write(texts, **fields)


def test_more_than_the_decoder_has_positions_for(tmp_path):
    write = pipeline("summarization", save_writer(tmp_path, "BartForConditionalGeneration"))
    with pytest.raises(ValueError, match="60 new ones are more than the 60 that the model has"):
        write("ciao", max_new_tokens=60)


@pytest.mark.parametrize("task", ["summarization", "text2text-generation", "translation"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("GPT2LMHeadModel", "this is a GPT2LMHeadModel, which is for text-generation$"),
        (
            "BartForSequenceClassification",
            "which is for text-classification, zero-shot-classification; "
            "BartForConditionalGeneration.from_pretrained.path. loads it as one",
        ),
        ("BartModel", "this is a BartModel; BartForConditionalGeneration.from_pretrained"),
    ],
)
def test_the_right_task_is_named(task, name, message, tmp_path):
    with pytest.raises(ValueError, match=f"{task} needs a model such as .*{message}"):
        pipeline(task, save_writer(tmp_path, name))


def test_a_tokenizer_of_another_model(write, tmp_path):
    path = save_writer(tmp_path, "GPT2LMHeadModel")
    with pytest.raises(ValueError, match="they do not belong together"):
        TextToTextGeneration(write.model, Tokenizer.from_pretrained(path))
    model = T5ForConditionalGeneration(write.model.config)
    assert TextToTextGeneration(model, write.tokenizer)("ciao", max_new_tokens=1)


def test_words_that_the_tokenizer_does_not_have_are_no_text(tmp_path):
    """T5 has 28 rows more than its tokenizer has tokens."""
    path = save_writer(tmp_path, "T5ForConditionalGeneration")
    tokenizer = Tokenizer.from_pretrained(path)
    task = pipeline("text2text-generation", path)
    sizes = dataclasses.asdict(task.model.config) | {"vocab_size": tokenizer.vocab_size + 7}
    torch.manual_seed(0)
    larger = T5ForConditionalGeneration(T5Config(**sizes))
    task = TextToTextGeneration(larger, tokenizer)
    only_new = list(range(tokenizer.vocab_size))
    assert task("ciao", max_new_tokens=4, suppress_tokens=only_new) == [{"generated_text": ""}]


def test_a_model_that_is_saved_still_knows_how_it_is_to_be_asked(summaries, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    shutil.copytree(summaries, first)
    before = json.loads((first / "config.json").read_text())
    (first / "config.json").write_text(json.dumps(before | {"prefix": "un libro: "}))
    for source, target in ((first, second), (second, third)):
        T5ForConditionalGeneration.from_pretrained(source).save_pretrained(target)
        Tokenizer.from_pretrained(source).save_pretrained(target)
        said = json.loads((target / "config.json").read_text())
        assert said["task_specific_params"] == {"summarization": SUMMARIES}
        assert said["prefix"] == "un libro: "
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
