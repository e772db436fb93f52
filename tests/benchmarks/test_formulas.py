"""The formulas, against PyTorch's own count and by hand; curves whose answers are known."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import formulas
from benchmarks.attention_sides import Layout, Weights, ours
from benchmarks.formulas import Sizes, crossing, fit_power, upper_half
from minitransformer.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minitransformer.models.t5 import T5Config, T5ForConditionalGeneration

SIZES = Sizes(hidden_size=24, num_attention_heads=3, intermediate_size=37)
BASE = Sizes()
LENGTHS = [128, 256, 512, 1024, 2048, 4096]


def test_flops_of_one_layer_by_hand():
    sizes = Sizes(hidden_size=2, num_hidden_layers=1, intermediate_size=5)
    # Four maps of 2 x 2 and two of 2 x 5 for each of 3 tokens, scores and sums of 9 pairs.
    assert sizes.encoder(np.array([3])) == 3 * (4 * 2 * 4 + 2 * 2 * 10) + 9 * 2 * 2 * 2
    # Keys and values of all, the rest for one of them.
    one = 3 * 2 * 2 * 4 + 2 * 2 * 4 + 2 * 2 * 10 + 3 * 2 * 2 * 2
    assert sizes.encoder(np.array([3]), np.array([1])) == one
    assert sizes.head(3, 11) == 3 * (2 * 4 + 2 * 2 * 11)
    assert sizes.head(3, 2, dense=False) == 3 * 2 * 2 * 2


@pytest.mark.parametrize("backward", [False, True])
def test_flops_of_attention_are_those_that_pytorch_counts(tmp_path, backward):
    weights = Weights(tmp_path, SIZES, False, torch.float32, "cpu")
    weights.save()
    built = ours("eager", weights)
    inputs = [torch.randn(2, 11, 24, requires_grad=backward) for _ in range(3)]

    def counted(function, *given):
        with FlopCounterMode(display=False) as counter:
            result = function(*given, built.mask(Layout((11, 11), False, "cpu")))
            if backward:
                result.sum().backward()
        return counter.get_total_flops()

    how = {"causal": False, "backward": backward, "fused": False}
    attention = formulas.attention(SIZES, [11, 11], 4, **how)
    rest = formulas.without_attention(SIZES, 22, 4, backward=backward)
    assert attention.flops == counted(built.attend, *inputs)
    assert (attention + rest).flops == counted(built.layer, inputs[0])
    assert (attention + rest).bytes == attention.bytes + rest.bytes


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


@pytest.mark.parametrize("causal", [False, True])
def test_the_length_at_which_attention_costs_as_much_as_the_rest(causal):
    assert formulas.pairs([3, 1], causal) == (7 if causal else 10)
    length = formulas.equal_length(BASE, causal)
    assert length == (2 * 4608 - 1 if causal else 4608)
    attention = formulas.attention(BASE, [length], 4, causal=causal, backward=False, fused=True)
    assert attention.flops == formulas.without_attention(BASE, length, 4, backward=False).flops


def test_memory_grows_with_the_square_only_where_weights_are_kept():
    for fused, growth in ((True, 2), (False, 4)):
        short, long = (
            formulas.highest_memory(SIZES, 1, length, 4, backward=True, fused=fused)
            for length in (2**20, 2**21)
        )
        assert long / short == pytest.approx(growth, rel=0.01)


def test_the_bytes_of_a_step_counted_by_hand():
    E, V, layers = 32, 99, 2
    config = GPT2Config(
        vocab_size=V,
        hidden_size=E,
        num_hidden_layers=layers,
        num_attention_heads=4,
        bos_token_id=None,
        eos_token_id=None,
    )
    gpt2 = GPT2LMHeadModel(config)
    # A layer has 12 E^2 weights and 9 E biases of its linear maps.
    weights = layers * (12 * E**2 + 9 * E) + V * E
    assert formulas.bytes_per_step(gpt2, 4, tokens=0) == 4 * weights
    # Keys and values of every token in every layer.
    assert formulas.bytes_per_step(gpt2, 2, tokens=7) == 2 * (weights + 2 * layers * E * 7)
    t5 = T5ForConditionalGeneration(
        T5Config(
            vocab_size=V,
            hidden_size=E,
            head_size=6,
            intermediate_size=37,
            num_hidden_layers=3,
            num_decoder_layers=layers,
            num_attention_heads=4,
        )
    )
    inner = 4 * 6
    # Four maps of self-attention, two of cross-attention, two of the feed-forward network.
    weights = layers * (6 * E * inner + 2 * E * 37) + V * E
    needed = formulas.bytes_per_step(t5, 4, tokens=7, source=5)
    assert needed == 4 * (weights + 2 * layers * inner * 12)


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.37])
def test_a_power_law_is_found_exactly(exponent):
    power = fit_power(LENGTHS, [3.5 * length**exponent for length in LENGTHS])
    assert power.exponent == pytest.approx(exponent, abs=1e-9)
    assert power.factor == pytest.approx(3.5)
    assert power.r_squared == pytest.approx(1.0)


def test_a_curve_that_is_none_has_a_lower_share_explained():
    times = [length**2 * bump for length, bump in zip(LENGTHS, [1, 3, 1, 3, 1, 3], strict=True)]
    assert 0.9 < fit_power(LENGTHS, times).r_squared < 0.97


def test_the_upper_half_and_what_has_no_exponent():
    for count, kept in ((2, 2), (3, 3), (5, 3), (6, 3), (7, 4), (8, 4)):
        assert list(range(count))[upper_half(range(count))] == list(range(count))[-kept:]
    with pytest.raises(ValueError, match="at least 3 points; here are 2"):
        fit_power([1, 2], [1, 4])
    with pytest.raises(ValueError, match="positive numbers; here is 0"):
        fit_power([1, 2, 3], [1, 0, 3])


def test_where_curves_cross():
    rising, level = [length**2 for length in LENGTHS], [700 * length for length in LENGTHS]
    assert crossing(LENGTHS, rising, level) == pytest.approx((700, 700**2))
    # Noise may let curves touch before; the last crossing counts.
    early = [10 * rising[0], *rising[1:]]
    assert crossing(LENGTHS, early, level) == pytest.approx((700, 700**2))
    assert crossing(LENGTHS[:3], rising[:3], level[:3]) is None  # not yet
    assert crossing(LENGTHS[3:], rising[3:], level[3:]) is None  # at every point
    assert crossing([], [], []) is None
