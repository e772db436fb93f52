"""Text to tokens to batches: no character is lost, and every token is predicted once."""

import string

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer import Tokenizer
from tests.tiny import real_data, real_tokenizer
from train.lm_text import (
    TextBatches,
    chunks,
    hold_out_tail,
    read_documents,
    tokenize,
    train_tokenizer,
)

TEXT = (
    "First Citizen:\nBefore we proceed, hear me.\n\n  All:\n\tSpeak, speak!\n\n\nperché no?\n" * 6
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer([TEXT], 290)


def test_the_text_is_read_unchanged(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_bytes("\ufeff  uno \r\n\r\n\tdue\n \n".encode())
    b.write_text("tre", encoding="utf-8")
    assert read_documents([a, b]) == ["  uno \n\n\tdue\n \n", "tre"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "file.txt cannot be read: No such file"),
        (b"", "no text in .*file.txt"),
        (b" \n\n", "no text in .*file.txt"),
        (b"come\n\nperch\xe9", "file.txt, line 3 is not UTF-8.*iconv"),
    ],
)
def test_a_file_without_text_is_named(content, message, tmp_path):
    (tmp_path / "good.txt").write_text("text")
    if content is not None:
        (tmp_path / "file.txt").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_documents([tmp_path / "good.txt", tmp_path / "file.txt"])


@given(
    st.lists(st.text("ab\n", min_size=1, max_size=60).filter(str.strip), min_size=1, max_size=4),
    st.floats(0.05, 0.9),
)
def test_the_tail_is_the_end_of_the_text(documents, share):
    text = "".join(documents)
    length = round(share * len(text))
    try:
        kept, tail = hold_out_tail(documents, share)
    except ValueError:
        return  # one side would be nothing but white space
    assert "".join(kept + tail) == text
    begin = len("".join(kept))
    assert begin <= len(text) - length
    # It begins where a document does, or a line, or, in a line without an end, just in time.
    boundaries = {sum(map(len, documents[:n])) for n in range(len(documents))}
    assert begin in boundaries or text[begin - 1] == "\n" or begin == len(text) - length
    assert all(document in documents for document in kept[:-1] + tail[1:])


def test_the_tail_begins_at_the_nearest_line():
    assert hold_out_tail(["one\ntwo\nthree\nfour\n"], 0.3) == (["one\ntwo\n"], ["three\nfour\n"])
    assert hold_out_tail(["one\n", "two\nthree"], 0.3) == (["one\n", "two\n"], ["three"])
    assert hold_out_tail(["one\n", "two\nthree"], 0.7) == (["one\n"], ["two\nthree"])
    assert hold_out_tail(["abcdefghij"], 0.2) == (["abcdefgh"], ["ij"])


@pytest.mark.parametrize(
    ("documents", "share", "message"),
    [
        (["text"], 0.0, "held_out=0.0 must be a fraction"),
        (["text"], 1.0, "held_out=1.0 must be a fraction"),
        (["text"], float("nan"), "held_out=nan must be a fraction"),
        (["a b"], 0.01, "held_out=0.01 of 3 characters leaves no text.*--dev"),
        (["a\n"], 0.5, "leaves no text to train on, or none to evaluate on"),
    ],
)
def test_a_tail_that_makes_no_sense_is_refused(documents, share, message):
    with pytest.raises(ValueError, match=message):
        hold_out_tail(documents, share)


@pytest.fixture(scope="module")
def of_spaces() -> Tokenizer:
    """A tokenizer with tokens of several white characters."""
    return train_tokenizer(["a      b\n\n\n\n\nc  \n  \n  \n\t\t\td \n \n \n e" * 20], 290)


WORDS = ["a", "b1", "'s", ".", "\x1cé", " ", "\n", "   ", "\n\n\n", " \n \n ", "\t\t", "\r"]


@given(st.lists(st.sampled_from(WORDS), max_size=40).map("".join), st.integers(1, 20))
def test_pieces_have_the_tokens_of_the_whole(of_spaces, text, size):
    parts = list(chunks(text, size))
    assert "".join(parts) == text
    ids = of_spaces(parts)["input_ids"]
    assert [token for part in ids for token in part] == of_spaces(text)["input_ids"]


def test_a_long_text_is_cut():
    parts = list(chunks(TEXT, 50))
    assert len(parts) > 4
    assert max(map(len, parts)) < 50 + 15


def test_a_new_tokenizer_is_arranged_as_gpt2(tokenizer, tmp_path):
    assert tokenizer.vocab_size == len(tokenizer) == 290
    assert tokenizer.special_ids == {289}
    assert tokenizer.eos_token == tokenizer.bos_token == "<|endoftext|>"
    ids = tokenizer(TEXT)["input_ids"]
    assert tokenizer.decode(ids) == TEXT
    assert 289 not in ids
    assert len(ids) < 0.8 * len(TEXT)  # something was learnt
    others = tokenizer(string.printable + "\U0001f600")["input_ids"]
    assert tokenizer.decode(others) == string.printable + "\U0001f600"
    tokenizer.save_pretrained(tmp_path)
    assert Tokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"] == ids


def test_transformers_takes_a_new_tokenizer(tokenizer, tmp_path):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    tokenizer.save_pretrained(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    assert theirs.eos_token_id == 289


def test_a_vocabulary_without_room_for_the_bytes_is_refused():
    with pytest.raises(ValueError, match="vocab_size=256 is too small: the 256 bytes.*257"):
        train_tokenizer([TEXT], 256)
    assert train_tokenizer([TEXT], 257).vocab_size == 257


def test_documents_are_separated_by_end_tokens(tokenizer):
    ids = tokenize([TEXT, "no"], tokenizer)
    assert ids.dtype == np.int32
    assert tokenizer.decode(ids.tolist()) == f"<|endoftext|>{TEXT}<|endoftext|>no"


def test_a_file_may_hold_several_documents(tokenizer):
    ids = tokenize(["uno<|endoftext|>due"], tokenizer).tolist()
    assert [place for place, token in enumerate(ids) if token == 289] == [0, len(ids) - 4]
    assert tokenizer.decode(ids) == "<|endoftext|>uno<|endoftext|>due"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tinyshakespeare", "wikitext-2-raw.valid"])
def test_real_text_has_the_tokens_of_the_whole(name):
    tokenizer = real_tokenizer("gpt2")
    [document] = read_documents([real_data(f"english/{name}.txt")])
    ids = tokenize([document], tokenizer)
    assert ids[1:].tolist() == tokenizer(document)["input_ids"]
    assert max(map(len, chunks(document))) < 21_000


def targets(batches: TextBatches, epoch: int) -> list[tuple[int, int]]:
    """The predicted tokens, each with the one before it, shifted as a model does."""
    pairs = []
    for index in range(batches.num_batches):
        batch = batches.batch(epoch, index)
        ids, labels, present = batch["input_ids"], batch["labels"], batch["attention_mask"]
        assert torch.equal(labels, ids.masked_fill(~present.bool(), -100))
        assert present.sum(dim=1).min() >= 2  # a sequence of one token would predict nothing
        guessed = present[:, 1:].bool()
        pairs += zip(ids[:, :-1][guessed].tolist(), labels[:, 1:][guessed].tolist(), strict=True)
    return pairs


@given(st.integers(2, 60), st.integers(2, 17), st.integers(1, 5))
def test_in_order_every_token_but_the_first_is_predicted_once(length, max_length, batch_size):
    batches = TextBatches(
        np.arange(length, dtype=np.int32),
        max_length=max_length,
        batch_size=batch_size,
        shuffle=False,
    )
    expected = [(token, token + 1) for token in range(length - 1)]
    assert targets(batches, 0) == targets(batches, 1) == expected


@given(st.integers(2, 60), st.integers(2, 17), st.integers(1, 5), st.integers(0, 3))
def test_shuffled_every_token_but_one_is_predicted_once(length, max_length, batch_size, epoch):
    ids = np.arange(length, dtype=np.int32)
    batches = TextBatches(ids, max_length=max_length, batch_size=batch_size, seed=3)
    pairs = targets(batches, epoch)
    ring = {(token, (token + 1) % length) for token in range(length)}
    assert len(pairs) == length - 1 == len(set(pairs))
    assert set(pairs) < ring


def test_order_and_cut_are_a_function_of_seed_and_epoch():
    ids = np.arange(500, dtype=np.int32)

    def sequences(seed: int, epoch: int) -> list[list[int]]:
        batches = TextBatches(ids, max_length=16, batch_size=4, seed=seed)
        return [r for i in range(batches.num_batches) for r in batches.batch(epoch, i)["input_ids"]]

    def first_tokens(seed: int, epoch: int) -> list[int]:
        return [int(ids[0]) for ids in sequences(seed, epoch)]

    assert first_tokens(0, 1) == first_tokens(0, 1)
    for other in (first_tokens(0, 2), first_tokens(1, 1)):
        assert other != first_tokens(0, 1)
        assert {t % 15 for t in other} != {t % 15 for t in first_tokens(0, 1)}
    assert first_tokens(0, 1) != sorted(first_tokens(0, 1))


def test_sequences_are_full_but_the_last():
    batches = TextBatches(
        np.arange(100, dtype=np.int32), max_length=16, batch_size=3, shuffle=False
    )
    shapes = [tuple(batches.batch(0, i)["input_ids"].shape) for i in range(batches.num_batches)]
    assert shapes == [(3, 16), (3, 16), (1, 10)]
    mixed = TextBatches(np.arange(100, dtype=np.int32), max_length=16, batch_size=7, shuffle=False)
    lengths = mixed.batch(0, 0)["attention_mask"].sum(dim=1).tolist()
    assert lengths == [16, 16, 16, 16, 16, 16, 10]


def test_a_sequence_that_predicts_nothing_is_refused():
    with pytest.raises(ValueError, match="max_length=1 must be at least 2"):
        TextBatches(np.arange(9, dtype=np.int32), max_length=1, batch_size=1)


def test_another_text_has_another_checksum():
    settings = {"max_length": 4, "batch_size": 2}
    a, b = (TextBatches(np.array(ids, np.int32), **settings) for ids in ([1, 2, 3], [1, 3, 2]))
    assert a.checksum() != b.checksum()
