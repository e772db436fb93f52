"""The steps of the attention exercises are the library's code, alone and in whole models."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from minitransformer.exercises import Exercise, attention
from minitransformer.exercises.checking import first_difference, judge, wrong_outcome
from minitransformer.exercises.runner import evaluate
from minitransformer.layers.attention import (
    CrossAttention,
    MultiHeadAttention,
    causal_mask,
    eager_attention,
    padding_mask,
)

from ..tiny import assert_equal, new, random_sequences


def split(projected, num_heads):
    size = projected.shape[-1]
    return MultiHeadAttention(size, num_heads).double().split_heads(projected)


def merge(attended):
    heads, size = attended.shape[1], attended.shape[3]
    layer = MultiHeadAttention(heads * size, heads).double()
    layer.attend = lambda query, *_: (query, None)
    layer.output = nn.Identity()
    return layer.attend_and_merge(attended, attended, attended, None)[0]


LIBRARY = {
    "softmax": lambda scores: scores.softmax(dim=-1),
    "scaled-dot-product-attention": lambda *inputs: eager_attention(*inputs)[0],
    "padding-mask": padding_mask,
    "causal-mask": causal_mask,
    "split-heads": split,
    "merge-heads": merge,
    "multi-head-attention": MultiHeadAttention,
    "cross-attention": CrossAttention,
}
EXERCISES = {e.name: e for e in vars(attention).values() if isinstance(e, Exercise)}


@pytest.mark.parametrize("name", LIBRARY)
def test_the_steps_are_the_code_of_the_library(name):
    exercise = EXERCISES[name]
    for case in exercise.cases():
        library = evaluate(LIBRARY[name], case)
        assert library.error is None
        if exercise.is_class:  # which returns the weights beside the result, if they are asked for
            library = replace(library, value=library.value[0])
        steps = wrong_outcome(exercise, (), case)
        assert first_difference(case, steps, library) is None, case.label


def test_every_exercise_is_compared_with_the_library():
    assert {*EXERCISES} == {*LIBRARY}


def attend(query, key, value, mask, fill=-math.inf, size=None, cleared=None):
    """Attention as students write it."""
    scores = query @ key.mT / math.sqrt(query.shape[-1] if size is None else size)
    if mask is None:
        return scores.softmax(-1) @ value
    weights = scores.masked_fill(~mask, fill).softmax(-1)
    return weights.masked_fill(~(mask if cleared is None else cleared), 0.0) @ value


def inverted(query, key, value, mask, **options):
    return attend(query, key, value, None if mask is None else ~mask, **options)


def typing_error(query, key, value, mask):
    some = None if mask is None else mask.any(-1, keepdim=True)
    return attend(query, key, value, mask, fill=-1e-9, cleared=some)


class InterleavedHeads(attention.reference.CrossAttention):
    """A view as (D, H), and back."""

    def split_heads(self, projected):
        return projected.unflatten(-1, (-1, self.num_heads)).permute(0, 3, 1, 2)

    def attend_and_merge(self, query, key, value, mask, *_):
        merged = eager_attention(query, key, value, mask)[0].permute(0, 2, 3, 1).flatten(2)
        return self.output(merged), None

    def forward(self, *inputs):
        return super().forward(*inputs)[0]


def half_precision_as_float32(scores):
    return (scores.float() if scores.dtype.itemsize == 2 else scores).softmax(-1)


STUDENTS = [
    ("softmax", lambda scores: scores.softmax(1), {"softmax over dimension 1"}),
    ("softmax", half_precision_as_float32, {"half precision to float32"}),
    (
        "scaled-dot-product-attention",
        lambda *inputs: attend(*inputs, size=inputs[1].shape[-2]),
        {"scale by keys"},
    ),
    (
        "scaled-dot-product-attention",
        lambda *inputs: inverted(*inputs, fill=-1e9, size=1),
        {"no scale", "mask inverted", "large negative number"},
    ),
    (
        "scaled-dot-product-attention",
        typing_error,
        {"masked scores of zero except without a key"},
    ),
    ("padding-mask", lambda mask: mask[:, None, None, :] * 1e4 - 1e4,
     {"padding mask of minus 10000"}),
    ("cross-attention", InterleavedHeads, {"interleaved heads throughout"}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "solution", "names"), STUDENTS)
def test_a_mistake_is_named_in_whichever_way_it_is_written(name, solution, names):
    exercise = EXERCISES[name]
    cases = list(exercise.cases())
    report = judge(exercise, cases, [evaluate(solution, case) for case in cases])
    assert [{mistake.name for mistake in found} for found in report.mistakes] == [names]


def logits(model):
    ids, mask = random_sequences(3, 8), torch.ones(3, 8, dtype=torch.int64)
    mask[0, 5:] = mask[1, :2] = 0  # padding on the right, on the left
    batch = {"input_ids": ids, "attention_mask": mask}
    if type(model).__name__.startswith(("Bart", "T5")):
        batch["decoder_input_ids"] = random_sequences(3, 4)
    with torch.no_grad():
        return model(**batch).logits


EVERYWHERE = ("scaled-dot-product-attention", "split-heads")
IN_A_MODEL = [  # a model, the exercises whose code it runs
    ("RobertaForMaskedLM", (*EVERYWHERE, "multi-head-attention")),
    ("GPT2LMHeadModel", EVERYWHERE),
    ("BartForConditionalGeneration", (*EVERYWHERE, "multi-head-attention", "cross-attention")),
    ("T5ForConditionalGeneration", (*EVERYWHERE, "multi-head-attention", "cross-attention")),
]


@pytest.mark.parametrize(("name", "exercise"), [(m, e) for m, es in IN_A_MODEL for e in es])
def test_steps_in_a_model_change_nothing_and_mistakes_do(name, exercise):
    model = new(name)
    before = logits(model)
    EXERCISES[exercise].put_into_model(model)
    assert_equal(logits(model), before)
    wrong = {"split-heads": attention.split_by_reshaping}.get(exercise, attention.mask_inverted)
    mistakes = [m for m in EXERCISES[exercise].mistakes if m.put_into is wrong]
    assert mistakes
    model = new(name)
    EXERCISES[exercise].put_into_model(model, mistakes)
    assert not torch.allclose(logits(model), before, atol=1e-3)


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "T5ForConditionalGeneration"])
def test_models_with_the_steps_decode_as_before(name):
    model = new(name)
    inputs = random_sequences(2, 7)
    before = model.generate(inputs, num_beams=2, max_new_tokens=5)
    for exercise in ("multi-head-attention", "cross-attention"):
        EXERCISES[exercise].put_into_model(model)
    assert torch.equal(model.generate(inputs, num_beams=2, max_new_tokens=5), before)


def test_steps_of_cross_attention_serve_several_sequences_of_a_source():
    layer = CrossAttention(6, 3).double()
    hidden, context = torch.randn(4, 3, 6).double(), torch.randn(2, 5, 6).double()
    mask = padding_mask(torch.tensor([[True] * 5, [True] * 3 + [False] * 2]))
    before, _ = layer(hidden, context, mask)
    EXERCISES["cross-attention"].put_into_model(layer)
    assert type(layer) is attention.CrossAttentionSteps
    assert_equal(layer(hidden, context, mask)[0], before)
