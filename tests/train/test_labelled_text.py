"""Labelled texts: lines are read unchanged, and errors name what is wrong."""

import pytest

from tests.tiny import real_data
from train.classification import SingleLabel, class_names
from train.labelled_text import (
    Columns,
    LabelledText,
    number,
    read_labelled_text,
    read_texts,
    several_names,
)
from train.tables import read_table
from train.text import numbered_lines

HEADER = "line 1: .* looks like a header; name its"


def write(path, content, name="texts.tsv"):
    path = path / name
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
        ("good\t1\n\n \t0\n", "line 3, column 'text': the text is empty"),
        ("good\t1\nbad\t \r\n", "line 2, column 'label': the label is empty"),
        ("good\t1\n\t\n", "line 2, column 'text': the text is empty"),
        (b"good\t1\nperch\xe9\t0\n", "line 2 is not UTF-8 .*convert the file: iconv"),
        ("good\t1\n".encode("utf-16"), "line 1 is not UTF-8"),
        ("", "contains no text; a line must be a text, a tab"),
        ("\ufeff\n \r\n", "contains no text"),
        ("good\t1\n0\tbad\t0\n", "line 2: there are 3 columns in .*--text-column"),
        ("good,1\n", "line 1: there is no tab in 'good,1'.*ends in .csv"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content, message, tmp_path):
    with pytest.raises(ValueError, match=f"texts.tsv.*{message}"):
        read_labelled_text(write(tmp_path, content))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            '"good"\t"1"\n"bad"\t"0"\n',
            "line 1: the label '\"1\"' is in quotes, .*without quotes",
        ),
        (
            "good\t1\nbad\ttoxic,insult\n",
            "line 2: 'toxic,insult' looks like several labels.*--multi-label",
        ),
        (
            "good\t1\nbad\ttoxic; insult\n",
            "line 2: 'toxic; insult' looks like several labels.*--multi-label",
        ),
        ("good\t1\nbad\ta|b\n", "line 2: .*looks like several labels"),
        ("1\tgood\n0\tbad, bad\n1\tfine\n", "the first column looks like the label.* 2 .* 3;"),
        ("good\t1\nfine\t1\n", "every text has the label '1'; training needs at least two"),
        ("\ufeffreview\tgender\r\ngood\t1\r\nbad\t0\r\nfine\t1\r\ndull\t0\r\n", HEADER),
        ("film\tlabel\ngood\tyes\nbad\tno\n", HEADER),
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
    assert SingleLabel(["2", "10"]).targets(examples("2", "10", "2"), "dev.tsv") == [0, 1, 0]
    assert SingleLabel(["no", "yes"]).targets(examples("1", "no"), "dev.tsv") == [1, 0]  # an id
    with pytest.raises(ValueError, match="dev.tsv, line 2: the label '3' is not one of.*: 2, 10"):
        SingleLabel(["2", "10"]).targets(examples("2", "3"), "dev.tsv")
    with pytest.raises(ValueError, match="4,9.. more") as error:
        names = [f"text {number}" for number in range(5000)]
        SingleLabel(names).targets(examples("x" * 10**5), "dev.tsv")
    assert len(str(error.value)) < 650


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.csv", 'id,text,label\n1,"one, ""two""\nthree",good\n2,four,bad\n', {}),
        ("a.csv", '\ufefftext;label\r\n"one, ""two""\nthree";good\r\nfour;bad\r\n', {}),
        ("a.tsv", 'Label\tSentence\ngood\t"one, ""two""\nthree"\nbad\tfour\n', {}),
        ("a.csv", '1,"one, ""two""\nthree",good\n2,four,bad\n', {"text": "2", "label": "3"}),
        ("a.csv", 'a,b,text\n"one, ""two""\nthree",good,x\nfour,bad,x\n',
                  {"text": "a", "label": "b"}),
        ("a.jsonl", '{"text": "one, \\"two\\"\\nthree", "label": "good"}\n\n'
                    '{"label": "bad", "text": "four"}\n', {}),
    ],
)  # fmt: skip
def test_columns_are_found_or_chosen_and_quotes_are_removed(name, content, columns, tmp_path):
    found = read_labelled_text(write(tmp_path, content, name), Columns(**columns))
    texts = [(example.text, example.label) for example in found]
    assert texts == [('one, "two"\nthree', "good"), ("four", "bad")]
    second_line = content[: content.index("four")].count("\n") + 1
    assert found[1].line_number == second_line


def test_quotes_that_are_not_those_of_csv_belong_to_the_text(tmp_path):
    """As in GLUE's files."""
    content = 'sentence\tlabel\n"Quiet," he said\t1\n"yes"\t0\n'
    found = read_labelled_text(write(tmp_path, content))
    assert [example.text for example in found] == ['"Quiet," he said', '"yes"']


@pytest.mark.parametrize(
    ("header", "columns"),
    [
        ("sentence1,sentence2,label", {}),
        ("Premise,Hypothesis,label", {}),
        ("question,sentence,label", {"text": "question", "pair": "sentence"}),
    ],
)
def test_two_texts_a_row(header, columns, tmp_path):
    path = write(tmp_path, f"{header}\none,two,1\n", "pairs.csv")
    assert read_labelled_text(path, Columns(**columns)) == [LabelledText("one", "1", 2, "two")]


@pytest.mark.parametrize(
    ("name", "content", "labels"),
    [
        ("a.tsv", "x\ttoxic, insult\ny\t\nz\tinsult\n", {}),
        ("a.jsonl", '{"text": "x", "labels": ["toxic", "insult"]}\n{"text": "y", "labels": []}\n'
                    '{"text": "z", "labels": ["insult"]}\n', {}),
        ("a.csv", "text,toxic,insult\nx,1,1\ny,0,0.0\nz,false,True\n",
                  {"labels": ("toxic", "insult")}),
    ],
)  # fmt: skip
def test_several_labels(name, content, labels, tmp_path):
    path = write(tmp_path, content, name)
    found = read_labelled_text(path, Columns(**labels), several_names)
    assert [set(example.label) for example in found] == [{"toxic", "insult"}, set(), {"insult"}]
    assert class_names(found, path) == ["insult", "toxic"]


@pytest.mark.parametrize(
    ("name", "content", "columns", "read", "message"),
    [
        ("a.csv", "id,words,y\n1,a,2\n", {}, None,
         "no column has a usual name; choose one of id, words, y with --text-column NAME"),
        ("a.csv", "sentence,review,label\na,b,2\n", {}, None, "several columns could be meant"),
        ("a.csv", "text,label\na,b\n", {"text": "txt"}, None,
         "no column 'txt'; did you mean 'text'.*--text-column"),
        ("a.csv", "text,label\na,b,c\n", {}, None, "line 2: there are 3 fields in .* 2 columns"),
        ("a.csv", 'text,label\na,b\n"c,d\n', {}, None, "line 3 is not CSV: unexpected end"),
        ("a.csv", "text,label\na,\n", {}, None, "line 2, column 'label': the label is empty"),
        ("a.csv", "text,score\na,1\nb,\"1,5\"\n", {}, number,
         "line 3, column 'score': '1,5' is not a number"),
        ("a.csv", "text,score\na,nan\n", {}, number, "line 2, column 'score': 'nan' is not a"),
        ("a.csv", "text,a,b\nx,1,yes\n", {"labels": ("a", "b")}, None,
         "line 2: column 'b' holds 'yes'; it must be 0 or 1"),
        ("a.csv", "text,a,b\nx,1,1\n", {"labels": ("a", "c")}, None, "'c'.*--label-columns"),
        ("a.tsv", "x\t['a', 'b']\n", {}, several_names, "line 1, .* a list as Python prints it"),
        ("a.jsonl", '{"text": "x", "label": ["a"]}\n', {}, None, "line 1, .*--multi-label"),
        ("a.jsonl", '{"text": 3, "label": "a"}\n', {}, None, "line 1, column 'text'.* 3, no"),
        ("a.jsonl", '{"text": "x", "label": null}\n', {}, None, "line 1: there is no 'label'"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{\n', {}, None, "line 2 is not a JSON object"),
        ("a.csv", "text,text\nx,1\n", {}, None, "line 1: the header has a name twice"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_table_is_named(name, content, columns, read, message, tmp_path):
    with pytest.raises(ValueError, match=f"{name}.*{message}") as error:
        read_labelled_text(write(tmp_path, content, name), Columns(**columns), read)
    assert len(str(error.value)) < 600


def test_texts_without_labels(tmp_path):
    for name, content in (("a.txt", "one\ntwo\n"), ("a.csv", "id,text\n1,one\n2,two\n")):
        found = read_texts(write(tmp_path, content, name), Columns())
        assert [(example.text, example.label) for example in found] == [
            ("one", None),
            ("two", None),
        ]
    assert read_table(tmp_path / "a.csv").columns == ["id", "text"]


@pytest.mark.parametrize(("name", "number"), [("train", 6920), ("dev", 872), ("test", 1821)])
def test_the_real_files(name, number):
    path = real_data(f"sentiment/sst2-{name}.tsv")
    texts = read_labelled_text(path)
    assert len(texts) == number == texts[-1].line_number
    assert class_names(texts, path) == ["0", "1"]
