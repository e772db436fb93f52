"""Power laws of measured curves, and what a layer or a decoded token costs by formula.

E hidden size, I intermediate size, T tokens of a sequence.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from minitransformer.fast.prepacked_linear import weights_of_a_step
from minitransformer.models.base import LanguageModel, Seq2SeqLM

FEWEST_POINTS = 3  # of a fit, because a line through two of them always fits


def equal_length(hidden_size: int, intermediate_size: int, causal: bool) -> tuple[str, int]:
    """The T at which the T^2 part has as many FLOPs as the rest of a layer, and its formula.

    Without a mask 4 T^2 E meets 8 T E^2 + 4 T E I. A causal mask leaves T (T + 1) / 2 pairs.
    """
    both = 2 * hidden_size + intermediate_size
    return ("2 (2 h + f) - 1", 2 * both - 1) if causal else ("2 h + f", both)


def exponent(lengths: Sequence[float], costs: Sequence[float]) -> tuple[float, float] | None:
    """The exponent of a power law and R^2, over the upper half; None: fewer than three points.

    Below, overhead that does not grow is a large part of the cost and hides the exponent.
    """
    if len(lengths) < FEWEST_POINTS:
        return None
    half = slice(-max(FEWEST_POINTS, math.ceil(len(lengths) / 2)), None)
    across, up = np.log(lengths[half]), np.log(costs[half])
    slope = float(np.polyfit(across, up, 1)[0])
    return slope, float(np.corrcoef(across, up)[0, 1] ** 2)


def bytes_per_step(model: LanguageModel, size: int, *, tokens: float, source: float = 0) -> float:
    """What has to be read to decode one token of every sequence.

    Every weight of decoder and head once, however many sequences are decoded, but not the
    projections of the source, which are done before; and the keys and values of all tokens.

    Args:
        model: ours.
        size: bytes of a number.
        tokens: that were read or decoded so far, of all sequences together.
        source: tokens of all sources together; the beams of one share it.
    """
    numbers = sum(p.numel() for part in weights_of_a_step(model) for p in part.parameters())
    backbone: Any = model.backbone
    layers: Any = getattr(backbone, "decoder", backbone).layers
    for layer in layers:
        if isinstance(model, Seq2SeqLM):
            projections = [layer.cross_attention.key, layer.cross_attention.value]
            numbers -= sum(p.numel() for part in projections for p in part.parameters())
    inner_size = layers[0].attention.output.in_features  # heads times their size
    return size * (numbers + 2 * len(layers) * inner_size * (tokens + source))
