"""AdamW with two parameter groups, and the learning-rate schedule."""

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2017), with weight decay for matrices only.

    Biases and the weights of norms, which are the parameters with one dimension, are not decayed,
    because that would not help generalization. If the device has a fused implementation, it updates
    all parameters in one pass.
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


def learning_rate_factor(step: int, total_steps: int, warmup_steps: int) -> float:
    """Rises linearly to 1 during the warm-up, then falls linearly to 0 at `total_steps`.

    Steps are counted from 0. The factor of the first step is above 0, so that no step is wasted.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return (total_steps - step) / max(1, total_steps - warmup_steps)
