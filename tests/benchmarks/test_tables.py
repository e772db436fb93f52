"""The measured numbers on the pages are those of the files."""

import json

import pytest

from benchmarks import draw, tables

PAGE = """before
<!-- ratios: training, dropout 0.1 -->
what stood here
<!-- ratios end -->
between
<!-- ratios: training -->
<!-- ratios end -->
after
"""


def ratio(case, dtype, against, median, **more):
    spread = {"median": median, "low": median - 0.5, "high": median + 0.25}
    return {"case": case, "dtype": dtype, "against": against, "ratio": spread, **more}


def write(directory, dtype, rows, name="training", **conditions):
    versions = {"torch": "2.13.0", "transformers": "5.23.0"} | conditions.pop("versions", {})
    where = {"device": "a CPU", "threads": 2, "versions": versions} | conditions
    found = {"environment": where, "ratios": rows}
    (directory / f"{name}_{dtype}.json").write_text(json.dumps(found))


def test_a_page_gets_the_numbers_of_its_files_and_keeps_the_rest(tmp_path):
    more = {"target": 3.5, "dropout": 0.1}
    rows = [
        ratio("lines", "float32", "as it comes", 4.0, **more),
        ratio("lines", "float32", "at its best", 2.0, dropout=0.1, target=None),
        ratio("lines", "float32", "as it comes, on the same batches", 9.0, **more),
        ratio("lines", "float32", "as it comes", 7.0, dropout=0.0, target=3.5),
    ]
    write(tmp_path, "float32", rows)
    write(tmp_path, "bfloat16", [ratio("lines", "bfloat16", "as it comes", 5.0, **more)])
    write(tmp_path, "float32", [], name="training_quick", threads=1)  # is no result
    page = tables.renewed(PAGE, tmp_path)
    assert "what stood here" not in page
    assert page.startswith("before\n<!-- ratios: training, dropout 0.1 -->\n| work |")
    assert (
        "| lines | 3.5 | 4.00 (3.50-4.25) | 5.00 (4.50-5.25) |  | 2.00 (1.50-2.25) | not measured |"
        in page
    )
    assert "| lines | 3.5 | 7.00 (6.50-7.25) | not measured |" in page  # without dropout
    assert page.endswith("<!-- ratios end -->\nafter\n")
    assert tables.renewed(page, tmp_path) == page


def test_a_table_of_a_folder(tmp_path):
    for directory, median in ((tmp_path, 4.0), (tmp_path / "elsewhere", 6.0)):
        directory.mkdir(exist_ok=True)
        rows = [ratio("lines", "float32", "as it comes", median, dropout=0.1, target=3.5)]
        write(directory, "float32", rows)
    page = tables.renewed(PAGE.replace("0.1 -->", "0.1, in elsewhere -->"), tmp_path)
    assert "| lines | 3.5 | 6.00 (5.50-6.25) | not measured |" in page


def test_a_table_without_files_is_refused(tmp_path):
    with pytest.raises(ValueError, match="holds no training_"):
        tables.renewed(PAGE, tmp_path)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({"device": "a GPU"}, "device a CPU and a GPU"),
        ({"threads": 1}, "threads 2 and 1"),
        ({"versions": {"torch": "2.14.0"}}, "torch 2.13.0 and 2.14.0"),
        ({"versions": {"transformers": "5.24.0"}}, "transformers 5.23.0 and 5.24.0"),
    ],
)
def test_files_of_different_conditions_do_not_stand_side_by_side(tmp_path, conditions, message):
    write(tmp_path, "float32", [])
    write(tmp_path, "bfloat16", [], **conditions)
    said = f"training_float32.json and training_bfloat16.json were not .*: {message}; measure"
    with pytest.raises(ValueError, match=said):
        tables.renewed(PAGE, tmp_path)
    with pytest.raises(ValueError, match=said):
        draw.DRAW["training"](tmp_path, "training")


@pytest.mark.parametrize("page", tables.PAGES, ids=lambda page: page.parent.name)
def test_the_committed_pages_show_what_the_committed_files_hold(page):
    text = page.read_text(encoding="utf-8")
    assert tables.TABLE.search(text)
    assert tables.renewed(text, tables.RESULTS) == text
