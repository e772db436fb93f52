"""The bookkeeping of beam search, by hand."""

from dataclasses import replace

import pytest
import torch

from minitransformer.generation.beam_search import (
    WORST,
    Continuation,
    Search,
    _continuations,
    is_over,
)
from minitransformer.generation.stopping import StoppingCriteria
from minitransformer.generation_config import GenerationConfig

ENDS = (5, 6)


def search(**fields: object) -> Search:
    config = GenerationConfig(num_beams=2, max_new_tokens=9, eos_token_id=list(ENDS), **fields)
    return Search(config, StoppingCriteria(ENDS, None, torch.device("cpu")), ())


def best(*continuations: tuple[float, int, int]) -> list[Continuation]:
    return [Continuation(*continuation) for continuation in continuations]


def scores(beams: Search) -> list[float]:
    return [round(beam.score, 4) for beam in beams.finished]


def test_beams_go_on_and_end():
    beams = search()
    assert beams.advance(best((-1.0, 0, 8), (-2.0, 0, 5), (-3.0, 0, 9), (-4.0, 0, 6)))
    # The second ends; the fourth ends too, but is not among the best two.
    assert [beam.tokens for beam in beams.running] == [(8,), (9,)]
    assert [beam.tokens for beam in beams.finished] == [(5,)]
    assert beams.advance(best((-1.5, 0, 5), (-3.5, 1, 8), (-3.6, 1, 9), (-4.0, 0, 6)))
    assert [beam.tokens for beam in beams.running] == [(9, 8), (9, 9)]
    assert beams.parents == [1, 1]
    assert [beam.tokens for beam in beams.finished] == [(8, 5), (5,)]
    assert scores(beams) == [-0.75, -2.0]  # of two tokens, and of one


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0, -1.0, 32, -32, -32.0])
def test_the_length_of_a_hypothesis_counts_its_end(penalty):
    beams = search(length_penalty=penalty)
    beams.advance(best((-1.0, 0, 8), (-2.0, 0, 9), (-3.0, 0, 7), (-4.0, 0, 7)))
    beams.advance(best((-4.0, 0, 5), (-5.0, 0, 9), (-6.0, 0, 7), (-7.0, 0, 7)))
    assert [beam.score for beam in beams.finished] == [-4.0 / 2**penalty]


CLOSING = best((-1.0, 0, 5), (-1.2, 0, 6), (-9.0, 0, 7), (-9.1, 0, 8))
BETTER = best((-9.2, 0, 5), (-9.3, 0, 7), (-9.4, 0, 8), (-9.5, 0, 9))


def test_no_hypothesis_is_taken_once_none_can_improve():
    """Though, by its greater length, it would have the better score."""
    beams = search(length_penalty=9.0)
    beams.advance(CLOSING)
    assert beams.full and not beams.improvable
    beams.advance(BETTER)
    assert scores(beams) == [-1.0, -1.2]


def test_never_assumes_the_greatest_length():
    beams = search(length_penalty=9.0, early_stopping="never")
    beams.advance(CLOSING)
    assert beams.full and beams.improvable
    beams.advance(BETTER)
    assert scores(beams) == [round(-9.2 / 2**9, 4), -1.0]
    short = search(length_penalty=-1.0, early_stopping="never")  # where length only costs
    short.advance(best((-1.0, 0, 5), (-1.2, 0, 6), (-1.1, 0, 7), (-9.1, 0, 8)))
    assert short.improvable  # -1.1 now; after nine tokens no more


def test_early_takes_what_came_first():
    first = best((-8.0, 0, 5), (-8.5, 0, 6), (-8.4, 0, 7), (-9.1, 0, 8))
    beams, patient = search(early_stopping=True), search()
    for either in (beams, patient):
        either.advance(first)
        assert either.full and either.improvable  # -8.4 is better than -8.5
    assert is_over([beams], beams.config) and not is_over([patient], patient.config)
    assert not is_over([beams, search(early_stopping=True)], beams.config)
    for either in (beams, patient):
        either.advance(best((-9.0, 0, 5), (-9.3, 0, 7), (-9.4, 0, 8), (-9.5, 0, 9)))
    assert scores(beams) == [-8.0, -8.5]
    assert scores(patient) == [-4.5, -8.0]
    patient.advance(best((-30.0, 0, 7), (-31.0, 0, 8), (-32.0, 0, 9), (-33.0, 0, 7)))
    assert not patient.improvable and is_over([patient], patient.config)


def test_what_cannot_be_improved_stays_so():
    beams = search(length_penalty=9.0)
    beams.advance(CLOSING)
    beams.advance(BETTER)
    assert beams.running[0].score / 2**9.0 > beams.finished[-1].score
    assert not beams.improvable


def test_what_is_forbidden_is_no_hypothesis():
    beams = search()
    beams.advance(best((-1.0, 0, 5), (-float("inf"), 0, 6), (-float("inf"), 0, 7), (WORST, 1, 8)))
    assert scores(beams) == [-1.0]
    assert [beam.score for beam in beams.hypotheses()] == [-1.0]


def test_a_search_is_stuck_where_nothing_follows_and_nothing_was_found():
    forbidden = -float("inf")
    nothing = best((forbidden, 0, 5), (WORST, 1, 7), (WORST, 1, 8), (forbidden, 0, 6))
    beams = search()
    assert beams.is_stuck(nothing)
    assert not beams.is_stuck([*nothing, Continuation(-1.0, 0, 7)])
    beams.advance(best((-1.0, 0, 5), (-2.0, 0, 7), (-3.0, 0, 8), (-4.0, 0, 9)))
    assert scores(beams) == [-1.0]
    assert not beams.is_stuck(nothing)  # there is a hypothesis
    not_a_number = best((-1.0, 0, 5), (float("nan"), 0, 7))
    assert beams.is_stuck(not_a_number)
    beams.improvable = False
    assert not beams.is_stuck(not_a_number)  # what it found no longer changes


def test_a_beam_that_is_no_number_is_seen_whatever_is_sampled():
    beams = search(do_sample=True, top_k=0)
    config = replace(beams.config, eos_token_id=None)
    scores = torch.tensor([[0.0], [torch.nan]]).expand(2, 50)
    for seed in range(100):  # in about six of them, all samples are of the first beam
        generator = torch.Generator().manual_seed(seed)
        (continuations,) = _continuations(scores.clone(), [beams], config, generator)
        assert beams.is_stuck(continuations)


def test_sampled_beams_are_sorted_by_score():
    beams = search(do_sample=True)
    beams.advance(best((-3.0, 0, 7), (-4.0, 0, 8), (-1.0, 0, 9), (-2.0, 0, 5)))
    assert [beam.score for beam in beams.running] == [-1.0, -3.0]
    assert beams.finished == []  # it was not among the first two


def test_where_too_few_go_on_what_ended_fills_up():
    beams = search()
    assert beams.advance(best((-1.0, 0, 5), (-2.0, 0, 6), (-3.0, 0, 7)))
    assert beams.running[0].tokens == (7,)
    assert beams.running[1].score < -1e8
    assert not beams.advance(best((-4.0, 0, 5), (-5.0, 0, 6)))


def test_at_the_last_token_all_end():
    beams = search()
    for _ in range(8):
        assert beams.advance(best((-1.0, 0, 7), (-2.0, 0, 8), (-3.0, 0, 9), (-4.0, 0, 7)))
    assert not beams.advance(best((-1.0, 0, 7), (-2.0, 0, 8), (-3.0, 0, 9), (-4.0, 0, 7)))
    assert [len(beam.tokens) for beam in beams.finished] == [9, 9]
