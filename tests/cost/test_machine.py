"""Rates of made machines: known rates give the times back, and a file keeps them."""

import pytest

from minitransformer import cost
from minitransformer.cost import machine as module
from minitransformer.cost.machine import ABOUT, KINDS, Kind, Machine, Rate
from minitransformer.fast.measuring import SPEEDUPS


def made_machine(seconds: float = 1e-9, **changes: float) -> Machine:
    """A machine on which a unit of any work takes as long, but for these kinds."""
    names = {name.replace("_", " "): value for name, value in changes.items()}

    def rate(kind: str) -> Rate:
        axes = [[1.0, 1000.0] for _ in KINDS[kind].axes]
        value = names.get(kind, seconds)
        for _ in axes:
            value = [value, value]
        return Rate(axes, value)

    about = dict.fromkeys(ABOUT, 1)
    return Machine({"float32": {kind: rate(kind) for kind in KINDS}}, memory=2**34, about=about)


def test_a_rate_is_interpolated_between_sizes_and_stays_beyond_them():
    rate = Rate([[1, 100], [10, 1000]], [[1.0, 100.0], [1.0, 100.0]])
    assert rate.at((7, 10)) == pytest.approx(1)
    assert rate.at((7, 100)) == pytest.approx(10)  # the middle on a logarithmic scale
    assert rate.at((7, 1000)) == rate.at((7, 10**6)) == pytest.approx(100)
    assert rate.at((0, 1)) == pytest.approx(1)
    assert Rate([], 3.0).at(()) == pytest.approx(3)


def test_known_rates_give_the_time_back():
    shape = cost.AttentionShape(length=128, implementation="eager")
    work = cost.attention(shape)
    products = made_machine(0.0 + 1e-30, batched_matmul=2e-9)
    values = 2 * 12 * 128**2 * 64  # FLOPs of the weights times the values
    assert products.seconds(work) == pytest.approx(2e-9 * values, rel=1e-3)


def test_parts_and_kinds_add_up_to_the_whole():
    work = cost.layer(cost.AttentionShape(length=700, heads=16, batch=16), 512, backward=True)
    machine = made_machine(1e-9, page_faults=1e-8)
    whole = machine.seconds(work)
    assert sum(machine.seconds_by_part(work).values()) == pytest.approx(whole)
    kinds = machine.seconds_by_kind(work)
    assert sum(kinds.values()) == pytest.approx(whole)
    assert list(kinds.values()) == sorted(kinds.values(), reverse=True)
    new = sum(operation.page_fault_bytes for operation in work.operations)
    assert kinds["page faults"] == pytest.approx(1e-8 * new)


def test_calibration_gives_the_rates_of_a_made_clock_back(monkeypatch):
    """Each kind takes a made time for each of its sizes; the median of all passes counts."""

    def make(dtype, first, second):
        seen.update(SPEEDUPS)  # what is compared while calibrating has other threads
        return ("call", first, second), first * second

    seen: dict[str, float] = {}
    kinds = {
        "matmul": Kind(make, [[1, 2], [3, 5, 7]]),
        "view": Kind(lambda dtype: ("view", 100), []),
    }
    monkeypatch.setattr(module, "KINDS", kinds)
    slowness = iter([2] * 7 + [0.5] * 7 + [1] * 7)  # of all calls of a pass, seven
    seconds = {"view": lambda call: 100.0, "call": lambda call: call[1] ** 2 * call[2]}
    monkeypatch.setattr(
        module,
        "_seconds",
        lambda call: next(slowness) * seconds["view" if call == "view" else "call"](call),
    )
    before = dict(SPEEDUPS)
    SPEEDUPS["of the caller's threads"] = 2.0
    machine = cost.calibrate(dtypes=["float32"], passes=3)
    assert SPEEDUPS.pop("of the caller's threads") == 2.0 and before == SPEEDUPS and not seen
    rates = machine.rates["float32"]
    assert rates["matmul"] == Rate([[1, 2], [3, 5, 7]], [[1, 1, 1], [2, 2, 2]])
    assert rates["view"].at(()) == pytest.approx(1)
    assert machine.about["threads"] >= 1 and machine.memory > 2**28


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_every_kind_can_be_measured(kind, dtype):
    """With its smallest sizes; the work of a call is positive."""
    import torch

    sizes = [axis[0] for axis in KINDS[kind].axes]
    with torch.no_grad():
        call, amount = KINDS[kind].make(getattr(torch, dtype), *sizes)
        call()
    assert amount > 0


def test_a_machine_is_kept_in_a_file(tmp_path):
    machine = made_machine()
    machine.save(tmp_path / "machine.json")
    assert Machine.load(tmp_path / "machine.json") == machine


@pytest.mark.parametrize(
    "content", ["[]", "{}", '{"rates": {"float32": {}}, "memory": 1, "about": {}}']
)
def test_another_file_is_one_error(tmp_path, content):
    path = tmp_path / "machine.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="holds no rates of a machine|must be a JSON object"):
        Machine.load(path)
    assert path.read_text() == content


@pytest.mark.parametrize("seconds", [[1.0], [[1.0]], [1.0, -1.0], [1.0, float("nan")], ["a", 1]])
def test_times_that_are_none_are_refused(seconds):
    with pytest.raises(ValueError):
        Rate([[1, 2]], seconds)


def test_a_dtype_that_was_not_measured_is_refused():
    work = cost.attention(cost.AttentionShape(length=8, dtype="bfloat16"))
    with pytest.raises(ValueError, match="dtype='bfloat16' was not measured"):
        made_machine().seconds(work)
