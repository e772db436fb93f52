"""Labelled texts: lines are read unchanged, and errors name what is wrong."""

import pytest

from tests.tiny import real_data
from train.classify import (
    LabelledText,
    class_ids,
    class_names,
    numbered_lines,
    read_labelled_text,
)

HEADER = "line 1: .* looks like a header; delete the"


def write(path, content):
    path = path / "texts.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_and_label_of_every_line(tmp_path):
    path = write(tmp_path, '\ufeffa good film\t1\r\n\r\n  \nperché  no? \t very bad \n"x" y\tz')
    assert read_labelled_text(path) == [
        LabelledText("a good film", "1", 1),
        LabelledText("perché  no?", "very bad", 4),
        LabelledText('"x" y', "z", 5),
    ]


def test_only_a_line_feed_ends_a_line(tmp_path):
    path = write(tmp_path, "a\u2028b\x85c\x0cd\re\t1\nf\t0\n")
    assert [example.text for example in read_labelled_text(path)] == ["a\u2028b\x85c\x0cd\re", "f"]
    assert list(numbered_lines(path)) == [(1, "a\u2028b\x85c\x0cd\re\t1"), (2, "f\t0")]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("good\t1\nbad 0\n", "line 2: there is no tab in 'bad 0'; a line must be a text, a tab"),
        ("good\t1\n\n \t0\n", "line 3: the text before the tab is empty"),
        ("good\t1\nbad\t \r\n", "line 2: the label after the tab is empty"),
        ("good\t1\n\t\n", "line 2: the text before the tab is empty"),
        (b"good\t1\nperch\xe9\t0\n", "line 2 is not UTF-8 .*convert the file: iconv"),
        ("good\t1\n".encode("utf-16"), "line 1 is not UTF-8"),
        ("", "contains no text; a line must be a text, a tab and a label"),
        ("\ufeff\n \r\n", "contains no text"),
        ("good\t1\n0\tbad\t0\n", "line 2: there are 3 columns in .*: cut -f2,3"),
        ("good,1\n", "line 1: there is no tab in 'good,1'.*Convert a CSV file"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content, message, tmp_path):
    with pytest.raises(ValueError, match=f"texts.tsv.*{message}"):
        read_labelled_text(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('"good"\t"1"\n"bad"\t"0"\n', "line 1: the label '\"1\"' is in quotes, .*without quotes"),
        ("good\t1\nbad\ttoxic,insult\n", "line 2: 'toxic,insult' looks like several labels"),
        ("good\t1\nbad\ttoxic; insult\n", "line 2: 'toxic; insult' looks like several labels"),
        ("good\t1\nbad\ta|b\n", "line 2: 'a|b' looks like several labels"),
        ("1\tgood\n0\tbad, bad\n1\tfine\n", "the first column looks like the label.* 2 .* 3;"),
        ("label\ttext\n1\tgood\n0\tbad\n1\tfine\n", "the first column looks like the label"),
        ("good\t1\nfine\t1\n", "every text has the label '1'; training needs at least two"),
        *(
            (f"\ufeff{header}\r\ngood\t1\r\nbad\t0\r\nfine\t1\r\ndull\t0\r\n", HEADER)
            for header in ("text\tlabel", "Text\tLabel", "sentence\tsentiment", "review\tgender")
        ),
        ("text\tlabel\ngood\tyes\nbad\tno\n", HEADER),
    ],
)
def test_labels_that_are_no_classes_are_refused(content, message, tmp_path):
    path = write(tmp_path, content)
    with pytest.raises(ValueError, match=f"texts.tsv.*{message}"):
        class_names(read_labelled_text(path), path)


@pytest.mark.parametrize(
    "content",
    [
        "good\t1\nbad\t0\n",
        "good\t1\nbad\t0\ndull\t0\n",  # two classes, one of them with one text
        "great\tpositive\nso so\tneutral\nawful\tnegative\n",  # every label occurs once
        "gossip\tlabel\nscarf\tlabel\nscore\tmusic\n",  # a class of that name
        "good\t1\nso so\tonce\nbad\t0\nfine\t1\ndull\t0\n",  # not in the first line
    ],
)
def test_a_text_is_no_header(content, tmp_path):
    path = write(tmp_path, content)
    assert 1 < len(class_names(read_labelled_text(path), path)) < 4


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(ValueError, match="nowhere.tsv cannot be read: No such file"):
        read_labelled_text(tmp_path / "nowhere.tsv")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_labelled_text(tmp_path)


def examples(*labels):
    return [LabelledText(f"text {line}", label, line) for line, label in enumerate(labels, start=1)]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["10", "2", "0", "2"], ["0", "2", "10"]),
        (["1", "-1", "+3", "1"], ["-1", "1", "+3"]),
        (["neutral", "bad", "good"], ["bad", "good", "neutral"]),
        (["10", "2", "none"], ["10", "2", "none"]),
        (["1.5", "10"], ["1.5", "10"]),
    ],
)
def test_classes_are_in_order(labels, names):
    assert class_names(examples(*labels), "train.tsv") == names


def test_labels_become_numbers():
    assert class_ids(examples("2", "10", "2"), ["2", "10"], "dev.tsv") == [0, 1, 0]
    with pytest.raises(ValueError, match="dev.tsv, line 2: the label '3' is not one of.*: 2, 10"):
        class_ids(examples("2", "3"), ["2", "10"], "dev.tsv")
    with pytest.raises(ValueError, match="4,9.. more") as error:
        class_ids(examples("x" * 10**5), [f"text {number}" for number in range(5000)], "dev.tsv")
    assert len(str(error.value)) < 600


@pytest.mark.parametrize(("name", "number"), [("train", 6920), ("dev", 872), ("test", 1821)])
def test_the_real_files(name, number):
    path = real_data(f"sentiment/sst2-{name}.tsv")
    texts = read_labelled_text(path)
    assert len(texts) == number == texts[-1].line_number
    assert class_names(texts, path) == ["0", "1"]
