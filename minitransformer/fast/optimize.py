"""`optimize`, `restore` and `report`: replace modules by faster twins, undo it, and list them.

A twin is a subclass of a plain class, without parameters of its own, that computes the same numbers
faster. Optimizing changes the class of a module and nothing else: weights, names, state dicts,
hooks and copies stay what they were.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn

from minitransformer.fast import layer_twins, model_twins
from minitransformer.fast.cuda_graph import free_captured_step
from minitransformer.fast.dtype_cost import half_precision_speedups, warn_of_slow_half_precision
from minitransformer.fast.linear import measured_library
from minitransformer.fast.measuring import SPEEDUPS
from minitransformer.fast.prepacked_linear import free_prepacked
from minitransformer.layers.attention import CrossAttention, FusedSelfAttention, MultiHeadAttention
from minitransformer.layers.feed_forward import FeedForward, GatedFeedForward
from minitransformer.models.bart import BartDecoder, BartEncoder, BartForConditionalGeneration
from minitransformer.models.bert import (
    BertForMaskedLM,
    BertForSequenceClassification,
    BertModel,
    EncoderLayer,
    MaskedLMHead,
)
from minitransformer.models.distilbert import (
    DistilBertForMaskedLM,
    DistilBertForSequenceClassification,
    DistilBertLayer,
    DistilBertModel,
)
from minitransformer.models.gpt2 import GPT2LMHeadModel, GPT2Model
from minitransformer.models.marian import MarianMTModel
from minitransformer.models.roberta import (
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    RobertaModel,
)
from minitransformer.models.t5 import T5Decoder, T5Encoder, T5ForConditionalGeneration

SomeModule = TypeVar("SomeModule", bound=nn.Module)

# Each plain class and its one twin.
REPLACEMENTS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: layer_twins.FastLinear,
    nn.Dropout: layer_twins.FastDropout,
    FeedForward: layer_twins.FastFeedForward,
    GatedFeedForward: layer_twins.FastGatedFeedForward,
    MultiHeadAttention: layer_twins.FastMultiHeadAttention,
    FusedSelfAttention: layer_twins.FastFusedSelfAttention,
    CrossAttention: layer_twins.FastCrossAttention,
    EncoderLayer: model_twins.FastEncoderLayer,
    DistilBertLayer: model_twins.FastDistilBertLayer,
    BertModel: model_twins.FastBertModel,
    RobertaModel: model_twins.FastRobertaModel,
    DistilBertModel: model_twins.FastDistilBertModel,
    MaskedLMHead: model_twins.FastMaskedLMHead,
    BertForMaskedLM: model_twins.FastBertForMaskedLM,
    RobertaForMaskedLM: model_twins.FastRobertaForMaskedLM,
    DistilBertForMaskedLM: model_twins.FastDistilBertForMaskedLM,
    BertForSequenceClassification: model_twins.FastBertForSequenceClassification,
    RobertaForSequenceClassification: model_twins.FastRobertaForSequenceClassification,
    DistilBertForSequenceClassification: model_twins.FastDistilBertForSequenceClassification,
    GPT2Model: model_twins.FastGPT2Model,
    GPT2LMHeadModel: model_twins.FastGPT2LMHeadModel,
    BartEncoder: model_twins.FastBartEncoder,
    BartDecoder: model_twins.FastBartDecoder,
    BartForConditionalGeneration: model_twins.FastBartForConditionalGeneration,
    MarianMTModel: model_twins.FastMarianMTModel,
    T5Encoder: model_twins.FastT5Encoder,
    T5Decoder: model_twins.FastT5Decoder,
    T5ForConditionalGeneration: model_twins.FastT5ForConditionalGeneration,
}
_PLAIN = {twin: plain for plain, twin in REPLACEMENTS.items()}
# Wrappers that keep what they find in a model when they are made, and so come after `optimize`.
_WRAPPERS = {
    "DataParallel",
    "DistributedDataParallel",
    "FullyShardedDataParallel",
    "FSDPModule",
    "OptimizedModule",  # of torch.compile
    "RecursiveScriptModule",
}


def optimize(model: SomeModule) -> SomeModule:
    """Replace each plain module by its faster twin, in place.

    The numbers stay the same up to rounding; with dropout, their distribution stays the same. A
    module of a user's subclass is left alone. The order is: load, optimize, then compile,
    DistributedDataParallel or fully_shard. Quantize after :func:`restore`, because
    `quantize_dynamic` replaces only modules whose class is exactly `nn.Linear`. For second
    derivatives of attention, use the plain model with attention="eager": neither the twins nor
    PyTorch's fused attention have them.

    Args:
        model: any module; if it is already optimized, nothing changes.

    Returns:
        The model itself.

    Raises:
        ValueError: the model is compiled, or wrapped for several devices.

    Warns:
        UserWarning: the model is on a CPU, in bfloat16 or float16, and this processor is faster in
            float32. To find out, it is measured, once.
    """
    _refuse_wrapped(model, "optimize")
    warn_of_slow_half_precision(model)
    for module in model.modules():
        if type(module) in REPLACEMENTS:
            module.__class__ = REPLACEMENTS[type(module)]
    return model


def restore(model: SomeModule) -> SomeModule:
    """Undo :func:`optimize`, in place: every twin becomes the plain module that it was before.

    Prepacked weights and a captured step are freed.

    Returns:
        The model itself.

    Raises:
        ValueError: the model is compiled, or wrapped for several devices, or the class of a twin
            was changed after :func:`optimize`.
    """
    _refuse_wrapped(model, "restore")
    for name, module in model.named_modules():
        if type(module) not in _PLAIN and any(base in _PLAIN for base in type(module).__mro__):
            raise ValueError(
                f"{name or 'the model'} is a {type(module).__name__}: the class of its twin was "
                "changed after optimize(model), for example by a parametrization; undo that first"
            )
    free_prepacked(model.modules())
    for module in model.modules():
        free_captured_step(module)
        if type(module) in _PLAIN:
            module.__class__ = _PLAIN[type(module)]
    return model


def is_optimized(model: nn.Module) -> bool:
    """Whether some module is a twin."""
    return any(type(module) in _PLAIN for module in model.modules())


@dataclass(frozen=True)
class Report:
    """What :func:`optimize` changed in a model, and what it left alone.

    Attributes:
        replaced: for each class of twins, the number of modules.
        left: the names of modules that have a twin but were left alone, and why.
        library: what multiplies float32 matrices in training, found by measuring this processor:
            "onednn", or "default", which is PyTorch's choice.
        measured: other comparisons so far, and how many times as fast the other way is as the
            usual one; among them half precision beside float32.
    """

    replaced: dict[str, int]
    left: dict[str, str]
    library: str
    measured: dict[str, float]

    def __str__(self) -> str:
        lines = [f"{count:5} {name}" for name, count in sorted(self.replaced.items())]
        lines += [f" left {name}: {reason}" for name, reason in self.left.items()]
        lines.append(f"matrix products while training: {self.library}")
        lines += [f"{ratio:5.2f} times as fast: {what}" for what, ratio in self.measured.items()]
        return "\n".join(lines)


def report(model: nn.Module) -> Report:
    """Which modules of a model are twins, which were left alone, and why.

    The first call measures the processor, which takes a fraction of a second.
    """
    replaced: Counter[str] = Counter()
    left = {}
    for name, module in model.named_modules():
        kind = type(module)
        if kind in _PLAIN:
            replaced[kind.__name__] += 1
        elif kind in REPLACEMENTS:
            left[name] = f"a {kind.__name__}: not optimized yet; call optimize(model)"
        elif base := next((c for c in kind.__mro__ if c in REPLACEMENTS or c in _PLAIN), None):
            reason = f"a subclass of {base.__name__}, whose twin would undo its changes"
            if base in _PLAIN:
                reason = "its class was changed after optimize(model)"
            left[name] = f"a {kind.__name__}: {reason}"
    library = measured_library()
    if any(weight.device.type == "cpu" for weight in model.parameters()):
        half_precision_speedups(torch.bfloat16)  # is then among what was measured
    return Report(dict(replaced), left, library, dict(SPEEDUPS))


def _refuse_wrapped(model: nn.Module, verb: str) -> None:
    for module in model.modules():
        names = {base.__name__ for base in type(module).__mro__}
        wrapper = next(iter(names & _WRAPPERS), None)
        if wrapper is None and getattr(module, "_compiled_call_impl", None) is not None:
            wrapper = "module.compile()"
        if wrapper is not None:
            raise ValueError(
                f"cannot {verb} a model after {wrapper}: first load, then optimize, then compile "
                "or wrap it"
            )
