"""Each processor beside transformers' namesake, logit for logit."""

import pytest
import torch

from minitransformer.generation import processors
from minitransformer.generation.processors import make_processors
from minitransformer.models.generation_config import GenerationConfig

logits_process = pytest.importorskip(
    "transformers.generation.logits_process", reason="the comparison needs transformers"
)

V = 13
ENDS = torch.tensor([2, 5])
SOURCE = torch.tensor([[3, 4, 3, 9, 4, 3], [7, 8, 7, 7, 8, 0]])
# Rows with repeated tokens and n-grams; four rows for two sources.
ROWS = torch.tensor(
    [[3, 4, 3, 9, 4, 3], [7, 7, 8, 7, 7, 7], [0, 9, 4, 9, 0, 9], [12, 11, 12, 11, 12, 11]]
)


def cases():
    ours, theirs = processors, logits_process
    yield ours.RepetitionPenalty(1.3), theirs.RepetitionPenaltyLogitsProcessor(1.3)
    yield ours.RepetitionPenalty(0.7), theirs.RepetitionPenaltyLogitsProcessor(0.7)
    yield (
        ours.SourceRepetitionPenalty(1.4, SOURCE),
        theirs.EncoderRepetitionPenaltyLogitsProcessor(1.4, SOURCE),
    )
    for size in (1, 2, 3, 4, 7):
        yield ours.NoRepeatedNGram(size), theirs.NoRepeatNGramLogitsProcessor(size)
    for size in (1, 2, 3, 6, 7):
        yield (
            ours.NoNGramOfSource(size, SOURCE),
            theirs.EncoderNoRepeatNGramLogitsProcessor(size, SOURCE),
        )
    yield ours.NoTokenBefore(5, ENDS), theirs.MinLengthLogitsProcessor(5, ENDS)
    yield ours.NoTokenBefore(6, ENDS), theirs.MinNewTokensLengthLogitsProcessor(2, 4, ENDS)
    yield ours.OnlyTokenAt(1, torch.tensor([4])), theirs.ForcedBOSTokenLogitsProcessor(4)
    yield ours.OnlyTokenAt(3, ENDS), theirs.ForcedEOSTokenLogitsProcessor(4, ENDS)
    yield (
        ours.GrowingWishToEnd(3, 1.5, ENDS),
        theirs.ExponentialDecayLengthPenalty((1, 1.5), ENDS, 2),
    )
    yield ours.NoToken(ENDS), theirs.SuppressTokensLogitsProcessor([2, 5])
    yield ours.NoTokenAt(2, ENDS), theirs.SuppressTokensAtBeginLogitsProcessor([2, 5], 2)


def scores_for(rows: torch.Tensor) -> torch.Tensor:
    scores = 3 * torch.randn(len(rows), V, generator=torch.Generator().manual_seed(0))
    scores[:, 11] = scores[:1, 5] = -torch.inf  # what another processor has forbidden
    return scores


def names(case) -> str:
    return f"{case[0]}".split("source_ids")[0]


@pytest.mark.parametrize("case", list(cases()), ids=names)
def test_every_logit_is_theirs(case):
    ours, theirs = case
    changed = False
    for length in range(1, ROWS.shape[1] + 1):
        rows = ROWS[:, :length]
        expected = theirs(rows, scores_for(rows))
        assert torch.equal(ours(rows, scores_for(rows)), expected), length
        changed |= not torch.equal(expected, scores_for(rows))
    assert changed or "size=7" in str(ours)


def test_bad_words_of_every_length():
    words = [[4], [2], [9, 4], [3, 9], [4, 3, 9], [7, 8, 7, 7], [12, 11]]
    theirs = logits_process.NoBadWordsLogitsProcessor(words, eos_token_id=ENDS)
    made = make(bad_words_ids=words, eos_token_id=[2, 5])
    assert len(made) == 1 + 5
    for length in range(1, ROWS.shape[1] + 1):
        rows = ROWS[:, :length]
        scores = scores_for(rows)
        for process in made:
            scores = process(rows, scores)
        assert torch.equal(scores, theirs(rows, scores_for(rows)))
        assert scores[0, 2] > -torch.inf  # the token that ends a row is no bad word


def make(prompt_length: int = 2, **fields: object) -> list[processors.Processor]:
    config = GenerationConfig(**{"max_new_tokens": 4, **fields})
    return make_processors(config, prompt_length=prompt_length, source_ids=SOURCE)


def test_what_is_off_costs_nothing():
    assert make() == []
    assert make(min_new_tokens=3) == []  # nothing ends a row
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
        "SourceRepetitionPenalty",
        "RepetitionPenalty",
        "NoRepeatedNGram",
        "NoNGramOfSource",
        "NoToken",
        "NoWord",
        "NoTokenBefore",
        "OnlyTokenAt",
        "OnlyTokenAt",
        "GrowingWishToEnd",
        "NoToken",
        "NoTokenAt",
    ]
    lengths = [process.length for process in made if hasattr(process, "length")]
    assert lengths == [2 + 2, 1, 2 + 4 - 1, 2]


def test_where_the_first_token_is_forced_the_second_is_the_first_choice():
    first = make(1, begin_suppress_tokens=[7], forced_bos_token_id=3)[-1]
    assert first == processors.NoTokenAt(2, first.tokens)


# Lengths count padding, as in transformers.
BLIND_TO_LENGTH = [p for p, _ in cases() if not hasattr(p, "length") and not hasattr(p, "start")]


@pytest.mark.parametrize("process", BLIND_TO_LENGTH, ids=lambda process: names([process]))
def test_padding_is_no_token(process):
    """V in the place of a token: the row has the scores that it has without its padding."""
    rows, padded = ROWS[:2, :4], ROWS[:2, :4].clone()
    padded = torch.cat([torch.full((2, 2), V), padded], dim=1)
    assert torch.equal(process(padded, scores_for(padded)), process(rows, scores_for(rows)))


def test_padding_of_the_source_is_no_token():
    wide = torch.cat([SOURCE, torch.full((2, 3), V)], dim=1)
    left = torch.cat([torch.full((2, 3), V), SOURCE], dim=1)
    for kind, value in (
        (processors.SourceRepetitionPenalty, 1.4),
        (processors.NoNGramOfSource, 1),
        (processors.NoNGramOfSource, 2),
    ):
        expected = kind(value, SOURCE)(ROWS, scores_for(ROWS))
        for source in (wide, left):
            assert torch.equal(kind(value, source)(ROWS, scores_for(ROWS)), expected)
