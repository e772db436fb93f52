"""Tiny models of odd, unequal sizes, so that no two dimensions can be mistaken for each other."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from minitransformer import BertConfig, RobertaConfig, optimize
from minitransformer.models.base import Model
from minitransformer.parity import Batch

SHARED_DATA = Path(__file__).parents[2] / "shared" / "data"

# The ways to compute the same numbers: the formula, PyTorch's kernels, the twins of `optimize`.
VARIANTS = ["eager", "sdpa", "optimized"]
every_variant = pytest.mark.parametrize("variant", VARIANTS)

SIZES = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
    "max_position_embeddings": 20,
}


def roberta_config(**changes: object) -> RobertaConfig:
    return RobertaConfig(**{**SIZES, **changes})


def bert_config(**changes: object) -> BertConfig:
    return BertConfig(**{**SIZES, **changes})


def attention_of(variant: str) -> str:
    """The attention implementation that a model of this variant is made with."""
    return "sdpa" if variant == "optimized" else variant


def as_variant(model: Model, variant: str) -> Any:
    """A model that was made with `attention_of(variant)`, optimized if it is to be."""
    return optimize(model) if variant == "optimized" else model


def perturb(model: nn.Module, seed: int = 1) -> nn.Module:
    """Move every parameter: zero biases and unit norms hide half of all bugs.

    So are buffers that are stored, such as BART's bias of the logits, but nothing that is computed,
    such as Marian's sinusoids, which Hugging Face keeps in a parameter without a gradient.
    """
    generator = torch.Generator().manual_seed(seed)
    stored = model.state_dict()
    moved = [parameter for parameter in model.parameters() if parameter.requires_grad]
    moved += [values for name, values in model.named_buffers() if name in stored]
    with torch.no_grad():
        for values in moved:
            values.add_(0.2 * torch.randn(values.shape, generator=generator))
    return model.eval()


def batch_of(lengths: list[int], *, left: bool = False, pad: int = 1, seed: int = 0) -> Batch:
    """Sequences of random ids from 4 to 98, padded on one side to the longest."""
    generator = torch.Generator().manual_seed(seed)
    longest = max(lengths)
    ids = torch.full((len(lengths), longest), pad)
    mask = torch.zeros(len(lengths), longest, dtype=torch.int64)
    for sequence, length in enumerate(lengths):
        where = slice(longest - length, None) if left else slice(0, length)
        ids[sequence, where] = torch.randint(4, 99, (length,), generator=generator)
        mask[sequence, where] = 1
    return {"input_ids": ids, "attention_mask": mask}
