"""Counts the FLOPs of a call, to hold the formulas of the benchmarks against."""

from collections.abc import Callable

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.flops import EncoderSizes
from minitransformer.fast import dispatch


def count_flops(call: Callable[[], object]) -> int:
    """The FLOPs that PyTorch counts; twins run the plain forward, for the counter sees them."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


def count_optimized_flops(call: Callable[[], object]) -> int:
    """The same with what twins run when nothing counts, but without oneDNN's products.

    Those PyTorch does not count.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.backends.mkldnn, "enabled", False)
        for guard in ("_in_dispatch_mode", "_has_global_hook"):  # which see the counter
            patch.setattr(dispatch, guard, lambda: False)
        return count_flops(call)


def leave_out_attention(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the formulas leave out Q K^T and P V, which PyTorch does not count in its CPU kernel."""
    layer = EncoderSizes.layer
    monkeypatch.setattr(
        EncoderSizes, "layer", lambda self, tokens, wanted, _: layer(self, tokens, wanted, 0)
    )
