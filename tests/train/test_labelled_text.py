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


def write(path, content):
    path = path / "texts.tsv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_text_and_label_of_every_line(tmp_path):
    path = write(tmp_path, "\ufeffa good film\t1\r\n\r\n  \nperché  no? \t very bad \nx\ty\tz")
    assert read_labelled_text(path) == [
        LabelledText("a good film", "1", 1),
        LabelledText("perché  no?", "very bad", 4),
        LabelledText("x\ty", "z", 5),  # the label is the last field
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
        ("sentence\tlabel\ngood\t1\n", "line 1: 'sentence' with the label 'label' is a header"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content, message, tmp_path):
    with pytest.raises(ValueError, match=f"texts.tsv.*{message}"):
        read_labelled_text(write(tmp_path, content))


def test_a_file_that_cannot_be_opened(tmp_path):
    with pytest.raises(ValueError, match="nowhere.tsv cannot be read: No such file"):
        read_labelled_text(tmp_path / "nowhere.tsv")
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_labelled_text(tmp_path)


def examples(*labels):
    return [LabelledText("text", label, line) for line, label in enumerate(labels, start=1)]


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
    assert class_names(examples(*labels)) == names


def test_one_class_teaches_nothing():
    with pytest.raises(ValueError, match="every text has the label '1'; training needs at least"):
        class_names(examples("1", "1"))


def test_labels_become_numbers():
    assert class_ids(examples("2", "10", "2"), ["2", "10"], "dev.tsv") == [0, 1, 0]
    with pytest.raises(ValueError, match="dev.tsv, line 2: the label '3' is not one of.*: 2, 10"):
        class_ids(examples("2", "3"), ["2", "10"], "dev.tsv")


@pytest.mark.parametrize(("name", "number"), [("train", 6920), ("dev", 872), ("test", 1821)])
def test_the_real_files(name, number):
    texts = read_labelled_text(real_data(f"sentiment/sst2-{name}.tsv"))
    assert len(texts) == number == texts[-1].line_number
    assert class_names(texts) == ["0", "1"]
