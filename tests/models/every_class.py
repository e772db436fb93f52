"""A tiny model of every class of the package, whatever its family."""

from typing import Any

import torch
from torch import nn

import minitransformer
from minitransformer.models.base import Model
from tests.models import decoders
from tests.models.test_heads import FAMILIES, config_of
from tests.tiny import as_variant, attention_of, perturb

HEADS = [
    "Model",
    "ForMaskedLM",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
]
ENCODERS = [f"{family}{head}" for family in FAMILIES for head in HEADS]
CLASSES = [*ENCODERS, *decoders.CLASSES]  # "T5 1.1" is a class with another config


def make(name: str, variant: str = "sdpa", dropout: float = 0.0) -> Any:
    """A perturbed model in float64 and evaluation mode.

    Args:
        name: one of `CLASSES`.
        variant: one of `VARIANTS`.
        dropout: of hidden states and of attention weights.
    """
    changes = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    if name not in ENCODERS:
        if name.startswith("T5"):
            del changes["attention_probs_dropout_prob"]
        return decoders.new(name, variant, **changes)
    torch.manual_seed(0)
    family = next(family for family in FAMILIES if name.startswith(family))
    config = config_of(family, **changes)
    model = getattr(minitransformer, name)(config, attention=attention_of(variant))
    return as_variant(perturb(model).double(), variant)


def classes_of_the_package() -> set[type[Model]]:
    exported = (getattr(minitransformer, name) for name in minitransformer.__all__)
    return {kind for kind in exported if isinstance(kind, type) and issubclass(kind, nn.Module)}
