"""The formulas by hand, and curves whose answers are known."""

import pytest

from benchmarks import formulas
from benchmarks.formulas import exponent
from minitransformer.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minitransformer.models.t5 import T5Config, T5ForConditionalGeneration

LENGTHS = [128, 256, 512, 1024, 2048, 4096]


@pytest.mark.parametrize("causal", [False, True])
def test_the_length_at_which_attention_costs_as_much_as_the_rest(causal):
    E, I = 48, 100  # noqa: E741
    _, length = formulas.equal_length(E, I, causal)
    pairs = length * (length + 1) // 2 if causal else length**2
    assert 4 * E * pairs == length * (8 * E * E + 4 * E * I)


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


def test_the_exponent_is_that_of_the_upper_half():
    costs = [1e9, 1e9, 1e9, *(3.5 * length**2.37 for length in LENGTHS[3:])]
    assert exponent(LENGTHS, costs) == pytest.approx((2.37, 1.0))
    bent = [length**2 * bump for length, bump in zip(LENGTHS, [1, 3, 1, 3, 1, 3], strict=True)]
    assert 0.3 < exponent(LENGTHS, bent)[1] < 0.97
    assert exponent(LENGTHS[:2], costs[:2]) is None
