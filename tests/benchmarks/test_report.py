"""The tables and pictures of the committed files, and tables of made rows."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from matplotlib.backend_bases import FigureCanvasBase
from matplotlib.container import ErrorbarContainer

from benchmarks import page, report
from benchmarks.attention_results import (
    ATTENTION,
    FIXED_BATCH,
    FORWARD,
    LAYER,
    crossings,
    errors,
    timed,
)
from benchmarks.comparison import compare, comparison
from benchmarks.report import read_all, renewed
from benchmarks.runs import read, records, write
from tests.benchmarks.conftest import tick_labels
from train.metrics import new_figure

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
    assert {*figures} >= {path.name for path in RESULTS.glob("*.png")}
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
    (speeds,) = drawn["generation.png"].axes
    assert len(error_bars(speeds)) == len(rows)
    assert tick_labels(speeds) == cases_of(rows)
    for file in RESULTS.glob("attention_cost_*.csv"):
        for sweep, points in timed(read(file)).groupby("sweep"):
            points = records(points)
            picture = drawn[f"{file.stem}_{sweep.replace(' ', '_')}.png"]
            panels = [(p, s) for s in (FORWARD, "forward + backward") for p in (ATTENTION, LAYER)]
            for axes, (part, passes) in zip(picture.axes, panels, strict=True):
                names = {
                    row["implementation"]
                    for row in points
                    if row["passes"] == passes
                    and (row["part"] == part or row["implementation"] == "no attention")
                }
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


def test_the_table_of_the_readme(tmp_path, monkeypatch):
    monkeypatch.setattr(report, "LABELS", {"lines": "train on lines", "GPT-2": "write"})
    theirs = {"implementation": "transformers", "batches": "random"} | MACHINE
    train = {"case": "lines", "dropout": 0.1, "dtype": "float32"}
    rows = [
        train | theirs | {"real_tokens_per_second": 1234.5},
        train | theirs | {"batches": "sorted", "real_tokens_per_second": 9.0},
        ratio("lines", "float32", "default", 1.5, implementation="plain"),
        ratio("lines", "float32", "default", 4.0),
        train | theirs | {"dropout": 0.0, "real_tokens_per_second": 9.0},
        train | theirs | {"case": "of no label", "real_tokens_per_second": 9.0},
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
        ],
    )
    page = "a\n<!-- speed: begin -->\nold\n<!-- speed: end -->\nb\n"
    lines = renewed(page, tmp_path).splitlines()
    assert (lines[:2], lines[-2:]) == (page.splitlines()[:2], page.splitlines()[-2:])
    assert lines[2].startswith("a CPU, 2 threads, PyTorch 2.13.0, transformers 5.23.0, float32")
    assert lines[6:-2] == [
        "| train on lines, dropout 0.1 | 1,234 | 1.50 (1.00-1.75) | 4.00 (3.50-4.25) |",
        "| write | 34 | not measured | 2.00 (1.00-3.00) |",
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


def test_the_error_of_predictions():
    rows = pd.DataFrame(
        {
            "part": [ATTENTION] * 4 + [LAYER],
            "milliseconds": [100.0, 100.0, 100.0, float("nan"), 50.0],
            "predicted_milliseconds": [90.0, 120.0, 150.0, 1.0, 50.0],
        }
    )
    first, second = errors(rows)
    assert first == (
        "predicted milliseconds, attention alone: median error 20%, nine in ten below 44%, 3 rows"
    )
    assert second.endswith("median error 0%, nine in ten below 0%, 1 rows")


def run_of(seconds, commit, name="seconds"):
    rows = [
        {"case": case, "dropout": rate, "implementation": side, name: value}
        | {f"{name}_low": 0.5 * value, f"{name}_high": 2 * value, "peak_megabytes": value}
        | {**MACHINE, "commit": commit, "load": 1.0}
        for (case, rate, side), value in seconds.items()
    ]
    return pd.DataFrame(rows)


OLD = {("a", 0.1, "ours"): 8.0, ("a", 0.0, "ours"): 6.0, ("b", 0.1, "theirs"): 1.0}
NEW = {("b", 0.1, "theirs"): 1.0, ("a", 0.1, "ours"): 4.0, ("c", 0.1, "ours"): 9.0}


@pytest.mark.parametrize(("name", "times"), [("seconds", 2.0), ("tokens_per_second", 0.5)])
def test_two_runs_are_compared_row_by_row(name, times):
    new, old = run_of(NEW, "2", name), run_of(OLD, "1", name)
    rows = records(compare(new, old))
    assert [(row["case"], row["dropout"], row["ratio"]) for row in rows] == [
        ("a", 0.1, times),
        ("b", 0.1, 1.0),
    ]
    assert (rows[0]["ratio_low"], rows[0]["ratio_high"]) == (times / 4, times * 4)
    text = comparison("training", new, old)
    assert "in the 2 rows of both" in text and "commit 1, load 1" in text
    assert f"{times:.2f} ({times / 4:.2f}-{times * 4:.2f})" in text
    with pytest.raises(ValueError, match="no row that is the same work"):
        compare(new, run_of({("d", 0.1, "ours"): 1.0}, "1", name))


def test_rows_that_look_alike_are_matched_in_their_order():
    one, two = run_of({("a", 0.1, "ours"): 2.0}, "1"), run_of({("a", 0.1, "ours"): 4.0}, "1")
    both = pd.concat([one, two])
    assert compare(both, both)["ratio"].to_list() == [1.0, 1.0]


def test_a_page_that_needs_no_other_file(tmp_path, capsys):
    for folder, commit in ((tmp_path, "2"), (tmp_path / "old", "1")):
        rows = run_of({("a <b>", 0.1, "plain"): 1.0}, commit).assign(dtype="float32")
        rows = rows.assign(sequences="made up", batches="sorted", padding=0.0, times_default=2.0)
        write(folder / "training_float32.csv", records(rows))
    (tmp_path / "training_bfloat16.unfinished.csv").touch()
    words = [str(tmp_path), "--compare", str(tmp_path / "old")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report, "benchmark_of", lambda _: SimpleNamespace(draw=draw_dot, table=str))
        patch.setattr(page, "benchmark_of", report.benchmark_of)
        assert report.main(words) == 0
        printed = capsys.readouterr().out
        assert report.main([*words[:2], str(tmp_path / "nowhere")]) == 1
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count('src="data:image/png;base64,iVBOR') == 2  # what is drawn, and the comparison
    assert "http" not in text and "a &lt;b&gt;" in text and "<b>" not in text
    assert "<td>commit</td>" in text and "in the 1 rows of both" in text
    assert "in the 1 rows of both" in printed


def draw_dot(directory, stem):
    figure = new_figure()
    figure.savefig(directory / f"{stem}.png")


@pytest.mark.parametrize(
    ("stem", "name"),
    [
        ("attention_cost_quick_float32_causal", "attention_cost"),
        ("training_bfloat16", "training"),
        ("inference_float32", "inference"),
        ("generation", "generation"),
    ],
)
def test_a_file_is_shown_by_the_module_that_measured_it(stem, name):
    module = report.benchmark_of(stem)
    assert module.__name__ == f"benchmarks.{name}"
    assert callable(module.table) and callable(module.draw)
    with pytest.raises(ValueError, match="nonsense_x.csv is of no benchmark"):
        report.benchmark_of("nonsense_x")


def test_a_directory_without_results(tmp_path, capsys):
    assert report.main([str(tmp_path)]) == 1
    assert "holds no CSV files of benchmarks" in capsys.readouterr().err
