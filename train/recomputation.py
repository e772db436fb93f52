"""Gradient checkpointing (Chen et al. 2016): layers that are computed again in the backward pass.

Of each layer only the input is kept, so a model with L layers needs the memory of L hidden states
and of one layer, instead of L layers. In return, every layer is computed twice.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint


class RecomputedForward:
    """The forward of a layer, which keeps its inputs only.

    The state of the random number generators is restored for the second time, so the same values
    are dropped. Where no gradient is needed, as in an evaluation, it is the forward itself.
    """

    computes_the_same = True  # for minitransformer.fast.dispatch.has_no_hooks

    def __init__(self, layer: nn.Module) -> None:
        self.forward = layer.forward

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        return checkpoint(self.forward, *arguments, use_reentrant=False, **named)


@contextmanager
def recomputed_layers(model: nn.Module) -> Iterator[None]:
    """Within the context, every layer of the model's stacks is recomputed in the backward pass.

    The layers keep their classes, and all names stay what they are.
    """
    stacks = [m for name, m in model.named_modules() if name.rpartition(".")[2] == "layers"]
    layers = [layer for stack in stacks for layer in stack.children()]
    for layer in layers:
        layer.forward = RecomputedForward(layer)
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward
