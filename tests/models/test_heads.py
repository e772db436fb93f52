"""Promises of every family with every head that need no reference: padding, batches, losses."""

import functools
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from minitransformer.models.base import Model
from minitransformer.models.outputs import Output, SequenceClassifierOutput
from minitransformer.parity import Batch
from tests.tiny import (
    ENCODERS,
    THREE_CLASSES,
    VARIANTS,
    assert_equal,
    every_variant,
    gradients,
    new,
    pair,
)


@dataclass(frozen=True)
class Problem:
    """A head, as the end of a class's name, and the fields that its config needs."""

    head: str
    fields: dict


PROBLEMS = {
    "masked tokens": Problem("ForMaskedLM", {}),
    "answers": Problem("ForQuestionAnswering", {}),
    "classes": Problem("ForSequenceClassification", {"id2label": THREE_CLASSES}),
    "several classes": Problem(
        "ForSequenceClassification",
        {"id2label": THREE_CLASSES, "problem_type": "multi_label_classification"},
    ),
    "numbers": Problem("ForSequenceClassification", {"id2label": {0: "stars"}}),
    "token classes": Problem("ForTokenClassification", {"id2label": THREE_CLASSES}),
}
every_family = pytest.mark.parametrize("family", ENCODERS)
every_problem = pytest.mark.parametrize("problem", list(PROBLEMS))
variants = st.sampled_from(VARIANTS)
lengths = st.lists(st.integers(1, 8), min_size=1, max_size=4)


@functools.cache
def build(
    family: str,
    problem: str | None = None,
    variant: str = "sdpa",
    dtype: torch.dtype = torch.float64,
) -> Model:
    """A perturbed model of a family, with the head of a problem or with none; not to be changed."""
    solved = Problem("Model", {}) if problem is None else PROBLEMS[problem]
    return new(f"{family}{solved.head}", variant, dtype=dtype, **solved.fields)


def example_of(problem: str | None, length: int, seed: int) -> Batch:
    """One text of random ids and token types, without padding, and its labels."""
    generator = torch.Generator().manual_seed(1000 * length + seed)
    example = {"input_ids": torch.randint(4, 99, (length,), generator=generator)}
    example["token_type_ids"] = torch.randint(2, (length,), generator=generator)
    if problem == "answers":
        ends = torch.randint(length, (2,), generator=generator).sort().values
        example |= {"start_positions": ends[0], "end_positions": ends[1]}
    elif problem in ("masked tokens", "token classes"):
        classes = 99 if problem == "masked tokens" else 3
        labels = torch.randint(classes, (length,), generator=generator)
        labelled = torch.rand(length, generator=generator) < 0.6
        example["labels"] = torch.where(labelled, labels, -100)
    elif problem == "classes":
        example["labels"] = torch.randint(3, (), generator=generator)
    elif problem is not None:
        count = 3 if problem == "several classes" else 1
        example["labels"] = torch.rand(count, generator=generator, dtype=torch.float64)
    return example


def examples_of(problem: str | None, lengths: list[int]) -> list[Batch]:
    return [example_of(problem, length, seed) for seed, length in enumerate(lengths)]


def collate(examples: list[Batch], model: Model, *, left: bool = False, extra: int = 0) -> Batch:
    """A batch, padded on one side to the longest and `extra` more."""
    length = max(len(example["input_ids"]) for example in examples) + extra
    paddings = [length - len(example["input_ids"]) for example in examples]
    fill = {"input_ids": model.config.pad_token_id, "token_type_ids": 0, "labels": -100}
    batch = {}
    for name in examples[0]:
        values = [example[name] for example in examples]
        if name.endswith("positions"):
            values = [
                value + left * padding for value, padding in zip(values, paddings, strict=True)
            ]
        elif name in fill and values[0].dim() == 1 and not values[0].is_floating_point():
            values = [
                nn.functional.pad(value, (padding, 0) if left else (0, padding), value=fill[name])
                for value, padding in zip(values, paddings, strict=True)
            ]
        batch[name] = torch.stack(values)
    positions = torch.arange(length).expand(len(examples), length)
    padding = torch.tensor(paddings)[:, None]
    batch["attention_mask"] = (
        positions >= padding if left else positions < length - padding
    ).long()  # (B, T)
    return without_types(batch, model)


def with_masked_sequences(batch: Batch, model: Model, number: int) -> Batch:
    """So many more sequences, fully masked; where a sequence has a label, they have one too."""
    masked = {name: tensor[:1].expand(number, *tensor.shape[1:]) for name, tensor in batch.items()}
    fill = {"input_ids": model.config.pad_token_id, "attention_mask": 0}
    if "labels" in batch and batch["labels"].dim() == 2 and not batch["labels"].is_floating_point():
        fill["labels"] = -100
    for name, value in fill.items():
        if name in masked:
            masked[name] = torch.full_like(masked[name], value)
    return {name: torch.cat([tensor, masked[name]]) for name, tensor in batch.items()}


def without_types(batch: Batch, model: Model) -> Batch:
    """Drop the token types where the family has none; one type is type 0."""
    types = getattr(model.config, "type_vocab_size", 0)
    if types == 1:
        return batch | {"token_type_ids": torch.zeros_like(batch["token_type_ids"])}
    return {name: t for name, t in batch.items() if types or name != "token_type_ids"}


def inputs_of(batch: Batch) -> Batch:
    """The batch without its labels."""
    inputs = ("input_ids", "attention_mask", "token_type_ids")
    return {name: batch[name] for name in inputs if name in batch}


def results_of(output: Output, mask: Tensor) -> list[list[Tensor]]:
    """What a model returns for each sequence, at its real tokens; `mask` is (B, T)."""
    results: list[list[Tensor]] = [[] for _ in mask]
    for name in ("last_hidden_state", "pooler_output", "start_logits", "end_logits", "logits"):
        tensor = getattr(output, name, None)
        if tensor is None:
            continue
        is_pooled = name == "pooler_output" or isinstance(output, SequenceClassifierOutput)
        for number, result in enumerate(results):
            result.append(tensor[number] if is_pooled else tensor[number][mask[number].bool()])
    return results


@every_family
@pytest.mark.parametrize("problem", [None, *PROBLEMS])
@settings(max_examples=6)
@given(lengths=lengths, left=st.booleans(), extra=st.integers(0, 3), variant=variants)
def test_padding_changes_nothing_at_real_tokens(family, problem, lengths, left, extra, variant):
    model = build(family, problem, variant)
    examples = examples_of(problem, lengths)
    padded = inputs_of(collate(examples, model, left=left, extra=extra))
    results = results_of(model(**padded), padded["attention_mask"])
    for example, result in zip(examples, results, strict=True):
        alone = inputs_of(collate([example], model))
        del alone["attention_mask"]
        (expected,) = results_of(model(**alone), torch.ones_like(alone["input_ids"]))
        assert result
        assert_equal(result, expected)


@every_family
@every_problem
@settings(max_examples=6)
@given(lengths=lengths, left=st.booleans(), extra=st.integers(0, 3), variant=variants)
def test_texts_one_by_one_give_the_loss_and_the_gradient_of_the_padded_batch(
    family, problem, lengths, left, extra, variant
):
    """So do micro-batches: their summed losses are divided by the count of the whole batch."""
    model = build(family, problem, variant)
    examples = examples_of(problem, lengths)
    batch = collate(examples, model, left=left, extra=extra)
    total, count = model.loss_sum(**batch)
    one_by_one = [model.loss_sum(**collate([example], model)) for example in examples]
    assert_equal(sum(part for part, _ in one_by_one), total)
    assert sum(number for _, number in one_by_one) == count
    number = count.clamp(min=1)
    expected = gradients(model, total / number)
    assert_equal(gradients(model, sum(part / number for part, _ in one_by_one)), expected)
    assert_equal(gradients(model, model.loss(**batch)), expected)


@every_family
@every_problem
@settings(max_examples=6)
@given(lengths=lengths, left=st.booleans(), variant=variants)
def test_the_loss_is_that_of_forward(family, problem, lengths, left, variant):
    model = build(family, problem, variant)
    batch = collate(examples_of(problem, lengths), model, left=left)
    full, short = model(**batch).loss, model.loss(**batch)
    assert_equal(short, full)
    assert_equal(gradients(model, short), gradients(model, full))


@every_family
@every_problem
@settings(max_examples=6)
@given(lengths=lengths, variant=variants)
def test_the_count_before_the_forward_is_that_of_the_loss(family, problem, lengths, variant):
    model = build(family, problem, variant)
    batch = collate(examples_of(problem, lengths), model)
    for count in (model.num_supervised_tokens(batch), model.loss_sum(**batch)[1]):
        assert count.shape == ()
        assert count.dtype == torch.int64
    assert model.num_supervised_tokens(batch) == model.loss_sum(**batch)[1]


@every_problem
@every_variant
def test_the_number_of_supervised_tokens_of_each_task(problem, variant):
    model = build("Bert", problem, variant)
    examples = examples_of(problem, [4, 2])
    if problem in ("masked tokens", "token classes"):
        expected = sum(int((example["labels"] != -100).sum()) for example in examples)
    else:
        expected = {"answers": 2, "classes": 2, "several classes": 6, "numbers": 2}[problem]
    total, count = model.loss_sum(**collate(examples, model))
    assert count == expected > 1
    assert_equal(model.loss(**collate(examples, model)), total / expected)


@every_family
@every_problem
@settings(max_examples=6)
@given(lengths=lengths, left=st.booleans(), masked=st.integers(0, 2))
def test_the_variants_give_the_same_numbers(family, problem, lengths, left, masked):
    losses = []
    for variant in VARIANTS:
        model = build(family, problem, variant)
        batch = collate(examples_of(problem, lengths), model, left=left)
        if problem != "answers":  # padding is no answer
            batch = with_masked_sequences(batch, model, masked)
        loss = model(**batch).loss
        losses.append([loss, *gradients(model, loss)])
    for others in losses[1:]:
        assert_equal(losses[0], others)


@every_family
@every_variant
@pytest.mark.parametrize("problem", [None, *PROBLEMS])
def test_a_fully_masked_sequence_is_finite_and_changes_no_other(family, problem, variant):
    model = build(family, problem, variant)
    batch = inputs_of(collate(examples_of(problem, [5, 7]), model))
    with_masked = with_masked_sequences(batch, model, 1)
    output = model(**with_masked)
    scores = [
        tensor
        for name, tensor in vars(output).items()
        if isinstance(tensor, Tensor) and name != "loss"
    ]
    assert all(tensor.isfinite().all() for tensor in scores)
    assert_equal(
        results_of(output, with_masked["attention_mask"])[:2],
        results_of(model(**batch), batch["attention_mask"]),
    )
    loss = sum(tensor.sum() for tensor in scores)
    assert all(gradient.isfinite().all() for gradient in gradients(model, loss))


@every_family
@every_variant
@pytest.mark.parametrize("problem", ["masked tokens", "classes", "token classes"])
def test_a_fully_masked_sequence_without_a_label_changes_no_loss(family, problem, variant):
    model = build(family, problem, variant)
    batch = collate(examples_of(problem, [5, 7]), model)
    masked = {name: torch.zeros_like(tensor[:1]) for name, tensor in batch.items()}
    masked["input_ids"] += model.config.pad_token_id
    masked["labels"] -= 100
    with_masked = {name: torch.cat([batch[name], masked[name]]) for name in batch}
    for loss_of in (model.loss, lambda **named: model(**named).loss):
        expected, loss = loss_of(**batch), loss_of(**with_masked)
        assert_equal(loss, expected)
        assert_equal(gradients(model, loss), gradients(model, expected))


@every_family
@pytest.mark.parametrize("problem", ["classes", "several classes", "numbers"])
@pytest.mark.parametrize(
    "collect", [{"output_hidden_states": True}, {"output_attentions": True}], ids=str
)
@settings(max_examples=6)
@given(lengths=lengths, left=st.booleans())
def test_the_first_token_alone_gives_the_scores_of_the_full_forward(
    family, problem, collect, lengths, left
):
    """Of an optimized classifier, whose last layer is computed in full where it is collected."""
    model = build(family, problem, "optimized")
    batch = collate(examples_of(problem, lengths), model, left=left)
    whole, short = model(**batch, **collect), model(**batch)
    assert_equal(short.logits, whole.logits)
    assert_equal(gradients(model, short.loss), gradients(model, whole.loss))


@every_family
@every_variant
@pytest.mark.parametrize("problem", ["masked tokens", "classes", "token classes"])
def test_labels_of_minus_100_have_no_loss_and_no_gradient(family, problem, variant):
    model = build(family, problem, variant)
    batch = collate(examples_of(problem, [6, 4, 5]), model)
    nothing = batch | {"labels": torch.full_like(batch["labels"], -100)}
    for loss in (model.loss(**nothing), model(**nothing).loss):
        assert loss.item() == 0.0
        assert all(torch.equal(g, torch.zeros_like(g)) for g in gradients(model, loss))
    assert model.num_supervised_tokens(nothing) == model.loss_sum(**nothing)[1] == 0
    # A sequence without labels is as good as no such sequence.
    partly = batch | {"labels": batch["labels"].clone()}
    partly["labels"][1] = -100
    others = {name: tensor[[0, 2]] for name, tensor in batch.items()}
    assert_equal(model.loss(**partly), model.loss(**others))
    assert_equal(model(**partly).loss, model.loss(**others))


# In the order of Hugging Face's fields; all differ, so that none can be confused with another.
DROPOUTS = {
    "Bert": {
        "hidden_dropout_prob": 0.3,
        "attention_probs_dropout_prob": 0.2,
        "classifier_dropout": 0.45,
    },
    "DistilBert": {
        "dropout": 0.3,
        "attention_dropout": 0.2,
        "qa_dropout": 0.15,
        "seq_classif_dropout": 0.45,
    },
}
DROPOUTS["Roberta"] = DROPOUTS["Bert"]


@pytest.mark.slow
@every_problem
@pytest.mark.parametrize(
    ("family", "dropouts"),
    [
        *DROPOUTS.items(),
        ("Bert", DROPOUTS["Bert"] | {"classifier_dropout": None}),
        ("Roberta", DROPOUTS["Bert"] | {"classifier_dropout": None}),
    ],
    ids=["Bert", "DistilBert", "Roberta", "Bert without", "Roberta without"],
)
def test_dropout_is_applied_where_transformers_applies_it(family, problem, dropouts, tmp_path):
    """The same seed gives the same masks only if each dropout has the same place and size."""
    pytest.importorskip("transformers", reason="parity needs transformers")
    name = f"{family}{PROBLEMS[problem].head}"
    fields = PROBLEMS[problem].fields | dropouts
    ours, theirs = pair(name, tmp_path, dtype=torch.float64, **fields)
    batch = collate(examples_of(problem, [7, 7, 7]), ours)  # padding would take part there
    losses = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        losses.append(model(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-9)
    torch.manual_seed(4)
    assert abs(ours(**batch).loss.item() - losses[0]) > 1e-4


@every_family
@every_problem
@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_models_of_other_dtypes_run_and_learn(family, problem, variant, dtype):
    model = build(family, problem, variant, dtype)
    batch = collate(examples_of(problem, [6, 3]), model)
    output = model(**batch)
    results = results_of(output, batch["attention_mask"])
    assert {tensor.dtype for result in results for tensor in result} == {dtype}
    assert output.loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    learned = gradients(model, model.loss(**batch))
    assert all(gradient.dtype == dtype and gradient.isfinite().all() for gradient in learned)
    assert any(gradient.abs().max() > 1e-3 for gradient in learned)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
@every_problem
def test_half_precision_counts_and_sums_in_full(problem, variant, dtype):
    """bfloat16 has no 301, float16 nothing above 65,504."""
    model = build("Bert", problem, variant, dtype)
    batch = collate(examples_of(problem, [2] * 301), model)
    if problem == "numbers":
        batch["labels"] += 40.0  # their squares sum to half a million
    total, count = model.loss_sum(**batch)
    assert int(count) == model.num_supervised_tokens(batch)
    assert total.isfinite()
    expected, _ = build("Bert", problem).loss_sum(**batch)
    torch.testing.assert_close(total.double(), expected, rtol=0.05, atol=0.0)


@pytest.mark.slow
@pytest.mark.parametrize("problem", ["masked tokens", "answers", "classes"])
def test_compiled_twins_of_heads_give_the_same(problem):
    family = ENCODERS[list(PROBLEMS).index(problem) % len(ENCODERS)]
    model = build(family, problem, "optimized")
    batch = collate(examples_of(problem, [6, 3]), model, left=True)
    forward = torch.compile(model, backend="aot_eager")
    loss_sum = torch.compile(model.loss_sum, backend="aot_eager")
    assert_equal(forward(**batch).loss, model(**batch).loss)
    total, count = loss_sum(**batch)
    expected, number = model.loss_sum(**batch)
    assert_equal(total, expected)
    assert_equal(gradients(model, total), gradients(model, expected))
    assert count == number


@every_family
@pytest.mark.parametrize("problem", ["classes", "several classes", "numbers"])
def test_a_text_without_a_token_is_classified_alike_everywhere(family, problem):
    """In a batch or alone, for all variants: scores and gradients."""
    outcomes = []
    for variant in VARIANTS:
        model = build(family, problem, variant)
        batch = collate(examples_of(problem, [5, 3]), model)
        for name, tensor in batch.items():
            if name in ("input_ids", "attention_mask"):
                tensor[1] = 0 if name == "attention_mask" else model.config.pad_token_id
        output = model(**batch)
        outcomes.append([output.logits, output.loss, *gradients(model, output.loss)])
        alone = model(**{name: tensor[1:] for name, tensor in batch.items()})
        assert_equal(alone.logits[0], output.logits[1])
    for others in outcomes[1:]:
        assert_equal(outcomes[0], others)


@every_family
@pytest.mark.parametrize("problem", ["masked tokens", "token classes"])
@settings(max_examples=6)
@given(lengths=lengths, left=st.booleans(), where=st.integers(0, 3))
def test_with_a_fully_masked_sequence_too_the_variants_learn_the_same(
    family, problem, lengths, left, where
):
    outcomes = []
    for variant in VARIANTS:
        model = build(family, problem, variant)
        batch = collate(examples_of(problem, lengths), model, left=left)
        for name, tensor in batch.items():
            filling = {"labels": -100, "input_ids": model.config.pad_token_id}.get(name, 0)
            masked = torch.full_like(tensor[:1], filling)
            number = min(where, len(lengths))
            batch[name] = torch.cat([tensor[:number], masked, tensor[number:]])
        loss = model.loss(**batch)
        outcomes.append([loss, *gradients(model, loss)])
    for others in outcomes[1:]:
        assert_equal(outcomes[0], others)


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_what_is_pooled_of_a_fully_masked_sequence_is_the_same_everywhere(family):
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    mask = torch.tensor([[1, 1, 0], [0, 0, 0]])
    pooled = []
    for variant in VARIANTS:
        pooled.append(build(family, None, variant)(ids, mask).pooler_output)
        alone = build(family, None, variant)(ids[1:], mask[1:]).pooler_output
        assert_equal(alone[0], pooled[-1][1])
    for others in pooled[1:]:
        assert_equal(pooled[0], others)


@every_variant
def test_pooler_and_classifier_take_the_first_token_of_the_mask_whatever_its_id(variant):
    """RoBERTa gives no position to a <pad> that is attended to, but it is a token of the text."""
    ids = torch.tensor([[1, 5, 6, 7], [8, 1, 9, 3], [1, 4, 1, 1]])  # 1 is <pad>
    mask = torch.tensor([[1, 1, 1, 1], [0, 1, 1, 1], [0, 1, 1, 0]])
    first = torch.tensor([0, 1, 1])
    model, classifier = build("Roberta", None, variant), build("Roberta", "classes", variant)
    output = model(ids, mask)
    states = output.last_hidden_state[torch.arange(3), first]
    assert_equal(output.pooler_output, model.pooler(states))
    states = classifier.backbone(ids, mask).last_hidden_state[torch.arange(3), first]
    assert_equal(classifier(ids, mask).logits, classifier.class_logits(states))
