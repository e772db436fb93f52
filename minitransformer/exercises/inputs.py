"""Random inputs of exercises, the same on every machine."""

import torch
from torch import Tensor, nn

HALF_PRECISION = {"float16": torch.float16, "bfloat16": torch.bfloat16}  # by the labels of cases


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """N(0, 1) of this shape."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    """0 <= n < high of this shape, int64."""
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def real_tokens(*lengths: int, total: int, left: bool = False) -> Tensor:
    """(B, T) bool, True at the first (or last) tokens of each sequence: its length of T = total."""
    positions = torch.arange(total)
    positions = positions.flip(0) if left else positions
    return positions < torch.tensor(lengths)[:, None]


def weights(module: nn.Module, seed: int = 0) -> dict[str, Tensor]:
    """Values for every parameter of a module, float64, none of them 0 or 1.

    They do not depend on those that it has, which differ from call to call.
    """
    return {
        name: 0.5 * normal(*parameter.shape, seed=seed + number)
        for number, (name, parameter) in enumerate(module.named_parameters())
    }
