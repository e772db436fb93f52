"""Which weights are worth a copy in the order in which the CPU reads them fastest."""

from contextlib import AbstractContextManager
from typing import Any

from torch import nn

from minitransformer.layers.reordered_weights import forget_copies, reordered_weights
from minitransformer.models.generation_config import GenerationConfig
from minitransformer.models.writing_model import GenerativeModel


def maps_for_each_word(model: GenerativeModel) -> list[nn.Module]:
    """The modules whose weights are read for every word that is written: decoder and head.

    The encoder, which runs once a text, is not among them.
    """
    backbone: Any = getattr(model, model.backbone_name)
    modules = getattr(backbone, "decoder", backbone).modules()
    return [*(module for module in modules if isinstance(module, nn.Linear)), model.head]


def fast_weights(model: GenerativeModel, config: GenerationConfig) -> AbstractContextManager[None]:
    """Inside the block, the model computes with copies of those weights, on a CPU.

    They are kept as long as the model, and take as much memory as the weights;
    `model.reorder_weights = False` does without. See
    :mod:`minitransformer.layers.reordered_weights`.

    Args:
        model: the one that writes.
        config: what is asked for; `max_new_tokens` is known.
    """
    assert config.max_new_tokens is not None
    maps = maps_for_each_word(model)
    if not model.reorder_weights:
        forget_copies(maps)  # which frees their memory
        maps = []
    return reordered_weights(maps, num_uses=config.max_new_tokens)
