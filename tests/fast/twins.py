"""Layers beside their twins."""

import copy
from typing import Any

from torch import nn

from minitransformer.fast import layer_twins as twins
from minitransformer.layers import attention, feed_forward

TWINS: dict[type[nn.Module], type[nn.Module]] = {
    nn.Linear: twins.FastLinear,
    nn.Dropout: twins.FastDropout,
    feed_forward.FeedForward: twins.FastFeedForward,
    feed_forward.GatedFeedForward: twins.FastGatedFeedForward,
    attention.MultiHeadAttention: twins.FastMultiHeadAttention,
    attention.FusedSelfAttention: twins.FastFusedSelfAttention,
    attention.CrossAttention: twins.FastCrossAttention,
}


def twin_of(module: nn.Module) -> Any:
    """A copy of a module in which each plain layer is its twin."""
    twin = copy.deepcopy(module)
    for part in twin.modules():
        part.__class__ = TWINS.get(type(part), type(part))
    return twin
