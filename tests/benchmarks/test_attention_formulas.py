"""The formulas against PyTorch's own count of what our eager layer computes."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import attention_formulas as formulas
from benchmarks.attention_formulas import Sizes
from benchmarks.attention_implementations import Weights, ours, save_weights

SIZES = Sizes(hidden=24, heads=3, intermediate=37)
ROWS, LENGTH = 2, 11


@pytest.fixture
def built(tmp_path):
    save_weights(SIZES, tmp_path)
    return ours("eager", Weights(tmp_path, SIZES, False, torch.float32, "cpu"))


def counted(function, inputs, backward):
    with FlopCounterMode(display=False) as counter:
        result = function(*inputs, None)
        if backward:
            result.sum().backward()
    return counter.get_total_flops()


@pytest.mark.parametrize("backward", [False, True])
def test_flops(built, backward):
    inputs = [torch.randn(ROWS, LENGTH, SIZES.hidden, requires_grad=backward) for _ in range(3)]
    arguments = {"causal": False, "backward": backward, "fused": False}
    attention = formulas.attention(SIZES, [LENGTH] * ROWS, 4, **arguments)
    assert attention.flops == counted(built.attend, inputs, backward)
    layer = formulas.layer(SIZES, [LENGTH] * ROWS, 4, **arguments)
    assert layer.flops == counted(built.layer, inputs[:1], backward)
    rest = formulas.rest(SIZES, ROWS * LENGTH, 4, backward=backward)
    assert rest.flops + attention.flops == layer.flops
    assert rest.bytes + attention.bytes == layer.bytes


def test_causal_rows_have_half_of_the_pairs():
    assert formulas.pairs([3, 1], causal=False) == 10
    assert formulas.pairs([3, 1], causal=True) == 7
    whole, half = (
        formulas.attention(SIZES, [1000], 4, causal=causal, backward=True, fused=True)
        for causal in (False, True)
    )
    assert half.flops == pytest.approx(whole.flops / 2, rel=0.01)
    assert half.bytes == whole.bytes


def test_a_fused_kernel_computes_one_product_again_and_moves_no_squares():
    forward, both = (
        formulas.attention(SIZES, [7], 2, causal=False, backward=backward, fused=True)
        for backward in (False, True)
    )
    assert forward.recomputed_flops == 0
    assert both.recomputed_flops * 2 == forward.flops  # Q K^T, of the two products
    assert forward.bytes == 2 * 4 * 7 * 24  # Q, K, V in, O out
    assert both.bytes == 2 * 12 * 7 * 24
    steps = formulas.attention(SIZES, [7], 2, causal=False, backward=False, fused=False)
    assert steps.bytes == forward.bytes + 2 * 4 * 3 * 7**2
    assert steps.recomputed_flops == 0


@pytest.mark.parametrize("causal", [False, True])
def test_the_length_at_which_attention_costs_as_much_as_the_rest(causal):
    base = Sizes(hidden=768, heads=12, intermediate=3072)
    length = formulas.equal_length(base, causal)
    assert length == (2 * 4608 - 1 if causal else 4608)
    attention = formulas.attention(base, [length], 4, causal=causal, backward=False, fused=True)
    assert attention.flops == formulas.rest(base, length, 4, backward=False).flops


def test_memory_grows_with_the_square_only_where_weights_are_kept():
    for fused, growth in ((True, 2), (False, 4)):
        short, long = (
            formulas.highest_memory(SIZES, 1, length, 4, backward=True, fused=fused)
            for length in (2**20, 2**21)
        )
        assert long / short == pytest.approx(growth, rel=0.01)
    eager = formulas.highest_memory(SIZES, 2, 4096, 4, backward=False, fused=False)
    assert eager > 2 * 3 * 4096**2 * 4  # B H T T numbers
