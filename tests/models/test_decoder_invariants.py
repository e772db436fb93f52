"""Promises of every decoder that need no reference: causality, padding, batches, losses."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tiny import (
    CAUSAL,
    CLASSIFIERS,
    DECODER_CLASSES,
    FIRST_ORDINARY_ID,
    LANGUAGE_MODELS,
    SEQ2SEQ,
    VARIANTS,
    VOCAB_SIZE,
    Batch,
    assert_equal,
    build,
    every_variant,
    gradients,
    pad,
    random_ids,
    random_sequences,
)

BACKBONES = ["GPT2Model", "BartModel", "MarianModel", "T5Model"]


def each_of(names: list[str]) -> pytest.MarkDecorator:
    """Every class; a backbone by itself is slow, for the class with a head has it inside."""
    return pytest.mark.parametrize(
        "name",
        [
            pytest.param(name, marks=pytest.mark.slow) if name in BACKBONES else name
            for name in names
        ],
    )


every_class = each_of(DECODER_CLASSES)
every_language_model = pytest.mark.parametrize("name", LANGUAGE_MODELS)
every_decoder = each_of(CAUSAL + SEQ2SEQ)
every_encoder_decoder = each_of(SEQ2SEQ)
variants = st.sampled_from(VARIANTS)
lengths = st.lists(st.integers(1, 6), min_size=1, max_size=3)


def end_token(name: str) -> int:
    return build(name).config.eos_token_id


def examples_of(name: str, lengths: list[int]) -> list[Batch]:
    """Texts by themselves, and what the decoder reads, which is never as long as the source."""
    examples = []
    for seed, length in enumerate(lengths):
        example = {"input_ids": random_ids(length, seed)}
        if name in SEQ2SEQ:
            example["decoder_input_ids"] = random_ids(length % 3 + 1 + seed % 2, seed + 50)
        if name == "BartForSequenceClassification":
            # One end in the text, where it is long enough, and one after it.
            example["input_ids"][length // 2] = end_token(name)
            end = torch.tensor([end_token(name)])
            example["input_ids"] = torch.cat([example["input_ids"], end])
        examples.append(example)
    return examples


def collate(
    name: str, examples: list[Batch], *, left: bool, left_target: bool, extra: int = 0
) -> Batch:
    """A batch; `extra` more tokens of padding than are needed, in source and target."""
    config: Any = build(name).config
    fill = 0 if config.pad_token_id is None else config.pad_token_id
    sides = {"input_ids": left, "decoder_input_ids": left_target}
    batch = {}
    for field in examples[0]:
        texts = [example[field] for example in examples]
        batch[field], mask = pad(texts, fill, left=sides[field], extra=extra)
        batch[field.replace("input_ids", "attention_mask")] = mask
    return batch


def with_masked_sequences(batch: Batch, number: int) -> Batch:
    """So many more sequences, fully masked."""
    both = {}
    for field, tensor in batch.items():
        masked = tensor[:1].repeat(number, 1)
        both[field] = torch.cat([tensor, masked * 0 if field.endswith("mask") else masked])
    return both


def results_of(name: str, batch: Batch, variant: str = "sdpa") -> list[list[Tensor]]:
    """What a model returns for each sequence, at its real tokens."""
    output = build(name, variant)(**batch)
    outcome = output.last_hidden_state if hasattr(output, "last_hidden_state") else output.logits
    if name in CLASSIFIERS:
        return [[scores] for scores in outcome]
    masks = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
    results = [[values[mask]] for values, mask in zip(outcome, masks, strict=True)]
    if name in SEQ2SEQ:
        sources = batch["attention_mask"].bool()
        for number, result in enumerate(results):
            result.append(output.encoder_last_hidden_state[number][sources[number]])
    return results


# --- Padding


@every_class
@settings(max_examples=4)
@given(
    lengths=lengths,
    left=st.booleans(),
    left_target=st.booleans(),
    extra=st.integers(0, 2),
    variant=variants,
)
def test_padding_on_either_side_changes_nothing_at_real_tokens(
    name, lengths, left, left_target, extra, variant
):
    examples = examples_of(name, lengths)
    batch = collate(name, examples, left=left, left_target=left_target, extra=extra)
    results = results_of(name, batch, variant)
    for example, result in zip(examples, results, strict=True):
        alone = collate(name, [example], left=False, left_target=False)
        (expected,) = results_of(name, alone, variant)
        assert result[0].numel()
        assert_equal(result, expected)


@every_class
@every_variant
def test_values_at_padding_are_never_used(name, variant):
    """Not even an end token, which BART's classifier looks for."""
    examples = examples_of(name, [5, 2, 3])
    for left in (False, True):
        batch = collate(name, examples, left=left, left_target=left)
        other = dict(batch)
        for ids, mask in (
            ("input_ids", "attention_mask"),
            ("decoder_input_ids", "decoder_attention_mask"),
        ):
            if ids in batch:
                other[ids] = batch[ids].masked_fill(batch[mask] == 0, end_token(name))
                assert not torch.equal(other[ids], batch[ids])
        results, expected = results_of(name, other, variant), results_of(name, batch, variant)
        for pair in zip(results, expected, strict=True):
            for ours, theirs in zip(*pair, strict=True):
                assert torch.equal(ours, theirs)


@every_class
@every_variant
def test_a_fully_masked_sequence_is_finite_and_changes_no_other(name, variant):
    examples = examples_of(name, [4, 2])
    batch = collate(name, examples, left=False, left_target=True)
    both = with_masked_sequences(batch, 1)
    model = build(name, variant)
    if name == "BartForSequenceClassification":
        with pytest.raises(ValueError, match="no end token.* in sequence 2"):
            model(**both)
        return
    output = model(**both)
    outcomes = [getattr(output, "logits", None), getattr(output, "last_hidden_state", None)]
    outcomes += [getattr(output, "encoder_last_hidden_state", None)]
    outcomes = [outcome for outcome in outcomes if outcome is not None]
    assert all(outcome.isfinite().all() for outcome in outcomes)
    assert_equal(results_of(name, both, variant)[:2], results_of(name, batch, variant))
    loss = sum(outcome.sum() for outcome in outcomes)
    assert all(gradient.isfinite().all() for gradient in gradients(model, loss))


@pytest.mark.slow
@every_encoder_decoder
@every_variant
@pytest.mark.parametrize("masked", ["attention_mask", "decoder_attention_mask"])
def test_a_fully_masked_source_or_target_is_finite_and_changes_no_other(name, variant, masked):
    model = build(name, variant)
    batch = collate(name, examples_of(name, [4, 2]), left=False, left_target=False)
    expected = results_of(name, batch, variant)[0]
    batch[masked] = batch[masked] * torch.tensor([[1], [0]])
    assert_equal(results_of(name, batch, variant)[0], expected)
    output = model(**batch)
    outcome = output.last_hidden_state if hasattr(output, "last_hidden_state") else output.logits
    assert outcome.isfinite().all()
    assert all(gradient.isfinite().all() for gradient in gradients(model, outcome.sum()))


# --- Causality


def decoded(name: str, ids: Tensor, mask: Tensor | None = None, variant: str = "sdpa"):
    """The logits, or hidden states, of a decoder over (B, T), with a fixed source if it has one."""
    model: Any = build(name, variant)
    inputs: dict = {"input_ids": ids, "attention_mask": mask}
    if name in SEQ2SEQ:
        inputs = {
            "input_ids": random_sequences(len(ids), 4, seed=7),
            "decoder_input_ids": ids,
            "decoder_attention_mask": mask,
        }
    output = model(**inputs)
    return output.last_hidden_state if hasattr(output, "last_hidden_state") else output.logits


@every_decoder
@every_variant
@settings(max_examples=4)
@given(
    length=st.integers(2, 7),
    position=st.integers(1, 6),
    masked=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_future_token_changes_no_earlier_logit_at_all(
    name, variant, length, position, masked, seed
):
    position = min(position, length - 1)
    ids = random_sequences(2, length, seed)
    changed = ids.clone()
    changed[:, position:] = FIRST_ORDINARY_ID + (changed[:, position:] - FIRST_ORDINARY_ID + 1) % 20
    mask = None
    if masked:
        mask = torch.ones_like(ids)
        mask[0, 0] = 0
    before = decoded(name, ids, mask, variant)
    after = decoded(name, changed, mask, variant)
    assert torch.equal(after[:, :position], before[:, :position])
    assert (after[:, position] - before[:, position]).abs().amax(dim=-1).min() > 1e-6
    earlier = None if mask is None else mask[:, :position]
    assert_equal(decoded(name, ids[:, :position], earlier)[1:], before[1:, :position])


@every_encoder_decoder
def test_an_encoder_attends_to_later_tokens_and_the_decoder_to_all_of_the_source(name):
    model: Any = build(name)
    ids = random_sequences(1, 5)
    changed = ids.clone()
    changed[:, -1] = FIRST_ORDINARY_ID + (changed[:, -1] - FIRST_ORDINARY_ID + 1) % 20
    before, after = (
        model(input_ids=source, decoder_input_ids=ids[:, :1], output_hidden_states=True)
        for source in (ids, changed)
    )
    shift = after.encoder_last_hidden_state - before.encoder_last_hidden_state
    assert shift[0, 0].abs().max() > 1e-6
    shift = after.decoder_hidden_states[-1] - before.decoder_hidden_states[-1]
    assert shift[0, 0].abs().max() > 1e-6


@every_decoder
@every_variant
def test_attention_maps_are_causal_and_leave_padding_out(name, variant):
    batch = collate(name, examples_of(name, [5, 3]), left=True, left_target=True)
    output: Any = build(name, variant)(**batch, output_attentions=True)
    mask = batch.get("decoder_attention_mask", batch["attention_mask"]).bool()
    maps = output.decoder_attentions if name in SEQ2SEQ else output.attentions
    config: Any = build(name).config
    assert len(maps) == getattr(config, "num_decoder_layers", config.num_hidden_layers)
    cross_attentions = output.cross_attentions if name in SEQ2SEQ else ()
    length = mask.shape[1]
    for weights in maps:
        assert not weights.triu(diagonal=1).any()
        assert not weights.masked_select(~mask[:, None, None, :]).any()
        sums = weights.sum(dim=-1)[:, 0][mask]
        assert_equal(sums, torch.ones_like(sums))
        assert weights.shape[2:] == (length, length)
    for weights in cross_attentions:
        source = batch["attention_mask"].bool()
        assert not weights.masked_select(~source[:, None, None, :]).any()
        sums = weights.sum(dim=-1)[:, 0][mask]
        assert_equal(sums, torch.ones_like(sums))
        assert weights.shape[2:] == (length, source.shape[1])


# --- Variants


@pytest.mark.slow
@every_class
@settings(max_examples=3)
@given(lengths=lengths, left=st.booleans(), left_target=st.booleans(), masked=st.integers(0, 2))
def test_the_variants_give_the_same_numbers(name, lengths, left, left_target, masked):
    batch = collate(name, examples_of(name, lengths), left=left, left_target=left_target)
    if name != "BartForSequenceClassification":  # which refuses a sequence without an end token
        batch = with_masked_sequences(batch, masked)
    outcomes = []
    for variant in VARIANTS:
        results = results_of(name, batch, variant)
        loss = sum(part.sin().sum() for result in results for part in result)
        outcomes.append([*results, gradients(build(name, variant), loss)])
    for others in outcomes[1:]:
        assert_equal(outcomes[0], others)


# --- Losses


def labelled(name: str, lengths: list[int], *, explicit: bool) -> list[Batch]:
    """Texts with their labels, some of them -100.

    Args:
        name, lengths: as in `examples_of`.
        explicit: whether what the decoder of an encoder-decoder reads is given, not shifted labels.
    """
    examples = examples_of(name, lengths)
    for seed, example in enumerate(examples):
        generator = torch.Generator().manual_seed(seed)
        if name in CLASSIFIERS:
            example["labels"] = torch.randint(3, (), generator=generator)
            continue
        ids = example.get("decoder_input_ids", example["input_ids"])
        example["labels"] = ids.clone()
        if name in SEQ2SEQ:
            example["labels"] = random_ids(len(ids), seed + 70)
        # The first label stays if it determines where the decoder's text begins.
        ignored = torch.rand(len(ids), generator=generator) < 0.3
        ignored[0] &= explicit or name not in SEQ2SEQ
        example["labels"][ignored] = -100
        if name in SEQ2SEQ and not explicit:
            del example["decoder_input_ids"]
    return examples


def collate_labelled(name: str, examples: list[Batch], **sides: Any) -> Batch:
    inputs = [{f: t for f, t in example.items() if f != "labels"} for example in examples]
    batch = collate(name, inputs, **sides)
    labels = [example["labels"] for example in examples]
    if name in CLASSIFIERS:
        return batch | {"labels": torch.stack(labels)}
    side = sides["left_target"] if name in SEQ2SEQ else sides["left"]
    return batch | {"labels": pad(labels, -100, left=side, extra=sides.get("extra", 0))[0]}


@pytest.mark.parametrize("name", LANGUAGE_MODELS + CLASSIFIERS)
@pytest.mark.parametrize("explicit", [False, pytest.param(True, marks=pytest.mark.slow)])
@settings(max_examples=3)
@given(
    lengths=lengths,
    left=st.booleans(),
    left_target=st.booleans(),
    extra=st.integers(0, 2),
    variant=variants,
)
def test_micro_batches_give_the_loss_and_the_gradient_of_the_whole_batch(
    name, explicit, lengths, left, left_target, extra, variant
):
    model: Any = build(name, variant)
    examples = labelled(name, lengths, explicit=explicit)
    batch = collate_labelled(name, examples, left=left, left_target=left_target, extra=extra)
    total, count = model.loss_sum(**batch)
    assert model.num_supervised_tokens(batch) == count
    parts = [
        collate_labelled(name, [example], left=False, left_target=False) for example in examples
    ]
    one_by_one = [model.loss_sum(**part) for part in parts]
    assert_equal(sum(loss for loss, _ in one_by_one), total)
    assert sum(model.num_supervised_tokens(part) for part in parts) == count
    number = max(1, int(count))
    expected = gradients(model, total / number)
    assert_equal(gradients(model, sum(loss for loss, _ in one_by_one) / number), expected)
    output = model(**batch)
    assert_equal(output.loss, total / number)
    assert_equal(gradients(model, output.loss), expected)
    assert_equal(model.loss(**batch), output.loss)
    if name in LANGUAGE_MODELS:
        assert output.num_supervised_tokens == count


@every_variant
@every_language_model
def test_no_label_at_all_is_no_loss_and_a_gradient_of_zeros(name, variant):
    model: Any = build(name, variant)
    batch = collate_labelled(
        name, labelled(name, [4, 2], explicit=True), left=False, left_target=False
    )
    batch["labels"] = torch.full_like(batch["labels"], -100)
    for loss in (model.loss(**batch), model(**batch).loss):
        assert loss.item() == 0.0
        assert not any(gradient.any() for gradient in gradients(model, loss))
    assert model.num_supervised_tokens(batch) == 0


def test_every_class_is_in_one_group():
    assert {*CAUSAL, *SEQ2SEQ, *CLASSIFIERS} == {*DECODER_CLASSES}
    assert {*LANGUAGE_MODELS} <= {*DECODER_CLASSES}
    assert VOCAB_SIZE > FIRST_ORDINARY_ID + 20
