"""Each processor compared with that of transformers, logit for logit."""

import pytest
import torch

from minitransformer.generation import logits_processors
from minitransformer.generation.logits_processors import LogitsProcessor, make_processors
from minitransformer.generation_config import GenerationConfig

logits_process = pytest.importorskip(
    "transformers.generation.logits_process", reason="the comparison needs transformers"
)

V = 13
ENDS = torch.tensor([2, 5])
SOURCE = torch.tensor([[3, 4, 3, 9, 4, 3], [7, 8, 7, 7, 8, 0]])
# Sequences with repeated tokens and n-grams; four for two sources.
SEQUENCES = torch.tensor(
    [[3, 4, 3, 9, 4, 3], [7, 7, 8, 7, 7, 7], [0, 9, 4, 9, 0, 9], [12, 11, 12, 11, 12, 11]]
)


def cases():
    ours, theirs = logits_processors, logits_process
    yield ours.RepetitionPenalty(1.3), theirs.RepetitionPenaltyLogitsProcessor(1.3)
    yield ours.RepetitionPenalty(0.7), theirs.RepetitionPenaltyLogitsProcessor(0.7)
    yield (
        ours.EncoderRepetitionPenalty(1.4, SOURCE),
        theirs.EncoderRepetitionPenaltyLogitsProcessor(1.4, SOURCE),
    )
    for size in (1, 2, 3, 4, 7):
        yield ours.NoRepeatNGram(size), theirs.NoRepeatNGramLogitsProcessor(size)
    for size in (1, 2, 3, 6, 7):
        yield (
            ours.EncoderNoRepeatNGram(size, SOURCE),
            theirs.EncoderNoRepeatNGramLogitsProcessor(size, SOURCE),
        )
    yield ours.MinLength(5, ENDS), theirs.MinLengthLogitsProcessor(5, ENDS)
    yield ours.MinLength(6, ENDS), theirs.MinNewTokensLengthLogitsProcessor(2, 4, ENDS)
    yield ours.ForcedTokensAt(1, torch.tensor([4])), theirs.ForcedBOSTokenLogitsProcessor(4)
    yield ours.ForcedTokensAt(3, ENDS), theirs.ForcedEOSTokenLogitsProcessor(4, ENDS)
    yield (
        ours.ExponentialDecayLengthPenalty(3, 1.5, ENDS),
        theirs.ExponentialDecayLengthPenalty((1, 1.5), ENDS, 2),
    )
    yield ours.SuppressTokens(ENDS), theirs.SuppressTokensLogitsProcessor([2, 5])
    yield ours.SuppressTokensAt(2, ENDS), theirs.SuppressTokensAtBeginLogitsProcessor([2, 5], 2)


def scores_for(ids: torch.Tensor) -> torch.Tensor:
    scores = 3 * torch.randn(len(ids), V, generator=torch.Generator().manual_seed(0))
    scores[:, 11] = scores[:1, 5] = -torch.inf  # what another processor has forbidden
    return scores


def names(case) -> str:
    return f"{case[0]}".split("source_ids")[0]


@pytest.mark.parametrize("case", list(cases()), ids=names)
def test_every_logit_is_theirs(case):
    ours, theirs = case
    changed = False
    for length in range(1, SEQUENCES.shape[1] + 1):
        ids = SEQUENCES[:, :length]
        expected = theirs(ids, scores_for(ids))
        assert torch.equal(ours(ids, scores_for(ids)), expected), length
        changed |= not torch.equal(expected, scores_for(ids))
    assert changed or "size=7" in str(ours)


def test_bad_words_of_every_length():
    words = [[4], [2], [9, 4], [3, 9], [4, 3, 9], [7, 8, 7, 7], [12, 11]]
    theirs = logits_process.NoBadWordsLogitsProcessor(words, eos_token_id=ENDS)
    made = make(bad_words_ids=words, eos_token_id=[2, 5])
    assert len(made) == 1 + 5
    for length in range(1, SEQUENCES.shape[1] + 1):
        ids = SEQUENCES[:, :length]
        scores = scores_for(ids)
        for process in made:
            scores = process(ids, scores)
        assert torch.equal(scores, theirs(ids, scores_for(ids)))
        assert scores[0, 2] > -torch.inf  # the token that ends a sequence is no bad word


def make(prompt_length: int = 2, **fields: object) -> list[LogitsProcessor]:
    config = GenerationConfig(**{"max_new_tokens": 4, **fields})
    return make_processors(config, prompt_length=prompt_length, source_ids=SOURCE)


def test_what_is_off_costs_nothing():
    assert make() == []
    assert make(min_new_tokens=3) == []  # nothing ends a sequence
    assert make(bad_words_ids=[[2]], eos_token_id=2) == []


def test_the_order_is_theirs():
    """A forced token is forced though it was forbidden before; suppressed, it stays suppressed."""
    made = make(
        encoder_repetition_penalty=2.0,
        repetition_penalty=2.0,
        no_repeat_ngram_size=2,
        encoder_no_repeat_ngram_size=2,
        bad_words_ids=[[3], [4, 5]],
        min_new_tokens=2,
        eos_token_id=2,
        forced_bos_token_id=3,
        forced_eos_token_id=4,
        exponential_decay_length_penalty=(1, 1.1),
        suppress_tokens=[6],
        begin_suppress_tokens=[7],
    )
    assert [type(process).__name__ for process in made] == [
        "EncoderRepetitionPenalty",
        "RepetitionPenalty",
        "NoRepeatNGram",
        "EncoderNoRepeatNGram",
        "SuppressTokens",
        "NoBadWord",
        "MinLength",
        "ForcedTokensAt",
        "ForcedTokensAt",
        "ExponentialDecayLengthPenalty",
        "SuppressTokens",
        "SuppressTokensAt",
    ]
    lengths = [process.length for process in made if hasattr(process, "length")]
    assert lengths == [2 + 2, 1, 2 + 4 - 1, 2]


def test_where_the_first_token_is_forced_the_second_is_the_first_choice():
    first = make(1, begin_suppress_tokens=[7], forced_bos_token_id=3)[-1]
    assert first == logits_processors.SuppressTokensAt(2, first.tokens)


# Lengths count padding, as in transformers.
BLIND_TO_LENGTH = [p for p, _ in cases() if not hasattr(p, "length") and not hasattr(p, "start")]


@pytest.mark.parametrize("process", BLIND_TO_LENGTH, ids=lambda process: names([process]))
def test_padding_is_no_token(process):
    """The id V is padding: the scores are those of the sequence without it."""
    ids, padded = SEQUENCES[:2, :4], SEQUENCES[:2, :4].clone()
    padded = torch.cat([torch.full((2, 2), V), padded], dim=1)
    assert torch.equal(process(padded, scores_for(padded)), process(ids, scores_for(ids)))


def test_padding_of_the_source_is_no_token():
    wide = torch.cat([SOURCE, torch.full((2, 3), V)], dim=1)
    left = torch.cat([torch.full((2, 3), V), SOURCE], dim=1)
    for kind, value in (
        (logits_processors.EncoderRepetitionPenalty, 1.4),
        (logits_processors.EncoderNoRepeatNGram, 1),
        (logits_processors.EncoderNoRepeatNGram, 2),
    ):
        expected = kind(value, SOURCE)(SEQUENCES, scores_for(SEQUENCES))
        for source in (wide, left):
            assert torch.equal(kind(value, source)(SEQUENCES, scores_for(SEQUENCES)), expected)
