"""What half precision costs on this CPU beside float32: measured once, reported, and warned of.

bfloat16 and float16 halve what has to be read, but many processors have no instructions for them.
So half precision may be faster for the one row of a decoded sequence, which is limited by memory,
and slower for the many rows of a batch or a prompt, which are limited by arithmetic.
"""

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from minitransformer.fast.half_precision import HALF
from minitransformer.fast.linear import ones
from minitransformer.fast.measuring import Ways, speedup
from minitransformer.fast.prepacked_linear import MIN_USES, decoding, prepack, prepacked_linear

_NUM_ROWS = {"one row": 1, "128 rows": 128}
_SLOW = 0.9  # of the speed in float32: below it, a warning names float32
_WARNED: set[torch.dtype] = set()


def half_precision_speedups(dtype: torch.dtype) -> dict[str, float]:
    """How many times as fast products in half precision are as in float32, in an optimized model.

    Args:
        dtype: torch.bfloat16 or torch.float16.

    Returns:
        For one row, and for 128 rows.
    """
    return {
        rows: speedup(f"{dtype} instead of torch.float32, {rows}", partial(_both, dtype, number), 5)
        for rows, number in _NUM_ROWS.items()
    }


def warn_of_slow_half_precision(model: nn.Module) -> None:
    """Warn, once a process and dtype, of a model on a CPU whose dtype is slower than float32."""
    dtypes = {weight.dtype for weight in model.parameters() if weight.device.type == "cpu"}
    for dtype in sorted(dtypes & {*HALF} - _WARNED, key=str):
        ratio = half_precision_speedups(dtype)["128 rows"]
        if 0 < ratio < _SLOW:  # 0 where this PyTorch cannot multiply in it
            _WARNED.add(dtype)
            warnings.warn(
                f"{dtype} takes {1 / ratio:.1f} times as long as torch.float32 on this processor "
                "for batches and prompts; load the model with dtype=torch.float32. report(model) "
                "says more",
                stacklevel=3,
            )


def _both(dtype: torch.dtype, num_rows: int) -> Ways:
    return _products(torch.float32, num_rows), _products(dtype, num_rows)


def _products(dtype: torch.dtype, num_rows: int) -> Callable[[], Any]:
    """Products as in decoding; those of one row by weights that together exceed the cache."""
    x = ones(num_rows, 768, dtype=dtype)
    with torch.inference_mode(False):  # PyTorch counts no changes of inference tensors
        layers = [
            nn.utils.skip_init(nn.Linear, 768, 3072, bias=False, dtype=dtype, device="cpu")
            for _ in range(4 if num_rows == 1 else 1)
        ]
        for layer in layers:
            nn.init.ones_(layer.weight)
        prepack(layers, MIN_USES, num_rows)

    def multiply() -> list[Any]:
        with decoding():
            return [prepacked_linear(x, layer) for layer in layers]

    return multiply
