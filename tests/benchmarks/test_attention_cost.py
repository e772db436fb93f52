"""The benchmark of attention, on layers so small that its clocks mean nothing."""

import math
import re
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from benchmarks import attention_cost, measuring
from benchmarks.attention_cost import Point, Timer
from benchmarks.attention_sides import (
    IMPLEMENTATIONS,
    NO_ATTENTION,
    OURS_SDPA,
    STEPS,
    THEIRS_SDPA,
    Built,
    Implementation,
    Layout,
    Weights,
    ours,
    ragged_lengths,
)
from benchmarks.formulas import Sizes
from benchmarks.report import ATTENTION, BOTH, FIXED_BATCH, FORWARD, LAYER, UNAVAILABLE
from benchmarks.runs import read

pytest.importorskip("transformers", reason="the comparison needs transformers")

FLASH = "_scaled_dot_product_flash_attention_for_cpu"
NAMES = [implementation.name for implementation in IMPLEMENTATIONS]
SMALL = ["--quick", "--threads", "1", "--hidden", "16", "--heads", "2", "--intermediate", "20"]
SMALL += ["--batch", "2", "--tokens", "64", "--shortest", "8", "--longest", "32", "--rounds", "2"]


@pytest.fixture(autouse=True)
def once(monkeypatch):
    monkeypatch.setattr(attention_cost, "SHORTEST_TIME", 0.0)


@pytest.fixture
def weights(tmp_path):
    return Weights(tmp_path, Sizes(16, 1, 2, 20), False, torch.float32, "cpu")


def timer(weights, names=NAMES):
    implementations, _ = attention_cost.load(weights, names)
    return Timer(weights, implementations, 1, [])


def point(part=ATTENTION, passes=FORWARD, length=8):
    return Point(FIXED_BATCH, 2, length, part, passes)


def named(rows):
    return {row["implementation"]: row for row in rows}


def test_a_whole_run_that_is_resumed(tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    sides = ["ours eager", THEIRS_SDPA, NO_ATTENTION, "ours optimized", "sdpa: cudnn"]
    words = [*SMALL, "--longest", "16", "--implementations", *sides, "--out", str(out)]
    count = iter(range(99))
    take_turns = measuring.take_turns

    def interrupted(*arguments):
        if next(count) == 5:
            raise KeyboardInterrupt
        return take_turns(*arguments)

    monkeypatch.setattr(measuring, "take_turns", interrupted)
    assert attention_cost.main(words) == 130
    assert attention_cost.main([*words, "--resume"]) == 0
    assert next(count) == 1 + 16  # two sweeps of two lengths, two parts and two directions
    printed = capsys.readouterr().out
    assert "52 by FLOPs (2 h + f)" in printed
    assert f"ours eager ran {STEPS}" in printed
    assert "unavailable here: sdpa: cudnn: No viable backend" in printed
    unavailable, *rows = read(out / "attention_cost_quick_float32.csv")
    assert unavailable["sweep"] == UNAVAILABLE
    curves = {
        (sweep, part, passes, name, length)
        for sweep, part, passes, name, length in product(
            ("fixed batch", "fixed tokens"), (ATTENTION, LAYER), (FORWARD, BOTH), sides, (8, 16)
        )
        if name != "sdpa: cudnn" and (part == LAYER or name != NO_ATTENTION)
    }
    keys = ("sweep", "part", "passes", "implementation", "length")
    assert {tuple(row[key] for key in keys) for row in rows} == curves and len(rows) == len(curves)
    for row in rows:
        assert row["tokens"] == (64 if row["sweep"] == "fixed tokens" else 2 * row["length"])
        assert row["milliseconds_low"] <= row["milliseconds"]
        if row["implementation"] == THEIRS_SDPA:
            assert row["times_faster"] == row["times_faster_low"] == 1
    for sweep in ("fixed_batch", "fixed_tokens"):
        assert (out / f"attention_cost_quick_float32_{sweep}.png").exists()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_give_the_same_and_say_what_ran(causal, dtype, weights):
    found = timer(replace(weights, causal=causal, dtype=dtype))
    for part, passes in product((ATTENTION, LAYER), (FORWARD, BOTH)):
        rows = named(found.time(point(part, passes)))  # it raises where anything differs
        assert all(not row["reason"] for row in rows.values())
        for name in ("ours eager", "transformers eager", "sdpa: math"):
            assert rows[name]["kernel"] == STEPS
        for name in (OURS_SDPA, "sdpa: flash", THEIRS_SDPA, "ours optimized"):
            assert rows[name]["kernel"] == FLASH
        assert rows["ours optimized"]["tokens"] == rows[OURS_SDPA]["tokens"] == 16
        assert rows["ours optimized"]["gigaflops"] < rows[OURS_SDPA]["gigaflops"]


def scaled(weights):
    """Attention that is off by a little, forward; and its gradient too."""
    built = ours("sdpa", weights)
    attend, layer = (lambda *a, f=f: f(*a) * 1.001 for f in (built.attend, built.layer))
    return Built(attend, layer, built.parameters, built.mask)


def wrong_gradient(weights):
    """What comes out is right, and so is the first gradient; that of the last is not."""
    built = ours("sdpa", weights)

    def attend(query, key, value, mask):
        return built.attend(query, key, value, mask) + (value - value.detach())

    def layer(hidden, mask):
        last = built.parameters[-1]
        return built.layer(hidden, mask) + (last - last.detach())

    return Built(attend, layer, built.parameters, built.mask)


def wrong_when_timed(weights):
    """Right only as long as its operations are followed."""
    built = ours("sdpa", weights)

    def attend(*arguments):
        return built.attend(*arguments) * (1.0 if is_in_torch_dispatch_mode() else 1.1)

    return Built(attend, built.layer, built.parameters, built.mask)


@pytest.mark.parametrize(
    ("wrong", "part", "passes", "gap"),
    [
        (scaled, ATTENTION, FORWARD, "1.0e-03"),
        (scaled, LAYER, BOTH, "1.0e-03"),
        (wrong_gradient, ATTENTION, BOTH, ""),
        (wrong_gradient, LAYER, BOTH, ""),
        (wrong_when_timed, ATTENTION, FORWARD, "1.0e-01"),
    ],
)
def test_different_results_are_not_compared(wrong, part, passes, gap, weights, monkeypatch):
    sides = [Implementation("right", partial(ours, "eager")), Implementation("wrong", wrong)]
    monkeypatch.setattr(attention_cost, "IMPLEMENTATIONS", sides)
    message = f"{part}, {re.escape(passes)}, length 8: wrong differs by {gap}.* from right"
    with pytest.raises(ValueError, match=message):
        timer(weights, ["right", "wrong"]).time(point(part, passes))


def test_a_gap_is_a_share_of_what_has_the_same_shape():
    small, large, single = torch.tensor([1e-9, 0]), torch.tensor([0, 2.0]), torch.tensor([0.5])
    others = [small, large, single]
    assert attention_cost.largest_gap([2 * small, large, single], others) < 1e-8
    assert attention_cost.largest_gap([small, large, 1.5 * single], others) == 0.5
    broken = torch.tensor([math.nan])
    for one, other in ((single, broken), (broken, single)):
        assert math.isnan(attention_cost.largest_gap([large, one], [large, other]))


def failing(message, weights):
    def fail(hidden, *_):
        if hidden.shape[1] > 16:
            raise RuntimeError(message)
        return hidden

    return Built(None, fail, [], lambda _: None)


def test_out_of_memory_is_a_row(monkeypatch, weights):
    out = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes\nStack"
    sides = [
        Implementation("large", partial(failing, out)),
        Implementation("picky", partial(failing, "no such length")),
        Implementation("ours eager", partial(ours, "eager")),
    ]
    monkeypatch.setattr(attention_cost, "IMPLEMENTATIONS", sides)
    found = named(timer(weights, ["large", "picky", "ours eager"]).time(point(LAYER, length=32)))
    assert found["large"]["reason"].startswith("out of memory: [enforce fail] DefaultCPU")
    assert "Stack" not in found["large"]["reason"]
    assert found["picky"]["reason"] == "cannot run: no such length"
    assert found["ours eager"]["reason"] == ""
    assert "milliseconds" not in found["large"]


def test_what_memory_or_time_will_not_suffice_for_is_not_tried(monkeypatch, weights):
    tried = []
    try_out = attention_cost.try_out
    monkeypatch.setattr(
        attention_cost, "try_out", lambda job, *more: tried.append(job.name) or try_out(job, *more)
    )
    # 2 sequences of 2 heads and 64 * 64 weights of 4 bytes, six times, are 393 kB.
    monkeypatch.setattr(measuring, "available_memory", lambda device: 200_000)
    found = timer(weights)
    found.rows += [point(length=64).what | row for row in found.time(point(length=64))]
    refused = ["ours eager", "sdpa: math", "transformers eager"]
    assert [row["implementation"] for row in found.rows if row["reason"]] == refused
    assert found.rows[0]["reason"] == "needs some 0.0 GB, 0.0 GB are free"
    assert OURS_SDPA in tried and not set(refused) & set(tried)
    # What is longer is not asked for again; what does not end in time is not begun.
    tried.clear()
    monkeypatch.setattr(measuring, "available_memory", lambda device: None)
    rows = found.time(point(length=128), end=0.0)
    assert not {row["implementation"] for row in rows} & set(refused)
    assert all(re.match("would take some .* s, 0 s are left", row["reason"]) for row in rows)
    assert tried == []
    found.rows += [point(length=128).what | row for row in rows]
    assert found.time(point(length=256)) == []


def test_time_is_predicted_from_the_last_length(weights):
    found = timer(weights, ["ours eager"])
    found.rows += [point(length=64).what | row for row in found.time(point(length=64))]
    found.rows[0]["gigaflops_per_second"] = 1e-9  # a FLOP a second
    (job,) = found.jobs(point(length=128))
    assert job.kernel == STEPS
    flops = found.amount(job, point(length=128)).flops
    calls = attention_cost.UNTIMED_CALLS + 1
    assert found.predict_seconds(job, point(length=128), 1e9) == pytest.approx(calls * flops)


def test_what_is_fast_is_not_kept_out_by_what_is_slow(weights, monkeypatch):
    found = timer(weights, ["ours eager", OURS_SDPA])
    jobs = found.jobs(point())
    seconds = {"ours eager": 5.0, OURS_SDPA: 2.5}
    monkeypatch.setattr(found, "predict_seconds", lambda job, *_: seconds[job.name])
    found.refuse(jobs, point(), 1e9, 5.0)
    assert [job.reason for job in jobs] == ["would take some 5 s, 2.5 s are left", ""]


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["--device", "tpu"], 2, "'tpu' is unknown; choose cpu or cuda"),
        (["--longest", "4"], 1, "--longest 4 is below --shortest"),
        (["--shortest", "4096", "--longest", "9999"], 1, "64 do not fill one of the --shortest"),
        (["--tokens", "72"], 1, "--tokens 72 is no multiple of the length 32"),
        (["--heads", "3"], 1, "--hidden 16 is not a multiple of --heads"),
        (["--budget", "0"], 1, "--budget 0.0 must be above 0 minutes"),
        (["--budget", "nan"], 1, "--budget nan must be above 0 minutes"),
        (["--lengths", "8"], 2, "unknown option '--lengths'"),
    ],
)
def test_one_clear_error(words, status, message, tmp_path, capsys):
    arguments = [*SMALL, "--out", str(tmp_path / "out"), *words]
    if status == 2:
        with pytest.raises(SystemExit):
            attention_cost.main(arguments)
    else:
        assert attention_cost.main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_sequences_of_unequal_length_have_as_many_tokens():
    for batch, length in ((1, 128), (2, 100), (8, 512), (64, 64)):
        lengths = ragged_lengths(batch, length)
        assert sum(lengths) == batch * length
        assert list(lengths) == sorted(lengths)
        assert 0 < lengths[0] <= lengths[-1] <= length
    assert ragged_lengths(1, 128) == (32, 96)
    assert ragged_lengths(2, 80) == (10, 30, 50, 70)


@pytest.mark.parametrize(
    ("lengths", "is_unpadded", "shape"),
    [((9, 9), False, (2, 9)), ((4, 5, 9), False, (3, 9)), ((4, 5, 9), True, (1, 18))],
)
def test_tokens_that_are_laid_out_can_be_picked_up(lengths, is_unpadded, shape):
    layout = Layout(lengths, is_unpadded, "cpu")
    tokens = torch.randn(18, 5)
    laid = layout.lay(tokens)
    assert laid.shape == (*shape, 5) and layout.shape == shape
    assert torch.equal(layout.pick(laid), tokens)
