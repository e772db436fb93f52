"""What will it cost? Time and memory of attention, a layer, a training step or a decoded token.

:func:`trace` counts the operations of any of our models (:mod:`minitransformer.cost.operations`),
:func:`calibrate` measures the machine once (:mod:`minitransformer.cost.machine`), and
:class:`Machine` puts the two together. :func:`attention`, :func:`layer`, :func:`model` and
:func:`token` trace what is asked for most.
"""

from minitransformer.cost.machine import Machine, calibrate
from minitransformer.cost.operations import PARTS, Operation, Work, trace
from minitransformer.cost.workloads import AttentionShape, attention, layer, model, token

__all__ = [
    "PARTS",
    "AttentionShape",
    "Machine",
    "Operation",
    "Work",
    "attention",
    "calibrate",
    "layer",
    "model",
    "token",
    "trace",
]
