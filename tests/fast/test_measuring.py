"""How comparisons are measured, and that they do not depend on or change the caller's settings."""

import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest
import torch

from minitransformer.fast import linear, measuring, prepacked_linear
from minitransformer.fast.measuring import MIN_SPEEDUP, is_faster
from minitransformer.layers.feed_forward import ACTIVATIONS


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    """Measurements of a test are discarded after it."""
    monkeypatch.setattr(measuring, "SPEEDUPS", {})
    return measuring.SPEEDUPS


def test_of_several_rounds_but_the_first_the_least_time_of_each_way_counts(answers, monkeypatch):
    times = {"usual": [1.0, 3.5, 3.0, 4.0], "other": [1.0, 2.5, 8.0, 2.0]}
    monkeypatch.setattr(measuring, "_seconds", lambda way: times[way].pop(0))
    assert is_faster("which?", lambda: ("usual", "other"), rounds=3)
    assert answers == {"which?": 1.5} and times == {"usual": [], "other": []}


@pytest.mark.parametrize("ratio", [0.5, MIN_SPEEDUP - 0.01, MIN_SPEEDUP, 2.0])
def test_a_comparison_is_measured_once(ratio, answers, monkeypatch):
    asked = []
    monkeypatch.setattr(measuring, "_speedup", lambda *_: asked.append(1) or ratio)
    for _ in range(3):
        assert is_faster("which?", lambda: None) == (ratio >= MIN_SPEEDUP)
    assert asked == [1] and answers == {"which?": ratio}


def test_concurrent_threads_measure_once(answers, monkeypatch):
    asked = []

    def slow(*_):
        asked.append(1)
        time.sleep(0.05)  # the other threads call it meanwhile
        return 2.0

    monkeypatch.setattr(measuring, "_speedup", slow)
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: is_faster("which?", lambda: None), range(20)))
    assert asked == [1]


@pytest.mark.parametrize("error", [AttributeError, RuntimeError, TypeError])
def test_a_missing_kernel_is_not_faster(error, answers):
    def absent():
        raise error("no such kernel")

    assert not is_faster("made", absent)
    assert not is_faster("called", lambda: (lambda: None, absent))
    assert answers == {"made": 0.0, "called": 0.0}


def test_a_way_is_timed_by_the_clock(monkeypatch):
    clock = iter([2.0, 5.0])
    monkeypatch.setattr(measuring.time, "perf_counter", lambda: next(clock))
    called = []
    assert measuring._seconds(lambda: called.append(1)) == 3.0 and called == [1]


KINDS = (torch.float32, torch.bfloat16)
ACTIVATION_NAMES = ("gelu", "gelu_new", "relu", None)
QUESTIONS = {
    "while training": (torch.float32, linear._both_products),
    "transposed": (torch.float32, partial(linear._usual_and_transposed, 8)),
    **{
        f"{name}, {dtype}": (
            dtype,
            partial(linear._separate_and_fused, dtype, ACTIVATIONS.get(name), 2),
        )
        for dtype in KINDS
        for name in ACTIVATION_NAMES
    },
    **{
        f"prepacked, {rows}, {dtype}": (
            dtype,
            partial(prepacked_linear._usual_and_prepacked, dtype, rows),
        )
        for dtype in KINDS
        for rows in (1, 8)
    },
}


def skip_without_kernels(dtype):
    if not (linear.onednn_works() and prepacked_linear._kernels_work(dtype)):
        pytest.skip(f"this PyTorch has no kernels of oneDNN for {dtype} here")


@pytest.fixture(params=["float64", "meta", "autocast", "gradients"])
def surroundings(request):
    """Settings that a caller may have when a comparison is measured for the first time."""
    if request.param == "float64":
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        yield
        torch.set_default_dtype(before)
    elif request.param == "meta":
        with torch.device("meta"):
            yield
    elif request.param == "autocast":
        with torch.autocast("cpu", torch.bfloat16):
            yield
    else:
        with torch.enable_grad():
            yield


@pytest.mark.parametrize(("dtype", "make"), QUESTIONS.values(), ids=QUESTIONS)
def test_measuring_and_the_callers_settings_do_not_affect_each_other(
    dtype, make, surroundings, answers, monkeypatch
):
    """Both ways compute the same, in the given dtype, on the CPU."""
    skip_without_kernels(dtype)
    seen = []
    monkeypatch.setattr(measuring, "_seconds", lambda way: seen.append(way()) or 1.0)
    state = torch.get_rng_state()
    before = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    assert not is_faster("which?", make, rounds=1)
    assert answers.pop("which?") == 1.0  # measured, no exception
    # A product of few rows may be transposed, which is another comparison.
    assert answers in ({}, {"products of 8 rows, transposed, torch.float32": 1.0})
    after = torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.get_default_dtype()
    assert before == after and torch.equal(torch.get_rng_state(), state)
    usual, other = seen[-2:]
    if usual is not None:
        torch.testing.assert_close(usual, other, rtol=1e-2, atol=1e-2)
        tensors = usual if isinstance(usual, list) else [usual]
        assert {(tensor.device.type, tensor.dtype) for tensor in tensors} == {("cpu", dtype)}


@pytest.mark.parametrize("dtype", KINDS)
def test_the_kernels_are_tested_whatever_the_caller_has_set(dtype, surroundings):
    skip_without_kernels(dtype)
    assert linear.onednn_works.__wrapped__()
    assert prepacked_linear._kernels_work.__wrapped__(dtype)
    for activation in linear._FUSED:
        assert linear._kernel_works.__wrapped__(dtype, activation)
