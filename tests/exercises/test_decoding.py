"""The steps of the exercises of decoding and of text tasks give what the library gives."""

import random

import pytest
import torch
from torch.nn import functional as F

from minitransformer.exercises import decoding
from minitransformer.generation.beam_search import search_beams
from minitransformer.generation.sampling import candidates
from minitransformer.generation.stopping import StoppingCriteria
from minitransformer.generation_config import GenerationConfig
from minitransformer.tasks.question_answering import (
    _answers,
    best_spans,
    join_windows,
    may_be_answer,
)
from minitransformer.tasks.tag_schemes import TagScheme
from minitransformer.tasks.token_classification import ScoredToken, group_tokens


def cases(exercise):
    return pytest.mark.parametrize("case", [*exercise.cases()], ids=lambda case: case.label)


# ---- greedy_step ----


def test_steps_with_a_cache_give_the_logits_of_one_causal_call():
    weights = next(iter(decoding.GREEDY_STEP.cases())).inputs["weights"]
    tokens = torch.tensor([3, 1, 4, 1, 5])
    hidden = weights["token"][tokens] + weights["position"][: len(tokens)]
    query, key, value = (hidden @ weights[name] for name in ("query", "key", "value"))
    context = F.scaled_dot_product_attention(
        *(t[None] for t in (query, key, value)), is_causal=True
    )
    expected = (hidden + context[0] @ weights["output"]) @ weights["token"].T

    # Two tokens of padding come first, whose keys and values are anything.
    keys, values = torch.randn(2, 2, 2, 3, dtype=torch.float64)
    mask, finished = torch.zeros(2, 2, dtype=torch.bool), torch.zeros(2, dtype=torch.bool)
    for number, token in enumerate(tokens):
        found = decoding.GreedyStepSteps()(
            token.expand(2), keys, values, mask, finished, weights, 99, 0
        )
        keys, values, mask, finished = (
            found[name] for name in ("keys", "values", "mask", "finished")
        )
        torch.testing.assert_close(found["logits"], expected[number].expand(2, -1))
    torch.testing.assert_close(keys[:, 2:], key.expand(2, -1, -1))
    torch.testing.assert_close(values[:, 2:], value.expand(2, -1, -1))
    assert mask.sum(dim=1).tolist() == [5, 5]


# ---- beam_step ----


class Bigrams:
    """A session of a model whose next token depends on the last one alone."""

    def __init__(self, table):
        self.table, self.prompt = table, torch.tensor([[0], [1]])

    def start(self):
        return self.table[self.prompt[:, -1]]

    def step(self, history):
        return self.table[history[:, -1]]

    def select(self, sequences):
        self.prompt = self.prompt[sequences]


def test_steps_give_the_sequences_of_beam_search():
    table = 2 * torch.randn(9, 9, generator=torch.Generator().manual_seed(3))
    table[:, 8] = -1e4  # the end token
    config = GenerationConfig(
        num_beams=4,
        num_return_sequences=4,
        max_new_tokens=5,
        eos_token_id=8,
        length_penalty=0.0,
        early_stopping="never",
    )
    stopping = StoppingCriteria((8,), None, table.device)
    found = search_beams(Bigrams(table), config, [], stopping, None, torch.nn.Identity())

    sequences, scores = torch.zeros(2, 4, 0, dtype=torch.int64), torch.zeros(2, 4)
    last = torch.tensor([[0], [1]]).expand(2, 4)
    for _ in range(5):
        result = decoding.BeamStepSteps()(table[last], sequences, scores, 8, 7)
        sequences, scores = result["sequences"], result["scores"]
        last = sequences[..., -1]
    assert sequences.tolist() == [[list(beam.tokens) for beam in beams] for beams in found]
    expected = torch.tensor([[beam.score for beam in beams] for beams in found])
    torch.testing.assert_close(scores, expected)


# ---- sample_filter ----


@cases(decoding.SAMPLE_FILTER)
def test_filters_give_the_candidates_of_the_library(case):
    logits, temperature, top_k, top_p = case.inputs.values()
    config = GenerationConfig(temperature=temperature, top_k=top_k, top_p=top_p, do_sample=True)
    found = candidates(logits, config)
    ids = torch.arange(logits.shape[1]).expand_as(logits) if found.ids is None else found.ids
    expected = torch.full_like(logits, -torch.inf).scatter(1, ids, found.scores)
    torch.testing.assert_close(decoding.SampleFilterSteps()(*case.inputs.values()), expected)


# ---- merge_pair ----


def test_merges_are_those_of_tokenizers():
    tokenizers = pytest.importorskip("tokenizers")
    letters, draw = "abcde", random.Random(0)
    decided_by_ties = 0
    for _ in range(200):
        text = ["".join(draw.choices(letters, k=draw.randint(1, 6))) for _ in range(12)]
        backend = tokenizers.Tokenizer(tokenizers.models.BPE())
        backend.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=len({*"".join(text)}) + 1)
        backend.train_from_iterator(text, trainer)
        words = {tuple(word): text.count(word) for word in text}
        pair, merged = decoding.MergePairSteps()(words)
        assert "".join(pair) in backend.get_vocab()
        assert {symbols: merged[symbols] for symbols in merged} == {
            tuple(backend.encode("".join(word)).tokens): count for word, count in words.items()
        }
        counts = decoding.MergePairSteps().counts(words).values()
        decided_by_ties += [*counts].count(max(counts)) > 1
    assert decided_by_ties > 20


# ---- answer_span ----


@cases(decoding.ANSWER_SPAN)
def test_answers_are_those_of_the_library(case):
    starts, ends, offsets, ids, context, longest, cls, threshold = case.inputs.values()
    first = ids.index(1)
    allowed = may_be_answer(context, offsets, first, first + ids.count(1))
    spans = best_spans(
        starts[None],
        ends[None],
        allowed=torch.tensor([allowed]),
        cls_positions=torch.tensor([cls]),
        max_answer_tokens=longest,
        top_k=1,
    )
    prediction = join_windows([spans.window(0, context, offsets)], top_k=1)
    answer = _answers(prediction, context, threshold is not None, threshold or 0.0)[0]
    score = prediction.spans[0].score if answer["answer"] else prediction.null_score
    expected = answer | {"score": pytest.approx(score, abs=1e-5)}
    assert decoding.AnswerSpanSteps()(*case.inputs.values()) == expected


# ---- group_entities ----


@cases(decoding.GROUP_ENTITIES)
def test_entities_are_those_of_the_library(case):
    logits, id2label, offsets, special, text = case.inputs.values()
    tokens = [
        ScoredToken(text[start:end], scores, start, end, index)
        for index, (scores, (start, end)) in enumerate(
            zip(logits.softmax(dim=-1).numpy(), offsets, strict=True)
        )
        if not special[index]
    ]
    expected = group_tokens(tokens, id2label, TagScheme(id2label.values()), "simple", " ".join)
    for entity in expected:  # the library leaves the spelling of words to the tokenizer
        entity["word"] = text[entity["start"] : entity["end"]]
        entity["score"] = pytest.approx(entity["score"], abs=1e-12)
    assert decoding.GroupEntitiesSteps()(*case.inputs.values()) == expected
