"""AdamW with its two groups, and the learning rate of each step."""

import torch
from torch import nn


def build_optimizer(
    model: nn.Module, learning_rate: float, weight_decay: float
) -> torch.optim.AdamW:
    """AdamW (Loshchilov and Hutter 2017) that decays matrices, not biases and norms.

    A bias or a norm's weight that is pulled to zero does not generalise better, it is only off;
    those are the parameters with one dimension. The fused implementation, where the device has it,
    updates all parameters in one pass.
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
    """Linear from 0 up to 1 over the warm-up, then linear down to 0 at `total_steps`.

    Steps count from 0, and the first one has a rate above zero, so none is wasted.
    """
    if step < warmup_steps:
        return (step + 1) / (warmup_steps + 1)
    return (total_steps - step) / max(1, total_steps - warmup_steps)
