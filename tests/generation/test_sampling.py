"""Sampling keeps the tokens that transformers keeps, and draws each with its probability."""

import pytest
import torch

from minitransformer.generation import generate, sampling
from minitransformer.generation.sampling import Candidates, candidates, draw
from minitransformer.generation_config import GenerationConfig
from tests.tiny import language_model, language_models, prompts

logits_process = pytest.importorskip(
    "transformers.generation.logits_process", reason="the comparison needs transformers"
)


def theirs(scores: torch.Tensor, keep: int, **fields: object) -> torch.Tensor:
    """What transformers' processors leave, in its order."""
    chain = {
        "temperature": logits_process.TemperatureLogitsWarper,
        "top_k": lambda k: logits_process.TopKLogitsWarper(k, min_tokens_to_keep=keep),
        "top_p": lambda p: logits_process.TopPLogitsWarper(p, min_tokens_to_keep=keep),
        "min_p": lambda p: logits_process.MinPLogitsWarper(p, min_tokens_to_keep=keep),
        "typical_p": lambda p: logits_process.TypicalLogitsWarper(p, min_tokens_to_keep=keep),
    }
    for name, make in chain.items():
        if name in fields:
            scores = make(fields[name])(None, scores)
    return scores


CASES = [
    {"temperature": 0.6},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": 500},
    {"top_p": 0.7},
    {"top_p": 0.999},
    {"top_p": 0.01},
    {"min_p": 0.1},
    {"min_p": 1.0},
    {"typical_p": 0.5},
    {"typical_p": 0.95},
    {"temperature": 1.5, "top_k": 20, "top_p": 0.8, "min_p": 0.05, "typical_p": 0.9},
    {"temperature": 0.8, "top_p": 0.9, "typical_p": 0.6},
    {"min_p": 0.02, "typical_p": 0.6},
]


@pytest.mark.parametrize("partial_sort_size", [1024, 2])
@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("fields", CASES, ids=str)
def test_the_candidates_are_theirs_logit_for_logit(fields, keep, partial_sort_size, monkeypatch):
    monkeypatch.setattr(sampling, "_PARTIAL_SORT_SIZE", partial_sort_size)
    scores = 3 * torch.randn(6, 60, generator=torch.Generator().manual_seed(1))
    scores[2, 10:50] = -torch.inf
    config = GenerationConfig(do_sample=True, **{"top_k": 0, **fields})
    left = candidates(scores.clone(), config, min_tokens_to_keep=keep)
    expected = theirs(scores, keep, **fields)
    ids = torch.arange(60).expand(6, 60) if left.ids is None else left.ids
    whole = torch.full_like(scores, -torch.inf).scatter(1, ids, left.scores)
    assert torch.equal(whole, expected)


def test_few_candidates_are_few_numbers():
    scores = torch.randn(2, 60)
    config = GenerationConfig(do_sample=True, top_k=5, top_p=0.9)
    assert candidates(scores, config).scores.shape == (2, 5)


def test_a_nucleus_is_looked_for_among_the_best_first(monkeypatch):
    config = GenerationConfig(do_sample=True, top_k=0, top_p=0.9)
    peaked = torch.zeros(2, 3000)
    peaked[:, 1234] = 20.0
    assert candidates(peaked, config).scores.shape == (2, 1024)
    assert candidates(torch.zeros(2, 3000), config).scores.shape == (2, 3000)


@pytest.mark.parametrize("partial_sort_size", [1024, 3])
@pytest.mark.parametrize(
    ("probabilities", "p", "kept"),
    [
        ([0.3, 0.1, 0.1, 0.5], 0.8, [0, 3]),
        ([0.1, 0.4, 0.2, 0.3], 0.7, [1, 3]),
        ([0.9, 0.05, 0.03, 0.02], 0.9, [0]),
        ([0.1, 0.6, 0.1, 0.2], 0.8, [1, 3]),
        ([0.25, 0.25, 0.25, 0.25], 0.5, [0, 1]),  # two of four equal ones
        ([0.3, 0.1, 0.1, 0.5], 0.81, [0, 1, 3]),
    ],
)
def test_tokens_that_reach_p_exactly_are_enough(
    probabilities, p, kept, partial_sort_size, monkeypatch
):
    monkeypatch.setattr(sampling, "_PARTIAL_SORT_SIZE", partial_sort_size)
    scores = torch.tensor([probabilities]).log()
    left = candidates(scores, GenerationConfig(do_sample=True, top_k=0, top_p=p))
    ids = left.ids[left.scores > -torch.inf].tolist()
    number_of_theirs = int((theirs(scores, 1, top_p=p) > -torch.inf).sum())
    assert len(ids) == len(kept) == number_of_theirs
    assert sorted(probabilities[i] for i in ids) == sorted(probabilities[i] for i in kept)


def test_top_k_keeps_k_of_those_that_tie():
    """transformers keeps all that tie for the last place."""
    scores = torch.tensor([[1.0, 0.0, 2.0, 0.0, 0.0]])
    left = candidates(scores, GenerationConfig(do_sample=True, top_k=3))
    assert sorted(left.scores[0].tolist()) == [0.0, 1.0, 2.0]
    assert int((theirs(scores, 1, top_k=3) > -torch.inf).sum()) == 5


@pytest.mark.parametrize("p", [0.8, 0.95])
def test_top_p_counts_the_probability_of_the_whole_vocabulary(p):
    """The first 1,024 tokens have 0.87 together; 0.8 of all is more than 0.8 of these."""
    order = torch.randperm(3000, generator=torch.Generator().manual_seed(0))
    scores = (-0.002 * order)[None]
    probabilities = scores.double().softmax(dim=1).sort(descending=True).values[0]
    nucleus = int((probabilities.cumsum(0) - probabilities < p).sum())
    assert (nucleus < 1024) == (p == 0.8)
    left = candidates(scores, GenerationConfig(do_sample=True, top_k=0, top_p=p))
    kept = left.ids[left.scores > -torch.inf]
    assert sorted(order[kept].tolist()) == list(range(nucleus))


def chi_squared(counts: torch.Tensor, probabilities: torch.Tensor) -> float:
    there = probabilities > 0
    assert counts[~there].sum() == 0
    expected = probabilities[there] * counts.sum()
    assert expected.min() >= 5, "too few for the test to mean anything"
    return float(((counts[there] - expected) ** 2 / expected).sum())


def rare(degrees: int) -> float:
    """What a chi-squared number exceeds once in a thousand times (Wilson and Hilferty 1931)."""
    width = 2 / (9 * degrees)
    return degrees * (1 - width + 3.09 * width**0.5) ** 3


def test_tokens_are_sampled_by_their_probability():
    scores = torch.tensor(
        [2.0, 1.0, 0.0, -1.0, 0.5, -torch.inf, 1.5, -2.0, 0.3, -0.4, 1.1, -torch.inf]
    )
    drawn, best = draw(
        Candidates(scores.expand(20_000, -1), None), torch.Generator().manual_seed(0)
    )
    assert (best == 2.0).all()
    counts = drawn.bincount(minlength=12).double()
    assert chi_squared(counts, scores.double().softmax(0)) < rare(9)


def test_tokens_of_probability_zero_are_never_sampled():
    scores = torch.full((50_000, 3), -torch.inf)
    scores[:, 1] = 0.0
    assert (draw(Candidates(scores, None), None)[0] == 1).all()
    scores[7, 1] = -torch.inf
    scores[9, 0] = torch.nan
    _, best = draw(Candidates(scores, None), None)
    assert (~best.isfinite()).nonzero().flatten().tolist() == [7, 9]


def test_the_smallest_random_number_samples_a_possible_token(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *shape, **_settings: torch.zeros(*shape))
    scores = torch.tensor([[-torch.inf, -torch.inf, 0.0, 1.0]])
    assert draw(Candidates(scores, None), None)[0].tolist() == [2]


@pytest.mark.parametrize("token", [1, 2, 3, 4, 99_999])
def test_a_token_too_rare_for_a_sum_in_float32_is_drawn(token, monkeypatch):
    """Beside the first token, the sums of four others are one number in float32."""
    scores = torch.zeros(1, 100_001)
    scores[0, 0] = 18.0
    probabilities = scores.softmax(dim=1).double()
    middle = probabilities[:, :token].sum() + probabilities[0, token] / 2
    uniform = middle / probabilities.sum()
    monkeypatch.setattr(torch, "rand", lambda *shape, **_settings: uniform.expand(shape))
    assert draw(Candidates(scores, None), None)[0].tolist() == [token]


@pytest.mark.slow
@pytest.mark.parametrize(
    "fields",
    [
        {"top_k": 8},
        {"top_k": 0, "top_p": 0.55, "temperature": 1.3},
        {"top_k": 12, "repetition_penalty": 1.5, "temperature": 1.5},
    ],
    ids=str,
)
def test_a_model_samples_with_the_probabilities_of_transformers(fields):
    our_model, their_model = language_models("GPT2")
    ids = torch.tensor([[9, 20, 9, 31]])
    number = 4000
    result = generate(
        our_model, ids, max_new_tokens=1, do_sample=True, num_return_sequences=number, seed=0,
        **fields,
    )  # fmt: skip
    expected = their_model.generate(
        ids, max_new_tokens=1, do_sample=True, output_scores=True, return_dict_in_generate=True,
        pad_token_id=1, **fields,
    )  # fmt: skip
    probabilities = expected.scores[0][0].double().softmax(0)
    counts = result.new_tokens[:, 0].bincount(minlength=99).double()
    degrees = int((probabilities > 0).sum()) - 1
    assert chi_squared(counts, probabilities) < rare(degrees)


def test_a_seed_decides():
    fields = {"max_new_tokens": 12, "do_sample": True, "pad_token_id": 1}
    batch = prompts("GPT2", [4, 2])
    results = [
        generate(language_model("GPT2"), **batch, **fields, seed=seed).sequences.tolist()
        for seed in (3, 3, 4)
    ]
    assert results[0] == results[1] != results[2]
    torch.manual_seed(0)
    state = torch.get_rng_state()
    generate(language_model("GPT2"), **batch, **fields, seed=3)
    assert torch.equal(torch.get_rng_state(), state)  # PyTorch's global generator is not used
    unseeded = [
        generate(language_model("GPT2"), **batch, **fields).sequences.tolist() for _ in range(2)
    ]
    assert unseeded[0] != unseeded[1]
    torch.manual_seed(0)
    assert generate(language_model("GPT2"), **batch, **fields).sequences.tolist() == unseeded[0]


@pytest.mark.parametrize("family", ["GPT2", "T5"])
def test_sampled_sequences_are_the_same_without_a_cache(family):
    batch = prompts(family, [5, 3])
    fields = {"max_new_tokens": 8, "do_sample": True, "num_return_sequences": 3, "seed": 7}
    fields |= {"pad_token_id": 1, "top_k": 20, "eos_token_id": list(range(2, 12))}
    quick = generate(language_model(family), **batch, **fields)
    slow = generate(language_model(family), **batch, **fields, use_cache=False)
    assert torch.equal(quick.sequences, slow.sequences)
    assert len({tuple(ids) for ids in quick.new_tokens.tolist()}) > 4


def test_sampled_beams():
    batch = prompts("GPT2", [5, 3])
    fields = {"max_new_tokens": 6, "num_beams": 3, "num_return_sequences": 2, "do_sample": True}
    fields |= {"pad_token_id": 1, "eos_token_id": 98}
    first, again, other, slow = (
        generate(language_model("GPT2"), **batch, **fields, seed=seed, use_cache=use_cache)
        for seed, use_cache in ((0, True), (0, True), (1, True), (0, False))
    )
    assert first.sequences.tolist() == again.sequences.tolist() == slow.sequences.tolist()
    assert first.sequences.tolist() != other.sequences.tolist()
    assert (first.sequences_scores.view(2, 2).diff() <= 0).all()
    with torch.no_grad():
        logits = language_model("GPT2")(first.sequences[:2]).logits.log_softmax(
            2
        )  # of the longer prompt
    scores = logits[:, 4:-1].gather(2, first.new_tokens[:2, :, None]).squeeze(2)
    assert (first.new_tokens[:2] != 98).all()
    torch.testing.assert_close(scores.mean(1), first.sequences_scores[:2], rtol=1e-5, atol=1e-5)


def test_the_better_of_two_sampled_beams():
    """One new token: two are sampled without replacement, and the likelier one is returned."""
    ids = torch.tensor([[9, 20, 9, 31]])
    result = generate(
        language_model("GPT2"), ids.expand(3000, -1), max_new_tokens=1, num_beams=2, do_sample=True,
        seed=0, top_k=7, pad_token_id=1,
    )  # fmt: skip
    with torch.no_grad():
        scores = language_model("GPT2").next_token_logits(ids)[0].double()
    best, ids = scores.topk(7)
    p = best.softmax(0)
    expected = torch.zeros(99, dtype=torch.float64)
    for i in range(7):
        for j in range(i + 1, 7):
            expected[ids[i]] += p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
    assert float(expected.sum()) == pytest.approx(1)
    counts = result.new_tokens[:, 0].bincount(minlength=99).double()
    assert chi_squared(counts, expected) < rare(5)
