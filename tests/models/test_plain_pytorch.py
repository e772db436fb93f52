"""What a constructor gives is plain PyTorch, so what works on plain PyTorch works on it."""

import copy
from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic

import minitransformer
from minitransformer import BartForSequenceClassification
from minitransformer.models.base import EncoderDecoder, Model, Seq2SeqLM
from tests.tiny import CLASSES, assert_equal, new, words

every_class = pytest.mark.parametrize("name", CLASSES)
PLAIN = (nn.Linear, nn.Embedding, nn.Dropout)


def check_plain(model: nn.Module) -> None:
    """That each module is PyTorch's own or of layers/ and models/, and has no hook."""
    counts = Counter(kind for module in model.modules() for kind in PLAIN if type(module) is kind)
    assert min(counts[kind] for kind in PLAIN) > 0
    for name, module in model.named_modules():
        for kind in PLAIN:
            assert not isinstance(module, kind) or type(module) is kind, name
        home = type(module).__module__
        assert home.startswith(("torch.nn.", "minitransformer.layers.", "minitransformer.models."))
        assert not module._forward_hooks and not module._forward_pre_hooks, name
        assert "forward" not in vars(module), name


def test_every_class_is_tried():
    exported = [getattr(minitransformer, name) for name in minitransformer.__all__]
    classes = {e for e in exported if isinstance(e, type) and issubclass(e, nn.Module)}
    assert {type(new(name)) for name in CLASSES} == classes


@every_class
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_constructors_give_plain_modules(name, attention):
    check_plain(new(name, attention))


@every_class
def test_so_does_from_pretrained(name, tmp_path):
    model = new(name)
    model.save_pretrained(tmp_path)
    check_plain(minitransformer.from_pretrained(tmp_path))


def results_of(model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
    """The first thing that a model returns of a batch without labels."""
    output: Any = model(**inputs)
    for name in ("logits", "start_logits", "last_hidden_state"):
        if hasattr(output, name):
            return getattr(output, name)
    raise AssertionError(output)


def inputs_of(model: Model) -> dict[str, Tensor]:
    """Three sequences of tokens without a role, and masks of ones."""
    ids = torch.stack([words(6, seed) for seed in range(3)])
    if isinstance(model, BartForSequenceClassification):
        ids[:, 3] = model.config.eos_token_id
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if isinstance(model, EncoderDecoder | Seq2SeqLM):
        inputs |= {
            "decoder_input_ids": ids[:, :4],
            "decoder_attention_mask": torch.ones(3, 4).long(),
        }
    return inputs


def at_real_tokens(results: Tensor, inputs: dict[str, Tensor]) -> Tensor:
    """(B, T, ...) to (N, ...); what is of a whole sequence stays."""
    real = inputs.get("decoder_attention_mask", inputs["attention_mask"]).bool()
    return results[real] if results.shape[:2] == real.shape else results


@every_class
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize.*:UserWarning")
def test_dynamic_quantization_swaps_every_linear_map(name):
    model = new(name).float()
    linears = [key for key, module in model.named_modules() if isinstance(module, nn.Linear)]
    quantized = quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)
    for key in linears:
        assert isinstance(quantized.get_submodule(key), torch.ao.nn.quantized.dynamic.Linear), key
    inputs = inputs_of(model)
    exact, rough = results_of(model, inputs), results_of(quantized, inputs)
    assert 0 < (rough - exact).abs().max() < exact.std()


class OfTensors(nn.Module):
    """A model that takes tensors in their order and returns one, as `torch.jit.trace` asks."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> Tensor:
        return results_of(self.model, dict(zip(self.names, tensors, strict=True)))


@pytest.mark.slow
@every_class
@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore::DeprecationWarning")
def test_a_trace_with_a_mask_of_ones_honours_another_mask(name, variant):
    model = new(name, variant)
    ones = inputs_of(model)
    masked = {field: values.clone() for field, values in ones.items()}
    for field in masked:
        if field.endswith("mask"):
            masked[field][0, 0] = masked[field][1, -1] = 0  # on the left, and on the right
    with torch.no_grad():
        traced = torch.jit.trace(OfTensors(model, [*ones]), tuple(ones.values()), check_trace=False)
        for inputs in (ones, masked):
            found, expected = traced(*inputs.values()), results_of(model, inputs)
            assert_equal(at_real_tokens(found, inputs), at_real_tokens(expected, inputs))
    assert not torch.equal(traced(*masked.values()), traced(*ones.values()))
