"""Pairs of texts: lines are read unchanged, and batches have the right content."""

import numpy as np
import pytest
import torch

from minitransformer import Tokenizer
from tests.tiny import real_data
from train.pairs import PairBatches, TextPair, read_pairs

PAIRS = [("la zia legge", "the aunt reads"), ("ciao", "hello"), ("va a casa oggi", "goes home")] * 3


def write(path, content):
    path = path / "pairs.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_source_and_target_of_every_line(tmp_path):
    path = write(tmp_path, "\ufeffsì, certo.\tyes\r\n\r\n  \n perché  no? \t why\u2028not?\nx\ty")
    assert read_pairs(path) == [
        TextPair("sì, certo.", "yes", 1),
        TextPair("perché  no?", "why\u2028not?", 4),
        TextPair("x", "y", 5),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\nc d\n", "line 2: there is no tab in 'c d'; a line must be a source, a tab"),
        (
            "a\tb\n1\tc\td\n",
            r"line 2: there are 3 fields in '1\\tc\\td'.*--source-column 2 --target-column 3",
        ),
        ("a\tb\n\n \tc\n", "line 3: the source is empty"),
        ("a\tb\nc\t \r\n", "line 2: the target is empty"),
        ("a\tb\n\t\n", "line 2: the source is empty"),
        (b"a\tb\nperch\xe9\tc\n", "line 2 is not UTF-8 .*convert the file: iconv"),
        ("", "contains no pair of texts; a line must be a source, a tab"),
        ("\ufeff\n \r\n", "contains no pair"),
        (
            "Source\tTarget\na\tb\n",
            "line 1: 'Source' and 'Target' look like a header; .*-column Source --",
        ),
        (
            "\n en\tit\na\tb\n",
            "line 2: 'en' and 'it' look like a header; .*-column en --target-column it",
        ),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content, message, tmp_path):
    with pytest.raises(ValueError, match=f"pairs.tsv.*{message}"):
        read_pairs(write(tmp_path, content))


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(ValueError, match="nowhere.tsv cannot be read: No such file"):
        read_pairs(tmp_path / "nowhere.tsv")


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("p.csv", 'id,source,target\n1,"sì, ""certo""",yes\n\n2,"a\nb", c \n', ()),
        ("p.csv", 'it;en;n\n"sì, ""certo""";yes;1\n\n"a\nb";c;2\n', ("it", "en")),
        ("p.jsonl", '{"source": "sì, \\"certo\\"", "target": "yes"}\n\n'
         '{"target": "c", "source": "a\\nb", "n": 1}\n', ()),
        ("p.json", '[{"t": {"it": "sì, \\"certo\\"", "en": "yes"}},\n{}]'.replace(
            "{}", '{"t": {"it": "a\\nb", "en": "c"}}'), ("t.it", "t.en")),
    ],
)  # fmt: skip
def test_tables_have_named_columns(name, content, columns, tmp_path):
    (tmp_path / name).write_text("\ufeff" + content, encoding="utf-8")
    pairs = read_pairs(tmp_path / name, *columns)
    assert [(p.source, p.target) for p in pairs] == [('sì, "certo"', "yes"), ("a\nb", "c")]
    # A row of the array counts as a line.
    assert [p.line_number for p in pairs] == {
        "p.jsonl": [1, 3], "p.json": [1, 2], "p.csv": [2, 4]
    }[name]  # fmt: skip


def test_columns_by_number(tmp_path):
    path = write(tmp_path, "7\tciao\t hello\n8\tsì\tyes\n")
    assert read_pairs(path, "2", "3") == [TextPair("ciao", "hello", 1), TextPair("sì", "yes", 2)]


def test_a_header_of_tabs(tmp_path):
    path = write(tmp_path, "n\tit\ten\r\n1\tciao\t hello\r\n")
    assert read_pairs(path, "it", "en") == [TextPair("ciao", "hello", 2)]


@pytest.mark.parametrize(
    ("name", "content", "columns", "message"),
    [
        ("p.csv", "en,it\na,b\n", (),
         "no column has a usual name; choose one of en, it with --source-column NAME"),
        ("p.csv", "source,targets\na,b\n", (),
         "no column has a usual name; choose one of source, targets with --target-column"),
        ("p.csv", "source,target\na,b,c\n", (), "line 2: there are 3 fields.* in quotes"),
        ("p.csv", "source,target\na,\n", (), "line 2: 'target' is empty"),
        ("p.csv", 'source,target\na,"b" c\n', (), "line 2 is not CSV: .*written twice"),
        ("p.csv", "a,a\n1,2\n", ("a", "b"), "has a name twice: a, a"),
        ("p.csv", "source,target\n", (), "has no row below its header"),
        ("p.csv", "", (), "p.csv has no row$"),
        ("p.tsv", "en\tit\na\tb\n", ("en", "en"), "are both 'en'; choose two"),
        ("p.jsonl", '{"source": "a", "target": "b"}\n{"source": "a"}\n', (),
         "line 2: there is no 'target'; add it"),
        ("p.jsonl", '{"source": "a", "target": 3}\n', (), "line 1: 'target' is 3, not a text"),
        ("p.jsonl", '{"source": "a"\n', (), "line 1 is not a JSON object: .*one object per line"),
        ("p.jsonl", '"a"\n', (), "line 1: 'a' is not a JSON object"),
        ("p.json", "[{]", (), "p.json is not valid JSON"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_table_is_named(name, content, columns, message, tmp_path):
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(tmp_path / name, *columns)


def test_the_real_file_has_a_column_too_many():
    path = real_data("translation/pud-en-it.tsv")
    assert len(read_pairs(path, "2", "3")) == 1000
    with pytest.raises(ValueError, match="line 1: there are 3 fields"):
        read_pairs(path)


# ---- batches -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    file = tmp_path_factory.mktemp("pairs") / "texts.txt"
    file.write_text("".join(f"{source}\n{target}\n" for source, target in PAIRS))
    return Tokenizer.train(file, vocab_size=290, show_progress=False)


def batches_of(tokenizer, pairs=PAIRS, seed=0) -> PairBatches:
    sources = tokenizer([source for source, _ in pairs])
    targets = tokenizer(text_target=[target for _, target in pairs])
    return PairBatches(sources, targets, pad_token_id=1, batch_size=2, seed=seed)


def test_a_batch_is_what_the_model_takes(tokenizer):
    batches = batches_of(tokenizer)
    assert batches.num_batches == 5
    seen = []
    for index in range(5):
        batch = batches.batch(0, index)
        assert batch.keys() == {"input_ids", "attention_mask", "labels"}
        assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
        assert torch.equal(batch["attention_mask"] == 0, batch["input_ids"] == 1)
        for ids, mask, labels in zip(*batch.values(), strict=True):
            kept = labels[labels != -100]
            assert (labels[: len(kept)] != -100).all()
            source, target = ids[mask == 1].tolist(), kept.tolist()
            assert source[-1] == target[-1] == 2
            seen.append(
                tuple(tokenizer.decode(r, skip_special_tokens=True) for r in (source, target))
            )
    assert sorted(seen) == sorted(PAIRS)


def test_pairs_of_like_length_meet(tokenizer):
    batches = batches_of(tokenizer, PAIRS[:2] * 6)
    for index in range(batches.num_batches):
        batch = batches.batch(0, index)
        assert (batch["attention_mask"] == 1).all()
        assert (batch["labels"] != -100).all()


def test_a_batch_is_a_function_of_seed_epoch_and_number(tokenizer):
    def ids(seed, epoch):
        batches = batches_of(tokenizer, seed=seed)
        return [batches.batch(epoch, index)["labels"].tolist() for index in (3, 0, 3)]

    assert ids(0, 0) == ids(0, 0)
    assert ids(0, 0)[0] == ids(0, 0)[2]
    assert any(ids(0, 0) != ids(seed, epoch) for seed, epoch in ((1, 0), (0, 1)))


@pytest.mark.parametrize("side", [0, 1])
def test_other_pairs_have_another_checksum(side, tokenizer):
    other = [list(pair) for pair in PAIRS]
    other[-1][side] = "oggi hello"
    assert batches_of(tokenizer).checksum() == batches_of(tokenizer).checksum()
    assert batches_of(tokenizer).checksum() != batches_of(tokenizer, other).checksum()


def test_no_pairs(tokenizer):
    with pytest.raises(ValueError, match="no examples"):
        batches_of(tokenizer, PAIRS[:0])


def test_lengths_are_those_of_both_sides(tokenizer):
    """A short source with a long target is batched with similar pairs."""
    pairs = [("ciao", "goes home"), ("va a casa oggi", "hello")] * 4
    batches = batches_of(tokenizer, pairs)
    lengths = [len(a) + len(b) for a, b in zip(
        batches.sources["input_ids"], batches.targets, strict=True)]  # fmt: skip
    assert np.array_equal(batches.order.lengths, lengths)
