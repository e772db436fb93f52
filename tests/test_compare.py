"""What `compare` looks at, in a plain model and in an optimized one, and what it leaves behind."""

from dataclasses import replace
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", reason="parity needs transformers")

from minitransformer.parity import compare, random_batch
from tests.tiny import pair

ENCODER, DECODER = "RobertaForMaskedLM", "T5ForConditionalGeneration"


def optimized_pair(path, error: float = 0.0) -> tuple[Any, Any]:
    """An optimized model, and theirs.

    Args:
        path: for the checkpoint.
        error: added to the logits of ours where neither hidden states nor maps are collected.
    """
    ours, theirs = pair(ENCODER, path, "optimized")
    forward = ours.forward

    def wrong(*inputs: Any, **named: Any) -> Any:
        output = forward(*inputs, **named)
        collects = named.get("output_hidden_states") or named.get("output_attentions")
        return output if collects else replace(output, logits=output.logits + error)

    ours.forward = wrong
    return ours, theirs


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_plain_model_is_compared_module_by_module(attention, tmp_path):
    ours, theirs = pair(ENCODER, tmp_path, attention)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()
    names = [row.name for row in report.rows]
    ordered = [
        "backbone.embeddings.token_embedding",
        "backbone.embeddings.norm",
        "backbone.layers.0.attention.query",
        "backbone.layers.0.feed_forward.up_proj",
        "backbone.layers.2.feed_forward_norm",
        "lm_head.norm",
        "hidden_states[0]",
        "attentions[2]",
        "logits",
        "loss",
        "gradient of lm_head.bias",
    ]
    assert [name for name in names if name in ordered] == ordered


def test_the_first_module_that_differs_is_named(tmp_path):
    ours, theirs = pair(ENCODER, tmp_path)
    with torch.no_grad():
        ours.backbone.layers[1].feed_forward.down_proj.bias[3] += 1e-2
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.first_difference.name == "backbone.layers.1.feed_forward.down_proj"


def test_a_token_embedding_that_runs_twice_is_compared_twice(tmp_path):
    ours, theirs = pair(DECODER, tmp_path)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()
    names = [row.name for row in report.rows]
    source, target = (f"backbone.token_embedding ({which})" for which in ("source", "target"))
    assert names.index(source) < names.index("backbone.encoder.final_norm") < names.index(target)
    with torch.no_grad():  # only of the target
        theirs.decoder.embed_tokens.weight = torch.nn.Parameter(theirs.shared.weight + 1e-2)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.first_difference.name == target


def test_an_optimized_model_is_compared_by_its_results(tmp_path):
    ours, theirs = optimized_pair(tmp_path)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()
    names = {row.name for row in report.rows}
    assert {"hidden_states[3]", "attentions[2]", "logits", "loss"} <= names
    assert {f"gradient of {name}" for name, _ in ours.named_parameters()} <= names
    assert not [name for name in names if "." in name and not name.startswith("gradient of")]


def test_a_bug_in_the_fast_forward_only_is_found(tmp_path):
    ours, theirs = optimized_pair(tmp_path, error=1e-3)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.first_difference.name == "logits"


def test_nan_differs(tmp_path):
    """A comparison with NaN is false, so checking for too large a difference is not enough."""
    ours, theirs = pair(ENCODER, tmp_path)
    with torch.no_grad():
        ours.lm_head.bias[3] = torch.nan
    report = compare(ours, theirs, random_batch(ours, length=7))
    assert report.first_difference.name == "logits"


@pytest.mark.parametrize("name", [ENCODER, DECODER])
def test_no_hook_is_left_behind(name, tmp_path):
    ours, theirs = pair(name, tmp_path)
    compare(ours, theirs, random_batch(ours, length=7))
    assert not any(module._forward_hooks for module in ours.modules())
    hooks = [hook for module in theirs.modules() for hook in module._forward_hooks.values()]
    assert not [hook for hook in hooks if "minitransformer" in hook.__module__]
