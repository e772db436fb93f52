"""Which modules are replaced, which are left alone and why, and which models are refused."""

import copy
import warnings

import pytest
import torch
from torch import nn

from minitransformer import optimize, report, restore
from minitransformer.fast import dtype_cost, is_optimized
from minitransformer.fast import linear as linear_module
from minitransformer.fast.cuda_graph import _CAPTURED_STEPS
from minitransformer.fast.measuring import SPEEDUPS
from minitransformer.fast.prepacked_linear import _COPIES
from minitransformer.layers.attention import CrossAttention
from tests.tiny import new


@pytest.fixture(autouse=True)
def answers(monkeypatch):
    """One stored measurement; the tests measure nothing."""
    monkeypatch.setattr(linear_module, "_chosen", "default")
    monkeypatch.setattr(dtype_cost, "speedup", lambda name, *_: SPEEDUPS.get(name, 1.0))
    monkeypatch.setattr(dtype_cost, "_WARNED", set())
    before = dict(SPEEDUPS)
    SPEEDUPS.clear()
    SPEEDUPS["another way, torch.float32"] = 1.234
    yield SPEEDUPS
    SPEEDUPS.clear()
    SPEEDUPS.update(before)


class OwnCrossAttention(CrossAttention):
    """A user's subclass of CrossAttention, which is a subclass of MultiHeadAttention."""


def test_a_report_names_the_nearest_class():
    model = new("BartForConditionalGeneration")
    model.backbone.decoder.layers[0].cross_attention.__class__ = OwnCrossAttention
    name = "backbone.decoder.layers.0.cross_attention"
    found = report(optimize(model))
    reason = "a OwnCrossAttention: a subclass of CrossAttention, whose twin would undo its changes"
    assert found.left == {name: reason}
    assert f"left {name}: {reason}" in str(found)


def test_a_report_lists_measurements(answers):
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    found = report(model)
    assert found.replaced == {} and found.library == "default"
    assert found.left["0"] == "a Linear: not optimized yet; call optimize(model)"
    assert found.measured == {"another way, torch.float32": 1.234}
    assert " 1.23 times as fast: another way, torch.float32" in str(found).splitlines()
    found = report(optimize(model))
    assert found.replaced == {"FastLinear": 1, "FastDropout": 1} and found.left == {}
    answers.clear()
    assert found.measured  # what was known then


def test_a_twin_whose_class_was_changed_is_reported_and_not_restored():
    model = optimize(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 2)))
    expected = model(torch.ones(1, 2))
    nn.utils.parametrizations.weight_norm(model[1])
    torch.testing.assert_close(model(torch.ones(1, 2)), expected)
    found = report(model)
    assert found.replaced == {"FastLinear": 1}
    made = type(model[1]).__name__
    assert found.left == {"1": f"a {made}: its class was changed after optimize(model)"}
    message = f"1 is a {made}: the class of its twin was changed after optimize.*undo that first"
    with pytest.raises(ValueError, match=message):
        restore(model)
    assert type(model[0]).__name__ == "FastLinear"  # all or nothing
    nn.utils.parametrize.remove_parametrizations(model[1], "weight")
    assert not is_optimized(restore(model))
    torch.testing.assert_close(model(torch.ones(1, 2)), expected)
    alone = nn.utils.parametrizations.weight_norm(optimize(nn.Linear(2, 2)))
    with pytest.raises(ValueError, match="the model is a Parametrized"):
        restore(alone)


def test_a_model_that_was_parametrized_before_keeps_what_it_was():
    plain = new("BertForMaskedLM")
    nn.utils.parametrizations.weight_norm(plain.backbone.layers[0].feed_forward.up_proj)
    optimized = optimize(copy.deepcopy(plain))
    ids = torch.randint(5, 20, (2, 6))
    mask = torch.tensor([[1] * 6, [1] * 4 + [0] * 2])
    torch.testing.assert_close(optimized(ids, mask).logits, plain(ids, mask).logits)
    (left,) = report(optimized).left.values()
    assert "a subclass of Linear, whose twin would undo its changes" in left
    kinds = [type(module).__name__ for module in restore(optimized).modules()]
    assert kinds == [type(module).__name__ for module in plain.modules()]


def test_restoring_frees_the_copies_of_weights_and_the_captured_step():
    model = optimize(nn.Linear(2, 2))
    _COPIES[model] = _CAPTURED_STEPS[model] = object()
    restore(model)
    assert model not in _COPIES and model not in _CAPTURED_STEPS


def test_a_dtype_that_is_slower_than_float32_is_warned_of_once(answers):
    answers["torch.bfloat16 instead of torch.float32, one row"] = 1.5
    answers["torch.bfloat16 instead of torch.float32, 128 rows"] = 0.25
    answers["torch.float16 instead of torch.float32, 128 rows"] = 0.95
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        optimize(nn.Linear(2, 2))
        optimize(nn.Linear(2, 2, dtype=torch.float16))
        optimize(nn.Linear(2, 2, dtype=torch.bfloat16, device="meta"))
    message = "^torch.bfloat16 takes 4.0 times as long as torch.float32 .*dtype=torch.float32"
    with pytest.warns(UserWarning, match=message) as warned:
        for _ in range(2):
            optimize(nn.Linear(2, 2, dtype=torch.bfloat16))
    assert [one.filename for one in warned] == [__file__]
    assert " 0.25 times as fast: torch.bfloat16 instead" in str(report(nn.Linear(2, 2)))
