"""The plain models through PyTorch's compiler and exporters: one program for all sizes and masks.

docs/pytorch_tools.md has the line to type for each.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.fx import GraphModule

from minitransformer.parity import Batch
from tests.models.test_pytorch_tools import (
    batch_for,
    every_class,
    loss_of,
    small,
    tensors_of,
)
from tests.tiny import CLASSES, HEADS, assert_equal, gradients

DYNAMIC = torch.export.Dim.DYNAMIC
# Classes of which every part is also in one of the others: BERT's heads over another backbone, and
# backbones that are also under a head.
INHERITED = [f"{family}{head}" for family in ("Roberta", "DistilBert") for head in HEADS[:3]]
INHERITED += [f"{family}ForTokenClassification" for family in ("Roberta", "DistilBert")]
INHERITED += ["BertModel", "GPT2Model", "BartModel", "MarianModel", "T5Model"]
OWN = [name for name in CLASSES if name not in INHERITED]
every_class_slowly = pytest.mark.parametrize(
    "name", [*OWN, *(pytest.param(name, marks=pytest.mark.slow) for name in INHERITED)]
)


@pytest.fixture(autouse=True)
def fresh_compiler():
    """What one test compiled is not another's."""
    torch.compiler.reset()


class Counting:
    """A backend of torch.compile that runs the graph as it is, and counts graphs."""

    def __init__(self) -> None:
        self.graphs = 0

    def __call__(self, graph: GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.graphs += 1
        return graph.forward


def cut(batch: Batch, sequences: int) -> Batch:
    """The last sequences of a batch."""
    return {field: values[-sequences:] for field, values in batch.items()}


# --- torch.compile


@every_class_slowly
def test_one_graph_serves_every_length(name):
    model, backend = small(name), Counting()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    # In the first batch no two sizes are equal: PyTorch would take them for one.
    for length in (7, 5, 9, 6, 11, 8):
        batch = batch_for(model, length, labels=True)
        assert_equal(tensors_of(compiled(**batch)), tensors_of(model(**batch)))
    assert backend.graphs == 1


@pytest.mark.parametrize("name", OWN)
def test_so_does_one_without_a_mask(name):
    model, backend = small(name), Counting()
    compiled = torch.compile(model, backend=backend, fullgraph=True, dynamic=True)
    for length in (6, 9):
        batch = batch_for(model, length, masks=False)
        assert_equal(tensors_of(compiled(**batch)), tensors_of(model(**batch)))
    assert backend.graphs == 1


@pytest.mark.parametrize("name", ["RobertaForSequenceClassification", "T5ForConditionalGeneration"])
def test_by_default_the_second_length_is_compiled_for_all_that_follow(name):
    """The first graph is for the first length only."""
    model, backend = small(name), Counting()
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    graphs = []
    for length in (5, 5, 7, 9, 6):
        batch = batch_for(model, length, seed=len(graphs))
        assert_equal(tensors_of(compiled(**batch)), tensors_of(model(**batch)))
        graphs.append(backend.graphs)
    assert graphs == [1, 1, 2, 2, 2]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "backend"),
    [
        ("BertForSequenceClassification", "inductor"),
        ("GPT2LMHeadModel", "inductor"),
        ("T5ForConditionalGeneration", "aot_eager"),
    ],
)
def test_a_compiled_model_can_be_trained(name, backend):
    model = small(name).train()
    batch = batch_for(model, labels=True)
    compiled = torch.compile(model, backend=backend, fullgraph=True)
    expected = gradients(model, loss_of(model(**batch)))
    assert_equal(gradients(model, loss_of(compiled(**batch))), expected)


# --- torch.export


def dynamic_shapes(batch: Batch) -> dict[str, dict[int, Any]]:
    """Dynamic batch size and length; labels of whole sequences have a batch size only."""
    return {field: dict.fromkeys(range(values.dim()), DYNAMIC) for field, values in batch.items()}


@every_class_slowly
def test_an_exported_program_runs_at_other_sizes(name):
    model = small(name)
    batch = batch_for(model, labels=True)
    program = torch.export.export(model, (), batch, dynamic_shapes=dynamic_shapes(batch))
    for length, sequences in ((10, 2), (4, 3), (9, 1)):
        other = cut(batch_for(model, length, labels=True, seed=length), sequences)
        found = program.module()(**other)
        assert type(found) is type(model(**other))
        assert_equal(tensors_of(found), tensors_of(model(**other)))


def test_a_cache_cannot_be_exported():
    """A program takes tensors, but no object that a call changes."""
    model = small("GPT2LMHeadModel")
    batch = batch_for(model) | {"cache": model.new_cache()}
    with torch.no_grad(), pytest.raises(ValueError, match="Unsupported input type .*KVCache"):
        torch.export.export(model, (), batch)


# --- torch.jit.trace


class FirstOutput(nn.Module):
    """A model with positional tensors and one output, as torch.jit.trace needs it."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        output = self.model(**dict(zip(self.names, tensors, strict=True)))
        first = ("logits", "start_logits", "last_hidden_state")
        return next(getattr(output, name) for name in first if hasattr(output, name))


def at_real_tokens(results: Tensor, inputs: Batch) -> Tensor:
    """(B, T, ...) to (N, ...); outputs of whole sequences stay. At padding, twins give zeros."""
    real = inputs.get("decoder_attention_mask", inputs["attention_mask"]).bool()
    return results[real] if results.shape[:2] == real.shape else results


@every_class
@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
@pytest.mark.filterwarnings(
    "ignore::torch.jit.TracerWarning",
    # torch.jit.trace compares the trace with the model, and only warns if they differ.
    "error:Output nr:torch.jit.TracerWarning",
    "ignore::DeprecationWarning",
)
def test_a_trace_with_a_mask_of_ones_honours_another_mask(name, variant):
    """Of the plain model, at other sizes too."""
    model = small(name, variant)
    masked, ones = batch_for(model), batch_for(model, masks=False)
    ones = {field: ones.get(field, torch.ones_like(masked[field])) for field in masked}
    as_tensors = FirstOutput(model, [*masked])
    with torch.no_grad():
        traced = torch.jit.trace(as_tensors, tuple(ones.values()))
        others = [cut(batch_for(model, 9), 2)] if variant == "sdpa" else []
        for inputs in (ones, masked, *others):
            found, expected = traced(*inputs.values()), as_tensors(*inputs.values())
            assert_equal(at_real_tokens(found, inputs), at_real_tokens(expected, inputs))
    assert not torch.equal(traced(*masked.values()), traced(*ones.values()))


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_cannot_return_an_output():
    """A trace returns tensors, tuples and dicts, but no dataclass: it takes a module around it."""
    model = small("BertModel")
    with torch.no_grad(), pytest.raises(RuntimeError, match="cannot infer type of EncoderOutput"):
        torch.jit.trace(model, batch_for(model)["input_ids"])


# --- ONNX


@pytest.mark.slow
@pytest.mark.parametrize("name", ["RobertaForSequenceClassification", "BertModel"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_onnx_runtime_gives_the_same_numbers(name: str, tmp_path: Path) -> None:
    import onnxruntime

    model = small(name, dtype=torch.float32)
    batch = batch_for(model)
    torch.onnx.export(
        model, (), tmp_path / "model.onnx", kwargs=batch, dynamic_shapes=dynamic_shapes(batch),
        dynamo=True, verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    for length, sequences in ((7, 3), (10, 2), (5, 1)):
        other = cut(batch_for(model, length, seed=length), sequences)
        found = session.run(None, {field: values.numpy() for field, values in other.items()})
        expected = tensors_of(model(**other)).values()
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(torch.from_numpy(ours), theirs, rtol=1e-4, atol=1e-4)
