"""The benchmark of attention, on layers so small that its clocks mean nothing."""

import csv
import json
import math
import re
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from benchmarks import attention_cost, attention_points, draw, measuring
from benchmarks.arrangements import FullRows, PaddedRows, UnpaddedRows, ragged_lengths
from benchmarks.attention_cost import QUICK_PLAN
from benchmarks.attention_cost_picture import apart
from benchmarks.attention_cost_report import crossings, fits
from benchmarks.attention_formulas import Sizes
from benchmarks.attention_implementations import (
    IMPLEMENTATIONS,
    NO_ATTENTION,
    OURS_SDPA,
    THEIRS_SDPA,
    Built,
    Implementation,
    ours,
)
from benchmarks.attention_points import (
    ATTENTION,
    BOTH,
    FORWARD,
    LAYER,
    Learned,
    Point,
    Setting,
    Timer,
)
from benchmarks.operations import STEPS
from tests.benchmarks.pictures import png_size, texts_in, watch_pictures

pytest.importorskip("transformers", reason="the comparison needs transformers")

SETTING = Setting(Sizes(16, 2, 20), "float32", "cpu", causal=False)
FLASH = "_scaled_dot_product_flash_attention_for_cpu"
PLENTY = 1e6  # seconds, or FLOP/s


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr(measuring, "PRODUCT_ROWS", {"cpu": 32})
    monkeypatch.setattr(attention_points, "SHORTEST_TIME", 0.0)
    plan = replace(
        QUICK_PLAN,
        hidden=16,
        heads=2,
        intermediate=20,
        batch=2,
        tokens=64,
        shortest=8,
        longest=32,
        rounds=2,
    )
    monkeypatch.setattr(attention_cost, "QUICK_PLAN", plan)


def point(part=ATTENTION, passes=FORWARD, length=8):
    return Point("fixed batch", 2, length, part, passes)


def named(rows):
    return {row["implementation"]: row for row in rows}


@pytest.mark.slow
def test_a_whole_run(tmp_path, capsys, monkeypatch):
    measured = iter([3e9, 9e9, 5e9, 4e9, 2e9, 1e9])  # of the lengths, one after the other
    monkeypatch.setattr(attention_cost, "product_rate", lambda *_: next(measured))
    figures = watch_pictures(monkeypatch)
    assert attention_cost.main(["--quick", "--threads", "1", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "52 by FLOPs, 2 h + f" in out
    assert f"ours eager: {STEPS}" in out
    assert "sdpa: efficient: not here: No viable backend" in out

    found = json.loads((tmp_path / "out" / "attention_cost_quick_float32.json").read_text())
    assert found["environment"]["versions"]["torch"] == torch.__version__
    assert found["plan"]["hidden"] == 16
    curves = {
        (sweep, part, passes, implementation.name)
        for sweep in ("fixed batch", "fixed tokens")
        for part in (ATTENTION, LAYER)
        for passes in (FORWARD, BOTH)
        for implementation in IMPLEMENTATIONS
        if implementation.name not in ("sdpa: efficient", "sdpa: cudnn")
        and (part == LAYER or implementation.name != NO_ATTENTION)
    }
    points, fitted = found["points"], found["fits"]
    keys = ("sweep", "part", "passes", "implementation")
    assert {tuple(fit[key] for key in keys) for fit in fitted} == curves
    assert all((fit["from"], fit["to"], fit["points"]) == (8, 32, 3) for fit in fitted)
    assert all(len(fit["local_slopes"]) == 2 for fit in fitted)
    assert len(points) == 3 * len(curves)
    for row in points:
        assert row["tokens"] == (64 if row["sweep"] == "fixed tokens" else 2 * row["length"])
        assert row["milliseconds"]["low"] <= row["milliseconds"]["median"]
        rate, ceiling = row["gigaflops_per_second"], row["ceiling_gigaflops_per_second"]
        assert row["share_of_ceiling"] == pytest.approx(rate / ceiling)
        assert ceiling == 9  # the best of all lengths, for all of them
        if row["implementation"] == THEIRS_SDPA:
            assert row["times_faster"] == {"median": 1.0, "low": 1.0, "high": 1.0}

    with open(tmp_path / "out" / "attention_cost_quick_float32.csv") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == len(points) + 2  # and the kernels that a CPU has not
    first = lines[0]
    assert {"length", "rows", "tokens", "kernel", "reason", "peak_megabytes"} <= first.keys()
    assert {"milliseconds", "milliseconds_low", "milliseconds_high"} <= first.keys()
    assert (first["dtype"], first["causal"], first["hidden"]) == ("float32", "False", "16")
    assert lines[-1]["implementation"] == "sdpa: cudnn"
    assert "No viable backend" in lines[-1]["reason"]
    pictures = [
        tmp_path / "out" / f"attention_cost_quick_float32_{sweep}.png"
        for sweep in ("fixed_batch", "fixed_tokens")
    ]
    assert figures.keys() == {path.name for path in pictures}
    shown = {name: texts_in(figure) for name, figure in figures.items()}
    for path in pictures:
        assert png_size(path) == (1560, 1200)  # thirteen by ten inches of 120 dots
        for name in ("ours optimized", "ours sdpa, padded", "transformers eager"):
            assert sum(text.startswith(f"{name}  T$^") for text in shown[path.name]) == 4
        path.unlink()
    # They can be drawn again from the file alone.
    assert draw.main([str(tmp_path / "out")]) == 0
    assert all(path.exists() for path in pictures)
    assert {name: texts_in(figure) for name, figure in figures.items()} == shown


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_all_give_the_same_and_say_what_ran(causal, dtype):
    setting = replace(SETTING, causal=causal, dtype=dtype)
    implementations, absent = attention_cost.load(setting)
    assert [row["implementation"] for row in absent] == ["sdpa: efficient", "sdpa: cudnn"]
    timer = Timer(setting, implementations, rounds=1)
    for part in (ATTENTION, LAYER):
        for passes in (FORWARD, BOTH):  # it raises where anything differs
            rows = named(timer.time(point(part, passes), PLENTY, PLENTY))
            assert all(not row["reason"] for row in rows.values())
            for name in ("ours eager", "transformers eager", "sdpa: math"):
                assert rows[name]["kernel"] == STEPS
            for name in (OURS_SDPA, "sdpa: flash", THEIRS_SDPA, "ours optimized"):
                assert rows[name]["kernel"] == FLASH
            if part == LAYER:
                assert rows[NO_ATTENTION]["kernel"] == ""
            assert rows["ours optimized"]["tokens"] == rows[OURS_SDPA]["tokens"] == 16
            assert rows["ours optimized"]["gigaflops"] < rows[OURS_SDPA]["gigaflops"]


def changed(weights):
    """Attention that is off by a little, forward; and its gradient by much."""
    built = ours("sdpa", weights)
    return Built(
        lambda *arguments: built.attend(*arguments) * 1.001,
        lambda *arguments: built.layer(*arguments) * 1.001,
        built.parameters,
    )


@pytest.mark.parametrize("passes", [FORWARD, BOTH])
def test_times_of_different_results_are_not_compared(monkeypatch, passes):
    rows = [Implementation("right", partial(ours, "eager")), Implementation("wrong", changed)]
    monkeypatch.setattr(attention_cost, "IMPLEMENTATIONS", rows)
    implementations, _ = attention_cost.load(SETTING)
    message = f"{ATTENTION}, {re.escape(passes)}, length 8: wrong is 1.0e-03 from right"
    with pytest.raises(ValueError, match=message):
        Timer(SETTING, implementations, 1).time(point(passes=passes), PLENTY, PLENTY)


def wrong_gradient(weights):
    """What comes out is right, and so is the first gradient; that of the last is not."""
    built = ours("sdpa", weights)

    def attend(query, key, value, mask):
        return built.attend(query, key, value, mask) + (value - value.detach())

    def layer(hidden, mask):
        last = built.parameters[-1]
        return built.layer(hidden, mask) + (last - last.detach())

    return Built(attend, layer, built.parameters)


def wrong_when_timed(weights):
    """Right only as long as somebody follows its operations."""
    built = ours("sdpa", weights)

    def attend(query, key, value, mask):
        return built.attend(query, key, value, mask) * (1.0 if is_in_torch_dispatch_mode() else 1.1)

    return Built(attend, built.layer, built.parameters)


def test_what_is_timed_is_what_is_compared(monkeypatch):
    rows = [Implementation("right", partial(ours, "eager")), Implementation("x", wrong_when_timed)]
    monkeypatch.setattr(attention_cost, "IMPLEMENTATIONS", rows)
    implementations, _ = attention_cost.load(SETTING)
    with pytest.raises(ValueError, match="length 8: x is 1.0e-01 from right"):
        Timer(SETTING, implementations, 1).time(point(), PLENTY, PLENTY)


@pytest.mark.parametrize("part", [ATTENTION, LAYER])
def test_every_gradient_is_compared(monkeypatch, part):
    rows = [Implementation("right", partial(ours, "eager")), Implementation("off", wrong_gradient)]
    monkeypatch.setattr(attention_cost, "IMPLEMENTATIONS", rows)
    implementations, _ = attention_cost.load(SETTING)
    timer = Timer(SETTING, implementations, 1)
    assert len(timer.time(point(part, FORWARD), PLENTY, PLENTY)) == 2
    with pytest.raises(ValueError, match="length 8: off is .* from right"):
        timer.time(point(part, BOTH), PLENTY, PLENTY)


def test_a_gap_is_a_share_of_what_has_the_same_shape():
    small, large, single = torch.tensor([1e-9, 0]), torch.tensor([0, 2.0]), torch.tensor([0.5])
    others = [small, large, single]
    assert attention_points.largest_gap([2 * small, large, single], others) < 1e-8
    assert attention_points.largest_gap([small, large, 1.5 * single], others) == 0.5
    broken = torch.tensor([math.nan])
    for one, other in ((single, broken), (broken, single)):
        assert math.isnan(attention_points.largest_gap([large, one], [large, other]))


def failing(message, weights):
    def fail(hidden, *_):
        if hidden.shape[1] > 16:
            raise RuntimeError(message)
        return hidden

    return Built(None, fail, [])


def test_out_of_memory_is_a_row(monkeypatch):
    out = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes\nStack"
    rows = [
        Implementation(NO_ATTENTION, partial(failing, "")),
        Implementation("large", partial(failing, out)),
        Implementation("picky", partial(failing, "no such length")),
        Implementation("ours eager", partial(ours, "eager"), fused=False),
    ]
    monkeypatch.setattr(attention_cost, "IMPLEMENTATIONS", rows)
    implementations, _ = attention_cost.load(SETTING)
    found = named(Timer(SETTING, implementations[1:], 1).time(point(LAYER, length=32), 1e9, PLENTY))
    assert found["large"]["reason"].startswith("out of memory: [enforce fail] DefaultCPU")
    assert "Stack" not in found["large"]["reason"]
    assert found["picky"]["reason"] == "cannot run: no such length"
    assert found["ours eager"]["reason"] == ""
    assert "milliseconds" not in found["large"]


def test_what_memory_or_time_will_not_suffice_for_is_not_tried(monkeypatch):
    implementations, _ = attention_cost.load(SETTING)
    tried = []
    try_out = attention_points.try_out
    monkeypatch.setattr(
        attention_points,
        "try_out",
        lambda job, *more: tried.append(job.implementation.name) or try_out(job, *more),
    )
    # 2 rows of 2 heads and 64 * 64 weights of 4 bytes, six times, are 393 kB.
    monkeypatch.setattr(attention_points, "available_memory", lambda device: 200_000)
    timer = Timer(SETTING, implementations, 1)
    rows = named(timer.time(point(length=64), PLENTY, PLENTY))
    refused = ["ours eager", "sdpa: math", "transformers eager"]
    assert [name for name, row in rows.items() if row["reason"]] == refused
    assert rows["ours eager"]["reason"] == "needs some 0.0 GB, 0.0 GB are free"
    assert OURS_SDPA in tried
    assert not set(refused) & set(tried)
    # What is longer is not asked for again; what does not end in time is not begun.
    tried.clear()
    monkeypatch.setattr(attention_points, "available_memory", lambda device: None)
    rows = timer.time(point(length=128), PLENTY, 1e-9)
    assert not {row["implementation"] for row in rows} & set(refused)
    assert all(re.match("would take some .* s, 1e-09 s are left", row["reason"]) for row in rows)
    assert tried == []
    assert timer.time(point(length=256), PLENTY, PLENTY) == []


def test_memory_is_predicted_from_what_the_last_length_took(monkeypatch):
    implementations, _ = attention_cost.load(SETTING)
    eager = [pair for pair in implementations if pair[0].name == "ours eager"]
    monkeypatch.setattr(attention_points, "peak_memory", lambda call, device: 3_000_000)
    timer = Timer(SETTING, eager, rounds=1)
    timer.time(point(length=64), PLENTY, PLENTY)
    (job,) = timer.jobs(point(length=128))
    assert job.kernel == STEPS
    # Nearly four times: the part that does not grow with the square is small.
    assert 3.5 * 3e6 < timer.predict_memory(job, point(length=128)) < 4 * 3e6


def test_what_is_fast_is_not_kept_out_by_what_is_slow():
    implementations, _ = attention_cost.load(SETTING)
    pair = [p for p in implementations if p[0].name in ("ours eager", OURS_SDPA)]
    timer = Timer(SETTING, pair, rounds=1)
    flops = timer.time(point(), PLENTY, PLENTY)[0]["gigaflops"] * 1e9
    # By its pace one takes a second a call, and is called five times; the other half of that.
    timer.learned = {
        ("ours eager", ATTENTION, FORWARD): Learned(1 / flops, 1.0, STEPS),
        (OURS_SDPA, ATTENTION, FORWARD): Learned(0.5 / flops, 1.0, FLASH),
    }
    rows = named(timer.time(point(), PLENTY, 5.0))
    assert rows["ours eager"]["reason"] == "would take some 5 s, 2.5 s are left"
    assert rows[OURS_SDPA]["reason"] == ""


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--device", "tpu"], 2, "'tpu' is unknown; choose cpu or cuda"),
        (["--longest", "4"], 1, "--longest 4 is below --shortest 8"),
        (["--shortest", "4096", "--longest", "9999"], 1, "64 do not fill a row of 4096"),
        (["--tokens", "72"], 1, "--tokens 72 is not a multiple of 32, which is a length"),
        (["--heads", "3"], 1, "--hidden 16 is not a multiple of --heads 3"),
        (["--budget", "0"], 1, "--budget 0.0 must be above 0 minutes"),
        (["--budget", "nan"], 1, "--budget nan must be above 0 minutes"),
        (["--budget", "1e-9"], 1, "not even length 8 can be timed: would take some"),
        (["--lengths", "8"], 2, "unknown option '--lengths'"),
    ],
)
def test_one_clear_error(words, status, message, tmp_path, capsys):
    arguments = ["--quick", "--out", str(tmp_path / "out"), *words]
    if status == 2:
        with pytest.raises(SystemExit):
            attention_cost.main(arguments)
    else:
        assert attention_cost.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_a_length_too_long_for_the_memory(tmp_path, capsys):
    long = str(2**40)
    words = ["--shortest", long, "--longest", long, "--tokens", long, "--quick"]
    assert attention_cost.main([*words, "--out", str(tmp_path / "out")]) == 1
    assert f"not even length {long} can be timed: needs some" in capsys.readouterr().err


def test_rows_of_unequal_length_have_as_many_tokens():
    for batch, length in ((1, 128), (2, 100), (8, 512), (64, 64)):
        lengths = ragged_lengths(batch, length)
        assert sum(lengths) == batch * length
        assert list(lengths) == sorted(lengths)
        assert 0 < lengths[0] <= lengths[-1] <= length
    assert ragged_lengths(1, 128) == (32, 96)
    assert ragged_lengths(2, 80) == (10, 30, 50, 70)


@pytest.mark.parametrize("arrange", [FullRows, PaddedRows, UnpaddedRows])
def test_tokens_that_are_laid_out_can_be_picked_up(arrange):
    arrangement = arrange(2, 9, "cpu")
    tokens = torch.randn(18, 5)
    laid = arrangement.lay(tokens)
    assert laid.shape == (arrangement.rows, arrangement.longest, 5)
    assert torch.equal(arrangement.pick(laid), tokens)


def curve(name, part, cost, lengths=(128, 256, 512, 1024)):
    return [
        {
            "sweep": "fixed batch",
            "part": part,
            "passes": FORWARD,
            "implementation": name,
            "length": length,
            "rows": 1,
            "tokens": length,
            "reason": "",
            "milliseconds": {"median": cost(length)},
        }
        for length in lengths
    ]


def test_fits_and_crossings_of_made_curves():
    refused = curve("ours eager", ATTENTION, lambda length: 0, lengths=[2048])[0]
    del refused["milliseconds"]
    points = [
        *curve(NO_ATTENTION, LAYER, lambda length: 300 * length),
        *curve("ours eager", ATTENTION, lambda length: length**2),
        refused | {"reason": "needs some 9 GB"},
        *curve(OURS_SDPA, ATTENTION, lambda length: length),
        *curve("sdpa: math", ATTENTION, lambda length: 1e6 * length),
        *curve(THEIRS_SDPA, ATTENTION, lambda length: 1.0, lengths=[128, 256]),
    ]
    rest, eager, *_, few = fits(points)
    assert rest["exponent"] == pytest.approx(1)
    assert eager["exponent"] == pytest.approx(2)
    assert (eager["from"], eager["to"]) == (256, 1024)
    assert eager["local_slopes"] == pytest.approx([2, 2, 2])
    assert few["reason"] == "an exponent needs at least 3 points; here are 2"
    where = {row["implementation"]: row for row in crossings(points)}
    assert where["ours eager"]["length"] == pytest.approx(300)
    assert where["ours eager"]["milliseconds"] == pytest.approx(300**2)
    assert where[OURS_SDPA]["reason"] == "beyond 1024"
    assert where["sdpa: math"]["reason"] == "below 128"
    assert THEIRS_SDPA not in where  # the layer without attention is ours


def test_labels_lie_apart():
    assert apart([], 0.1) == []
    assert apart([0.1, 0.5], 0.1) == pytest.approx([0.1, 0.5])
    assert apart([0.5, 0.5, 0.5], 0.1) == pytest.approx([0.4, 0.5, 0.6])
    # The pile of the upper two reaches the lowest, which joins it.
    assert apart([0.4, 0.5, 0.5], 0.2) == pytest.approx([0.2667, 0.4667, 0.6667], abs=1e-3)
