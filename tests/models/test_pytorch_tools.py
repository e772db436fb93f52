"""PyTorch's tools do to the plain models what they do to any module.

docs/pytorch_tools.md has the line to type for each tool, and lists what cannot work; a test here
shows how it fails.
"""

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from threading import Barrier
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.ao.quantization import quantize_dynamic
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.utils.checkpoint import checkpoint

from minitransformer.layers.normalization import LayerNorm, RMSNorm
from minitransformer.layers.positional_embeddings import SinusoidalPositions
from minitransformer.models.base import Model
from minitransformer.parity import Batch, random_batch
from tests.tiny import CLASSES, SEQ2SEQ, UNTIED, assert_equal, every_variant, gradients, new

every_class = pytest.mark.parametrize("name", CLASSES)
LABELS = ("labels", "start_positions", "end_positions")


def small(name: str, variant: str = "sdpa", **changes: Any) -> Any:
    """A perturbed model with one layer a stack: the tools take their time over every layer."""
    changes["num_hidden_layers"] = 1
    if name in [*SEQ2SEQ, "BartForSequenceClassification"]:
        changes["num_decoder_layers"] = 1
    if name == "GPT2ForSequenceClassification":
        changes["pad_token_id"] = 1
    return new(name, variant, **changes)


def batch_for(
    model: Model, length: int = 7, *, masks: bool = True, labels: bool = False, seed: int = 0
) -> Batch:
    """Three sequences: one is full, one padded on the left and one on the right.

    Args:
        model: the batch is for it.
        length: T.
        masks: False replaces padding by tokens and omits the masks.
        labels: whether there are labels.
        seed: of the ids and labels.
    """
    batch = random_batch(model, length, seed)
    for name in [*batch]:
        if name.endswith("attention_mask") and not masks:
            ids = name.replace("attention_mask", "input_ids")
            batch[ids] = batch[ids].masked_fill(batch.pop(name) == 0, 4)
        if name in LABELS and not labels:
            del batch[name]
    return batch


def tensors_of(output: Any) -> dict[str, Tensor]:
    """What a model returned, without what is None."""
    found = {field.name: getattr(output, field.name) for field in fields(output)}
    return {name: values for name, values in found.items() if values is not None}


def loss_of(output: Any) -> Tensor:
    """The loss of a labelled batch; of a backbone, a sum that every token has a part in."""
    states = [output.loss] if hasattr(output, "loss") else tensors_of(output).values()
    return sum(state.square().sum() for state in states)


# --- torch.func


@every_class
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_over_grad_gives_the_gradient_of_each_sequence(name):
    model = small(name)
    batch = batch_for(model, labels=True)
    parameters = dict(model.named_parameters())

    def loss(values: dict[str, Tensor], sequence: Batch) -> Tensor:
        alone = {field: value[None] for field, value in sequence.items()}
        return loss_of(functional_call(model, values, (), alone))

    found = vmap(grad(loss), in_dims=(None, 0))(parameters, batch)
    for sequence in range(3):
        alone = {field: values[sequence : sequence + 1] for field, values in batch.items()}
        expected = gradients(model, loss_of(model(**alone)))
        assert_equal([found[key][sequence] for key in parameters], expected)


@every_class
@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")
def test_vmap_over_functional_call_runs_several_models_at_once(name):
    models = [small(name), small(name)]
    batch = batch_for(models[0])
    with torch.no_grad():
        for parameter in models[1].parameters():
            parameter.mul_(1.1)
        weights, buffers = stack_module_state(models)

        def call(values: dict[str, Tensor], others: dict[str, Tensor]) -> dict[str, Tensor]:
            return tensors_of(functional_call(models[0], (values, others), (), batch))

        found = vmap(call)(weights, buffers)
        for number, model in enumerate(models):
            assert_equal(
                {field: values[number] for field, values in found.items()},
                tensors_of(model(**batch)),
            )


def test_dropout_under_vmap_needs_the_randomness_argument():
    """As everywhere in PyTorch, `vmap` needs to know whether all sequences share random numbers."""
    model = small("BertForMaskedLM", dropout=0.3).train()
    ids = batch_for(model)["input_ids"]

    def logits(sequence: Tensor) -> Tensor:
        return model(sequence[None]).logits[0]

    with pytest.raises(RuntimeError, match="use the 'same' or 'different' randomness"):
        vmap(logits)(ids)
    same, again = vmap(logits, randomness="different")(ids[:1].repeat(2, 1))
    assert not torch.equal(same, again)


# --- Tensors without values


@every_class
def test_fake_tensors_have_the_shapes_and_dtypes_of_real_ones(name):
    model = small(name, dtype=torch.float32)
    batch = batch_for(model, labels=True)
    expected = tensors_of(model(**batch))
    with FakeTensorMode() as mode:
        fake = type(model)(model.config).eval()
        batch = {field: mode.from_tensor(values) for field, values in batch.items()}
        found = tensors_of(fake(**batch))
    assert found.keys() == expected.keys()
    for field, values in found.items():
        assert isinstance(values, FakeTensor), field
        assert (values.shape, values.dtype) == (expected[field].shape, expected[field].dtype), field


@every_class
def test_a_model_on_the_meta_device_has_shapes_and_can_be_given_weights(name):
    """Marian's table of sinusoids is computed, not stored, so it has to be filled once more."""
    model = small(name)
    with torch.device("meta"):
        empty = type(model)(model.config).eval()
    assert all(parameter.is_meta for parameter in empty.parameters())
    batch = batch_for(model, masks=False, labels=True)
    expected = tensors_of(model(**batch))
    found = tensors_of(empty(**{field: values.to("meta") for field, values in batch.items()}))
    assert {key: values.shape for key, values in found.items()} == {
        key: values.shape for key, values in expected.items()
    }
    assert all(values.is_meta for values in found.values())

    copied = copy.deepcopy(empty).to_empty(device="cpu").double()
    copied.load_state_dict(model.state_dict())
    empty.load_state_dict(model.state_dict(), assign=True)
    for filled in (copied, empty):
        for part in filled.modules():
            if isinstance(part, SinusoidalPositions):
                assert part.table.is_meta == (filled is empty)
                part.to_empty(device="cpu").fill()
        assert_equal(tensors_of(filled(**batch)), expected)


# --- Copies


@every_class
@every_variant
@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_is_equal_and_independent(name, variant, way):
    model = small(name, variant)
    batch = batch_for(model)
    expected = tensors_of(model(**batch))
    copied = copy.deepcopy(model) if way == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert [*map(type, copied.modules())] == [*map(type, model.modules())]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    for field, values in tensors_of(copied(**batch)).items():
        assert torch.equal(values, expected[field]), field


# --- Other numbers


@pytest.mark.parametrize("name", [*CLASSES, *UNTIED])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize.*:UserWarning")
def test_dynamic_quantization_swaps_every_linear_layer(name):
    model = small(name, dtype=torch.float32)
    linears = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    has_own_head = name.endswith((" 1.1", " untied"))
    assert any(key in ("lm_head", "lm_head.output") for key in linears) == has_own_head
    quantized = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    for key in linears:
        assert isinstance(quantized.get_submodule(key), torch.ao.nn.quantized.dynamic.Linear), key
    batch = batch_for(model)
    exact, rough = tensors_of(model(**batch)), tensors_of(quantized(**batch))
    for field in exact:
        assert 0 < (rough[field] - exact[field]).abs().max() < exact[field].std(), field


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_quantization_finds_no_linear_layer_in_an_optimized_model():
    """Each was replaced by its twin, which is another class: `restore` comes first."""
    model = small("BertForMaskedLM", "optimized", dtype=torch.float32)
    quantized = quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert [*map(type, quantized.modules())] == [*map(type, model.modules())]


@every_class
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 0.02), (torch.bfloat16, 0.15)])
def test_half_precision_runs_and_is_near(name, dtype, tolerance):
    model = small(name, dtype=torch.float32)
    batch = batch_for(model, labels=True)
    exact = tensors_of(model(**batch))
    rough = tensors_of(model.to(dtype)(**batch))
    for field, values in exact.items():
        if not values.is_floating_point():
            assert torch.equal(rough[field], values), field
        elif field == "loss":  # a sum of many, which is made in float32
            assert rough[field].dtype == torch.float32
            assert (rough[field] - values).abs() < tolerance * values
        else:
            assert rough[field].dtype == dtype, field
            assert 0 < (rough[field] - values).abs().max() < tolerance * values.std(), field


# --- torch.utils.checkpoint


@every_class
@pytest.mark.parametrize("around", ["layers", "model"])
def test_checkpointed_gradients_are_the_same(name, around):
    """With dropout, which has to fall the same way in the second forward."""
    model = small(name, dropout=0.3).train()
    batch = batch_for(model, labels=True)
    torch.manual_seed(5)
    expected = gradients(model, loss_of(model(**batch)))
    stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    parts = [layer for stack in stacks for layer in stack] if around == "layers" else [model]
    calls = []
    for part in parts:

        def forward(*inputs: Any, plain: Any = part.forward, **named: Any) -> Any:
            calls.append(plain)
            return plain(*inputs, **named)

        part.forward = lambda *inputs, forward=forward, **named: checkpoint(
            forward, *inputs, use_reentrant=False, **named
        )
    torch.manual_seed(5)
    loss = loss_of(model(**batch))
    assert len(calls) == len(parts)
    assert_equal(gradients(model, loss), expected)
    assert len(calls) == 2 * len(parts)


def test_reentrant_checkpoints_lose_the_gradient_around_a_model():
    """They look for an input that has a gradient, and token ids have none."""
    model = small("BertForMaskedLM").train()
    batch = batch_for(model, labels=True)
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        output: Any = checkpoint(lambda: model(**batch), use_reentrant=True)
    assert not output.loss.requires_grad


# --- Threads


@every_class
@pytest.mark.parametrize("variant", ["eager", "sdpa"])
def test_two_threads_in_one_model_do_not_meet(name, variant):
    """They wait for each other after every norm, so each is in the middle of the other's call."""
    model = new(name, variant)
    batches = [batch_for(model, length, seed=length) for length in (5, 8)]

    def run(batch: Batch) -> dict[str, Tensor]:
        with torch.inference_mode():
            return tensors_of(model(**batch))

    expected = [run(batch) for batch in batches]
    both = Barrier(2, timeout=30)

    def wait(*_: Any) -> None:
        both.wait()

    for part in model.modules():
        if isinstance(part, LayerNorm | RMSNorm):
            part.register_forward_hook(wait)
    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(run, batches))
    for ours, theirs in zip(found, expected, strict=True):
        assert_equal(ours, theirs)
