"""The tables and pictures of the committed files, and tables of made rows."""

import shutil
from pathlib import Path

import pandas as pd
import pytest
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.container import ErrorbarContainer

from benchmarks import report
from benchmarks.report import (
    ATTENTION,
    FIXED_BATCH,
    FORWARD,
    LAYER,
    crossings,
    read_all,
    renewed,
    timed,
)
from benchmarks.runs import read, records, write
from tests.benchmarks.conftest import tick_labels

ROOT = Path(report.__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MACHINE = {"device": "a CPU", "threads": 2, "torch": "2.13.0", "transformers": "5.23.0"}
PAGE = """before
<!-- ratios: training, dropout 0.1 -->
what stood here
<!-- ratios end -->
between
<!-- ratios: training -->
<!-- ratios end -->
after
"""


def error_bars(axes):
    """The dots with quartiles."""
    return [made for made in axes.containers if isinstance(made, ErrorbarContainer)]


def cases_of(rows):
    return list(dict.fromkeys(row["case"] for row in rows))


@pytest.fixture
def drawn(tmp_path, figures, capsys, monkeypatch):
    """What is drawn from a copy of the committed files; the files of the pictures stay empty."""
    monkeypatch.setattr(FigureCanvasBase, "print_figure", lambda _, path, **__: path.touch())
    for file in RESULTS.glob("*.csv"):
        shutil.copy(file, tmp_path)
    assert report.main([str(tmp_path)]) == 0
    assert {*figures} == {path.name for path in RESULTS.glob("*.png")}
    printed = capsys.readouterr().out
    assert all(f"drawn: {name}" in printed for name in ("training", "inference", "generation"))
    return figures


def test_pictures_show_what_the_committed_files_hold(drawn):
    for name in ("training", "inference"):
        rows = records(read_all(RESULTS, name))
        for axes, settings in zip(drawn[f"{name}.png"].axes, ("default", "best"), strict=True):
            dots = [row for row in rows if f"times_{settings}" in row]
            assert len(error_bars(axes)) == len(dots) > 0
            shown = {f"{row[f'times_{settings}']:.2f}" for row in dots}
            assert {text.get_text() for text in axes.texts} == shown
            targets = {row[f"{settings}_target"] for row in rows if f"{settings}_target" in row}
            lines = [line for line in axes.lines if line.get_color() == "tab:red"]
            assert {line.get_xdata()[0] for line in lines if len(line.get_xdata())} == targets
            assert f"{settings} settings" in axes.get_title()
            assert max(targets, default=0) < axes.get_xlim()[1]
        assert tick_labels(drawn[f"{name}.png"].axes[0]) == cases_of(rows)
    rows = records(read_all(RESULTS, "generation"))
    speeds, curves = drawn["generation.png"].axes
    texts = [row for row in rows if "context" not in row]
    assert len(error_bars(speeds)) == len(texts)
    assert tick_labels(speeds) == cases_of(texts)
    sides = {(row["implementation"], row["dtype"]) for row in rows if "context" in row}
    assert {t.get_text() for t in curves.get_legend().get_texts()} == {" ".join(s) for s in sides}
    for file in RESULTS.glob("attention_cost_*.csv"):
        for sweep, points in timed(read(file)).groupby("sweep"):
            points = records(points)
            picture = drawn[f"{file.stem}_{sweep.replace(' ', '_')}.png"]
            panels = [(p, s) for s in (FORWARD, "forward + backward") for p in (ATTENTION, LAYER)]
            for axes, (part, passes) in zip(picture.axes, panels, strict=True):
                # One of PyTorch's kernels is what ours runs anyway, and is not drawn twice.
                names = {
                    row["implementation"]
                    for row in points
                    if row["passes"] == passes
                    and (row["part"] == part or row["implementation"] == "no attention")
                } - {"sdpa: flash"}
                assert len([line for line in axes.lines if len(line.get_xdata()) > 2]) == len(names)
                legend = axes.get_legend().get_texts()
                labels = {text.get_text().split("  T$")[0] for text in legend}
                assert names - {"no attention"} <= labels


@pytest.mark.parametrize("page", ["README.md", "benchmarks/results/README.md"])
def test_the_committed_pages_show_what_the_committed_files_hold(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    directory = RESULTS if page.startswith("benchmarks") else RESULTS / "speed"
    if directory.exists():
        assert renewed(text, directory) == text


def ratio(case, dtype, settings, median, dropout=0.1, **more):
    spread = {f"times_{settings}": median, f"times_{settings}_low": median - 0.5}
    spread |= {f"times_{settings}_high": median + 0.25}
    row = {"case": case, "dtype": dtype, "dropout": dropout, "implementation": "optimized"}
    return row | {"batches": "sorted"} | spread | MACHINE | more


def test_a_page_gets_the_numbers_of_its_files_and_keeps_the_rest(tmp_path):
    rows = [
        ratio("lines", "float32", "default", 4.0, default_target=3.5),
        ratio("lines", "float32", "best", 2.0),
        ratio("lines", "float32", "best", 9.0, implementation="plain"),
        ratio("lines", "float32", "default", 7.0, dropout=0, default_target=3.5),
    ]
    write(tmp_path / "training_float32.csv", rows)
    write(tmp_path / "training_bfloat16.csv", [ratio("lines", "bfloat16", "default", 5.0)])
    page = renewed(PAGE, tmp_path)
    assert "what stood here" not in page
    assert page.startswith("before\n<!-- ratios: training, dropout 0.1 -->\n| work |")
    assert (
        "| lines | 3.5 | 4.00 (3.50-4.25) | 5.00 (4.50-5.25) |  | 2.00 (1.50-2.25) | not measured |"
        in page
    )
    assert "| lines | 3.5 | 7.00 (6.50-7.25) | not measured |" in page  # without dropout
    assert page.endswith("<!-- ratios end -->\nafter\n")
    assert renewed(page, tmp_path) == page
    write(tmp_path / "elsewhere" / "training_float32.csv", [ratio("x", "float32", "default", 6.0)])
    page = renewed(PAGE.replace("0.1 -->", "0.1, in elsewhere -->"), tmp_path)
    assert "| x |  | 6.00 (5.50-6.25) | not measured |" in page
    with pytest.raises(ValueError, match="no `<!-- speed: begin -->`"):
        renewed("a page", tmp_path)
    with pytest.raises(ValueError, match="holds no training.*csv; python -m benchmarks.training"):
        renewed(PAGE, tmp_path / "nowhere")


def test_the_table_of_the_readme(tmp_path):
    theirs = {"implementation": "transformers", "batches": "random"} | MACHINE
    train = {"case": "lines", "dropout": 0.1, "dtype": "float32"}
    rows = [
        train | theirs | {"real_tokens_per_second": 1234.5},
        train | theirs | {"batches": "sorted", "real_tokens_per_second": 9.0},
        ratio("lines", "float32", "default", 1.5, implementation="plain"),
        ratio("lines", "float32", "default", 4.0),
    ]
    write(tmp_path / "training_float32.csv", rows)
    write(tmp_path / "training_bfloat16.csv", [train | theirs | {"dtype": "bfloat16"}])
    del theirs["batches"]
    text = {"case": "GPT-2", "dtype": "float32", "tokens_per_second": 34.4, **MACHINE}
    times = {"times_faster": 2.0, "times_faster_low": 1.0, "times_faster_high": 3.0}
    write(
        tmp_path / "generation.csv",
        [
            text | theirs | dict.fromkeys(times, 1.0),
            text | times | {"implementation": "optimized"},
            text | times | {"implementation": "optimized", "dtype": "bfloat16", "times_faster": 9},
            text | theirs | {"case": "growing", "context": 2.0},
        ],
    )
    page = "a\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nb\n"
    lines = renewed(page, tmp_path).splitlines()
    assert (lines[:2], lines[-2:]) == (page.splitlines()[:2], page.splitlines()[-2:])
    assert lines[2].startswith("a CPU, 2 threads, PyTorch 2.13.0, transformers 5.23.0, float32")
    assert lines[6:-2] == [
        "| lines, dropout 0.1 | 1,234 | 1.50 (1.00-1.75) | 4.00 (3.50-4.25) |",
        "| GPT-2 | 34 | not measured | 2.00 (1.00-3.00) |",
    ]
    write(tmp_path / "inference_float32.csv", [train | theirs | {"device": "another"}])
    with pytest.raises(ValueError, match="not measured under the same conditions"):
        renewed(page, tmp_path)
    with pytest.raises(ValueError, match="holds no training"):
        renewed(page, tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("device", "a GPU", "device a CPU and a GPU"),
        ("threads", 1, "threads 2 and 1"),
        ("torch", "2.14.0", "torch 2.13.0 and 2.14.0"),
        ("transformers", "5.24.0", "transformers 5.23.0 and 5.24.0"),
    ],
)
def test_rows_of_different_conditions_do_not_stand_side_by_side(tmp_path, name, value, message):
    write(tmp_path / "training_float32.csv", [ratio("a", "float32", "best", 1.0)])
    other = ratio("a", "bfloat16", "best", 1.0) | {name: value}
    write(tmp_path / "training_bfloat16.csv", [other])
    with pytest.raises(ValueError, match=f"training_bfloat16.csv were not .*: {message}; measure"):
        renewed(PAGE, tmp_path)


def curve(name, part, cost, lengths=(128, 256, 512, 1024)):
    what = {"sweep": FIXED_BATCH, "part": part, "passes": FORWARD, "implementation": name}
    return [
        what | {"length": length, "rows": 1, "tokens": length, "milliseconds": cost(length)}
        for length in lengths
    ]


def test_crossings_of_made_curves():
    refused = curve("ours eager", ATTENTION, lambda length: 0, lengths=[2048])[0]
    del refused["milliseconds"]
    eager = curve("ours eager", ATTENTION, lambda length: length**2)
    few = curve("transformers sdpa", ATTENTION, lambda length: 1.0, lengths=[128, 256])
    rows = [
        *curve("no attention", LAYER, lambda length: 300 * length),
        *eager,
        refused | {"reason": "needs some 9 GB"},
        *curve("ours sdpa", ATTENTION, lambda length: length),
        *curve("sdpa: math", ATTENTION, lambda length: 1e6 * length),
        *few,
    ]
    where = {row["implementation"]: row for row in crossings(pd.DataFrame(rows))}
    assert where["ours eager"]["length"] == pytest.approx(300)
    assert where["ours eager"]["milliseconds"] == pytest.approx(300**2)
    assert where["ours sdpa"]["where"] == "beyond 1024"
    assert where["sdpa: math"]["where"] == "below 128"
    assert "transformers sdpa" not in where  # the layer without attention is ours


def test_a_directory_without_results(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert "holds no CSV files of benchmarks" in capsys.readouterr().err
