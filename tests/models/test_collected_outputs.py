"""Hidden states and attention maps: made by the code that computes them, in the open.

Nothing of a call stays behind in the model, so calls from several threads do not meet.
"""

import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from minitransformer import generate
from minitransformer.models.base import TaskModel
from minitransformer.parity import random_batch
from tests import tiny
from tests.tiny import CLASSES, assert_equal, every_variant, new

COLLECT = {"output_hidden_states": True, "output_attentions": True}
every_class = pytest.mark.parametrize("name", CLASSES)
# One class for each way of collecting: an encoder, a decoder, and two encoder-decoders.
some_classes = pytest.mark.parametrize(
    "name",
    [
        "RobertaForMaskedLM",
        "DistilBertForSequenceClassification",
        "GPT2LMHeadModel",
        "BartForConditionalGeneration",
        "T5ForConditionalGeneration",
    ],
)


def scores_of(output: Any) -> Tensor:
    """The first thing that a model returns, be it hidden states or logits."""
    for name in ("logits", "start_logits", "last_hidden_state"):
        if hasattr(output, name):
            return getattr(output, name)
    raise AssertionError(output)


def collected(output: Any, kind: str) -> dict[str, tuple[Tensor, ...]]:
    """The tuples that were collected: "hidden_states" or "attentions", of every stack."""
    found = {
        field.name: getattr(output, field.name)
        for field in dataclasses.fields(output)
        if field.name.endswith(kind)
    }
    return {name: tensors for name, tensors in found.items() if tensors is not None}


@every_class
@pytest.mark.parametrize("training", [False, True])
def test_they_are_nodes_of_the_graph(name, training):
    """As in transformers' own test_retain_grad_hidden_states_attentions."""
    model = new(name, "eager", dropout=0.1).train(training)
    output = model(**random_batch(model, length=7), **COLLECT)
    states, maps = collected(output, "hidden_states"), collected(output, "attentions")
    assert states and maps
    first = [tensors[0] for tensors in (*states.values(), *maps.values())]
    for tensor in first:
        tensor.retain_grad()
    scores_of(output).square().sum().backward()
    for tensor in first:
        assert tensor.grad is not None
        assert tensor.grad.isfinite().all()
        assert tensor.grad.any()


@every_class
def test_the_eager_map_is_the_one_that_is_used(name):
    """The gradient of a weight of a map predicts the effect of removing it."""
    model = new(name, "eager")
    batch = random_batch(model, length=7)
    output = model(**batch, **COLLECT)
    maps = collected(output, "attentions")
    last = {field: tensors[-1] for field, tensors in maps.items()}
    gradients = torch.autograd.grad(scores_of(output).sum(), [*last.values()], allow_unused=True)
    for (field, weights), gradient in zip(last.items(), gradients, strict=True):
        assert gradient is not None, field
        assert gradient[weights > 0].any(), field


@every_class
def test_the_map_is_the_one_before_dropout(name):
    """The first layer gets the same input in training, because only weights have dropout."""
    model = new(name, "eager")
    for module in model.modules():
        if type(getattr(module, "dropout", None)) is float:  # an attention's
            module.dropout = 0.5
    batch = random_batch(model, length=7)
    expected = collected(model(**batch, **COLLECT), "attentions")
    trained = model.train()(**batch, **COLLECT)
    found = collected(trained, "attentions")
    assert found.keys() == expected.keys()
    for field in found.keys() - {"cross_attentions"}:  # which reads what was dropped before it
        assert_equal(found[field][0], expected[field][0])
    assert not torch.equal(scores_of(trained), scores_of(model(**batch)))


@every_class
@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
def test_where_none_is_used_it_is_computed_beside_and_equal(name, variant):
    eager, other = new(name, "eager"), new(name, variant)
    batch = random_batch(eager, length=7)
    expected, found = eager(**batch, **COLLECT), other(**batch, **COLLECT)
    for kind in ("hidden_states", "attentions"):
        assert collected(found, kind).keys() == collected(expected, kind).keys()
        assert_equal(collected(found, kind), collected(expected, kind))


@every_class
@every_variant
def test_collecting_changes_no_result(name, variant):
    model = new(name, variant)
    batch = random_batch(model, length=7)
    real = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
    with_maps, without = scores_of(model(**batch, **COLLECT)), scores_of(model(**batch))
    if with_maps.shape[:2] == real.shape:
        with_maps, without = with_maps[real], without[real]
    assert_equal(with_maps, without)


# --- Threads


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["eager", "optimized"])
@some_classes
def test_calls_from_several_threads_do_not_meet(name, variant):
    """80 calls from 4 threads that share a model, every second one collecting."""
    model = new(name, variant)
    batches = [random_batch(model, length=length, seed=length) for length in (4, 5, 6, 7, 9)]

    def call(number: int) -> list[Tensor]:
        collect = COLLECT if number % 2 else {}
        output = model(**batches[number % len(batches)], **collect)
        tensors = [scores_of(output), *torch.autograd.grad(output.loss, first_weight)]
        for kind in ("hidden_states", "attentions"):
            fields = collected(output, kind)
            assert bool(fields) == bool(collect)
            tensors += [tensor for field in fields.values() for tensor in field]
        return tensors

    first_weight = [next(model.parameters())]
    alone = [call(number) for number in range(2 * len(batches))]
    with ThreadPoolExecutor(4) as pool:
        for number, found in enumerate(pool.map(call, range(80))):
            expected = alone[number % len(alone)]
            assert len(found) == len(expected)
            for one, other in zip(found, expected, strict=True):
                torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


# --- What a call leaves behind


def flattened(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Everything that hangs on a model, by its path: attributes, items, numbers of tensors."""
    if isinstance(value, Tensor):
        yield path, (id(value), value._version, value.detach().clone())
        return
    if isinstance(value, str | int | float | bool | type | None | torch.dtype | torch.device):
        yield path, value
        return
    if id(value) in seen:
        return
    seen.add(id(value))
    yield path, (type(value), id(value))
    if isinstance(value, dict):
        yield f"{path}.keys()", [*map(str, value)]
        for key, item in value.items():
            yield from flattened(item, f"{path}[{key!r}]", seen)
    elif isinstance(value, list | tuple | set | frozenset):
        for number, item in enumerate(value):
            yield from flattened(item, f"{path}[{number}]", seen)
    elif hasattr(value, "__dict__") and not callable_of_a_class(value):
        yield from flattened(vars(value), path, seen)


def callable_of_a_class(value: Any) -> bool:
    """Functions and methods, which belong to a class and not to the model."""
    return isinstance(value, Callable) and not isinstance(value, nn.Module)


def state_of(model: nn.Module) -> dict[str, Any]:
    return dict(flattened(model, "model", set()))


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The paths that came, went, or changed."""
    changed = [path for path in before.keys() & after.keys() if not same(before[path], after[path])]
    return sorted([*(before.keys() ^ after.keys()), *changed])


def same(one: Any, other: Any) -> bool:
    if isinstance(one, tuple) and isinstance(one[-1], Tensor):
        return one[:2] == other[:2] and torch.equal(one[2], other[2])
    return one == other


def test_a_change_of_the_model_is_detected():
    model = new("GPT2LMHeadModel")
    before = state_of(model)
    assert differences(before, state_of(model)) == []
    assert len(before) > 300
    model.backbone.layers[1].attention.seen = torch.ones(2)
    assert any("seen" in path for path in differences(before, state_of(model)))
    del model.backbone.layers[1].attention.seen
    assert differences(before, state_of(model)) == []
    with torch.no_grad():
        model.backbone.layers[0].attention.output.bias[1] += 1
    assert differences(before, state_of(model))
    before = state_of(model)
    object.__setattr__(model.generation_config, "max_new_tokens", 9)
    (path,) = differences(before, state_of(model))
    assert path.endswith("['max_new_tokens']")
    before = state_of(model)
    hook = model.backbone.layers[0].register_forward_hook(lambda *_: None)
    assert differences(before, state_of(model))
    hook.remove()


@every_class
@every_variant
def test_a_call_changes_nothing_of_the_model(name, variant):
    model = new(name, variant)
    batch = random_batch(model, length=7)
    before = state_of(model)
    for training in (True, False):
        model.train(training)
        model(**batch, **COLLECT)
        model(**batch)
        if isinstance(model, TaskModel):
            model.loss(**batch)
    with pytest.raises(ValueError, match="vocab_size"):
        model(**batch | {"input_ids": batch["input_ids"] + 99}, **COLLECT)
    assert differences(before, state_of(model)) == []


@pytest.mark.parametrize("name", tiny.LANGUAGE_MODELS)
@every_variant
def test_generating_changes_nothing_of_the_model(name, variant):
    model = new(name, variant)
    ids = tiny.random_sequences(2, 4)
    before = state_of(model)
    generate(model, ids, max_new_tokens=3)
    generate(model, ids, max_new_tokens=3, num_beams=2, num_return_sequences=2)
    generate(model, ids, max_new_tokens=3, do_sample=True, top_k=5, seed=1, use_cache=False)
    assert differences(before, state_of(model)) == []
