"""AdamW with two parameter groups, and the schedules of the learning rate.

A schedule is a function of the step, counted from 0, of the number of steps and of the number of
warm-up steps. It gives the factor by which the learning rate of the config is multiplied. All rise
linearly during the warm-up, so that the factor reaches 1 with the first step after it.
"""

import math
from collections.abc import Callable

import torch
from torch import nn

Schedule = Callable[[int, int, int], float]


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2017), with weight decay for matrices only.

    Biases and the weights of norms, which are the parameters with one dimension, are not decayed,
    because that would not help generalization. Frozen parameters are left out. If the device has a
    fused implementation, it updates all parameters in one pass.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    matrices = [p for p in parameters if p.dim() >= 2]
    vectors = [p for p in parameters if p.dim() < 2]
    fused = all(p.is_floating_point() and p.device.type in ("cpu", "cuda") for p in parameters)
    return torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=learning_rate,
        fused=fused,
    )


def warmup(step: int, warmup_steps: int) -> float:
    """The factor during the warm-up: 1 / (W + 1), 2 / (W + 1), ... with W = `warmup_steps`.

    transformers' factor of step s is s / W, so its first step has the rate 0 and changes nothing.
    Ours is that of its step s + 1 of a warm-up of W + 1 steps. After the warm-up the two agree.
    """
    return (step + 1) / (warmup_steps + 1)


def linear(step: int, total_steps: int, warmup_steps: int) -> float:
    """Falls linearly to 0 at `total_steps`, as in BERT (Devlin et al. 2018, appendix A.2)."""
    if step < warmup_steps:
        return warmup(step, warmup_steps)
    return (total_steps - step) / max(1, total_steps - warmup_steps)


def cosine(step: int, total_steps: int, warmup_steps: int) -> float:
    """Falls to 0 along half a cosine (Loshchilov and Hutter 2016, without restarts)."""
    if step < warmup_steps:
        return warmup(step, warmup_steps)
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return (1 + math.cos(math.pi * done)) / 2


def constant(step: int, total_steps: int, warmup_steps: int) -> float:
    """Stays at 1."""
    return warmup(step, warmup_steps) if step < warmup_steps else 1.0


def inverse_sqrt(step: int, total_steps: int, warmup_steps: int) -> float:
    """Falls with the square root of the step, as in "Attention Is All You Need", section 5.3.

    The factor of step s is sqrt(W / s), where W is the number of warm-up steps; without a warm-up
    it is sqrt(W / (s + W)) with W = 10,000.
    """
    if step < warmup_steps:
        return warmup(step, warmup_steps)
    timescale = warmup_steps or 10_000
    return math.sqrt(timescale / (step + timescale - warmup_steps))


SCHEDULES: dict[str, Schedule] = {
    "linear": linear,
    "cosine": cosine,
    "constant": constant,
    "inverse-sqrt": inverse_sqrt,
}
