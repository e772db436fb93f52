"""Lines to sequences: nothing is lost, nothing is doubled, what is wrong is named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from minitransformer import Tokenizer
from train.text import read_lines, text_files, tokenize_sequences

TEXT = [
    "ciao, come va?",
    "la ragazza legge un libro e il ragazzo ascolta la radio",
    "tutto bene, grazie.",
    "se avessi saputo",
    "sì",
] * 3


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("\n".join(TEXT), encoding="utf-8")
    return Tokenizer.train(path, vocab_size=300, show_progress=False)


def as_lists(sequences) -> list[list[int]]:
    return [
        sequences.ids[a:b].tolist()
        for a, b in zip(sequences.bounds, sequences.bounds[1:], strict=False)
    ]


def test_lines_are_read_one_by_one_without_blank_ones(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("\ufeff  uno \n\n\tdue\r\n \n", encoding="utf-8")
    b.write_text("tre", encoding="utf-8")
    lines = read_lines([a, b])
    assert next(lines) == "uno"  # before the rest is read
    assert list(lines) == ["due", "tre"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"come\nva\r\nperch\xe9", "line 3 is not UTF-8.*iconv"),
        ("come\n".encode("utf-16"), "line 1 is not UTF-8.*iconv"),
        (b" \n\n", "no text"),
    ],
)
def test_a_file_without_text_is_named(content, message, tmp_path):
    path = tmp_path / "file.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=f"file.txt.*{message}|{message}.*file.txt"):
        list(read_lines([path]))


def test_line_by_line(tokenizer):
    sequences, held_out = tokenize_sequences(TEXT, tokenizer, max_length=40, pack=False)
    assert len(held_out) == 0
    assert [tokenizer.decode(ids, skip_special_tokens=True) for ids in as_lists(sequences)] == TEXT
    assert all(ids[0] == 0 and ids[-1] == 2 for ids in as_lists(sequences))


def test_packed_sequences_are_full(tokenizer):
    sequences, _ = tokenize_sequences(TEXT, tokenizer, max_length=16, pack=True)
    assert set(sequences.lengths[:-1]) == {16}
    text = [token for ids in as_lists(sequences) for token in ids[1:]]
    assert (
        tokenizer.decode([2 if token == 2 else token for token in text]).split("</s>")[:-1] == TEXT
    )


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=20), st.integers(3, 17), st.booleans(),
    st.sampled_from([None, 2, 3]),
)  # fmt: skip
def test_no_token_is_lost_or_doubled(tokenizer, lengths, max_length, pack, held_out_every):
    lines = [("ab " * n).strip() for n in lengths]
    kept, held_out = tokenize_sequences(
        lines, tokenizer, max_length=max_length, pack=pack, held_out_every=held_out_every
    )
    expected = [[], []]
    for number, line in enumerate(lines, start=1):
        held = held_out_every is not None and number % held_out_every == 0
        expected[held] += tokenizer(line, add_special_tokens=False)["input_ids"]
    for sequences, ids in zip((kept, held_out), expected, strict=True):
        assert [t for t in sequences.ids.tolist() if t not in (0, 2)] == ids
        assert (sequences.lengths <= max_length).all()
        assert all(ids[0] == 0 for ids in as_lists(sequences))
        assert all(sequences.starts_word[sequences.bounds[:-1]])
        if len(sequences):  # the first token of the text of a sequence begins a word, cut or not
            assert all(sequences.starts_word[sequences.bounds[:-1] + 1])


def test_words_begin_where_words_begin(tokenizer):
    sequences, _ = tokenize_sequences(["la ragazza"], tokenizer, max_length=40, pack=False)
    tokens = [tokenizer.id_to_token(int(i)) for i in sequences.ids]
    begins = [token for token, start in zip(tokens, sequences.starts_word, strict=True) if start]
    assert len(begins) == 4  # <s>, la, Ġ..., </s>
    assert begins[2].startswith("Ġ")


def test_another_text_changes_the_checksum(tokenizer):
    first, _ = tokenize_sequences(TEXT, tokenizer, max_length=16, pack=True)
    same, _ = tokenize_sequences(TEXT, tokenizer, max_length=16, pack=True)
    other, _ = tokenize_sequences([*TEXT[:-1], "no"], tokenizer, max_length=16, pack=True)
    assert first.checksum() == same.checksum() != other.checksum()


def test_sequences_need_room(tokenizer):
    with pytest.raises(ValueError, match="max_length=2"):
        tokenize_sequences(TEXT, tokenizer, max_length=2, pack=True)
    with pytest.raises(ValueError, match="held_out_every=1"):
        tokenize_sequences(TEXT, tokenizer, max_length=9, pack=True, held_out_every=1)


def test_ids_take_four_bytes_each(tokenizer):
    sequences, _ = tokenize_sequences(TEXT, tokenizer, max_length=16, pack=True)
    assert sequences.ids.dtype == np.int32


def test_a_directory_and_what_is_no_plain_text(tmp_path):
    for name in ("b.txt", "a.txt", "c.md", "more/d.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("ciao")
    names = [path.relative_to(tmp_path).as_posix() for path in text_files([tmp_path])]
    assert names == ["a.txt", "b.txt", "more/d.txt"]
    assert text_files([tmp_path / "c.md"]) == [tmp_path / "c.md"]
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match=r"no \.txt file in the directory .*none; name the files"):
        text_files([tmp_path / "none"])
    with pytest.raises(ValueError, match=r"x.jsonl is a table, .*json.loads.* > .*x.txt"):
        text_files([tmp_path / "x.jsonl"])
