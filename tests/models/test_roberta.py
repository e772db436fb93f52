"""Promises of the encoder that need no reference: invariants, losses, what can be looked at."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from minitransformer import BertModel, RobertaForMaskedLM, RobertaModel
from minitransformer.models.losses import cross_entropy_sum
from tests.tiny import (
    as_variant,
    attention_of,
    batch_of,
    bert_config,
    every_variant,
    perturb,
    roberta_config,
)

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=4)


def roberta(variant: str = "sdpa", **changes: object) -> RobertaForMaskedLM:
    torch.manual_seed(0)  # the same weights, whatever was drawn before
    model = RobertaForMaskedLM(roberta_config(**changes), attention=attention_of(variant))
    return as_variant(perturb(model), variant)


def labels_for(batch: dict[str, torch.Tensor], share: float = 0.4) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    chosen = torch.rand(batch["input_ids"].shape, generator=generator) < share
    chosen &= batch["attention_mask"].bool()
    return torch.where(chosen, batch["input_ids"].flip(1).clamp(4), -100)


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize(
    ("model_class", "config", "pad"),
    [(RobertaModel, roberta_config(), 1), (BertModel, bert_config(), 0)],
)
@given(lengths=lengths, left=st.booleans(), extra=st.integers(0, 3))
def test_padding_on_either_side_changes_nothing(
    model_class, config, pad, variant, lengths, left, extra
):
    model = as_variant(perturb(model_class(config, attention=attention_of(variant))), variant)
    padded = batch_of([*lengths, max(lengths) + extra], left=left, fill=pad)
    output = model(**padded)
    for number in range(len(lengths)):
        real = padded["attention_mask"][number].bool()
        alone = model(padded["input_ids"][number][real][None])
        torch.testing.assert_close(
            output.last_hidden_state[number][real], alone.last_hidden_state[0], rtol=1e-5, atol=1e-5
        )
        torch.testing.assert_close(
            output.pooler_output[number], alone.pooler_output[0], rtol=1e-5, atol=1e-5
        )


@every_variant
def test_a_fully_masked_sequence_is_finite_and_changes_no_other(variant):
    model = roberta(variant)
    batch = batch_of([5, 7])
    with_masked_sequence = {
        "input_ids": torch.cat([batch["input_ids"], torch.ones(1, 7, dtype=torch.int64)]),
        "attention_mask": torch.cat(
            [batch["attention_mask"], torch.zeros(1, 7, dtype=torch.int64)]
        ),
    }
    output = model(**with_masked_sequence)
    assert output.logits.isfinite().all()
    torch.testing.assert_close(output.logits[:2], model(**batch).logits)
    output.logits.sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.slow
@every_variant
@given(lengths=lengths, left=st.booleans(), share=st.sampled_from([0.0, 0.2, 1.0]))
def test_the_loss_is_that_of_forward(variant, lengths, left, share):
    model = roberta(variant).double()
    batch = batch_of(lengths, left=left)
    labels = labels_for(batch, share)
    gradients = []
    for loss in (model(**batch, labels=labels).loss, model.loss(**batch, labels=labels)):
        model.zero_grad()
        loss.backward()
        gradients.append([loss.detach(), *(p.grad for p in model.parameters())])
    for full, short in zip(*gradients, strict=True):
        torch.testing.assert_close(short, full, rtol=1e-10, atol=1e-10)


@every_variant
def test_logits_at_are_those_of_forward_at_these_positions(variant):
    model = roberta(variant)
    batch = batch_of([9, 4, 6])
    positions = labels_for(batch) != -100
    found = model.logits_at(positions, **batch)
    assert found.shape == (int(positions.sum()), 99)
    torch.testing.assert_close(found, model(**batch).logits[positions], rtol=1e-5, atol=1e-5)


@every_variant
def test_a_loss_over_nothing_is_zero_with_a_gradient_of_zeros(variant):
    batch = batch_of([5, 3])
    nothing = torch.full_like(batch["input_ids"], -100)
    for loss_of in (
        lambda model: model(**batch, labels=nothing).loss,
        lambda model: model.loss(**batch, labels=nothing),
    ):
        model = roberta(variant)
        loss = loss_of(model)
        loss.backward()
        assert loss.item() == 0.0
        for parameter in model.parameters():
            assert parameter.grad is None or not parameter.grad.any()
    assert model(**batch, labels=nothing).num_supervised_tokens == 0
    assert model.loss_sum(**batch, labels=nothing)[1] == 0


@every_variant
def test_the_number_of_supervised_tokens_is_returned(variant):
    batch = batch_of([5, 3])
    labels = labels_for(batch)
    count = int((labels != -100).sum())
    assert count > 0
    model = roberta(variant)
    assert model(**batch, labels=labels).num_supervised_tokens == count
    assert model.loss_sum(**batch, labels=labels)[1] == count
    assert model.num_supervised_tokens(batch | {"labels": labels}) == count


@every_variant
def test_micro_batches_give_the_gradient_of_the_whole_batch(variant):
    model = roberta(variant).double()
    batch = batch_of([9, 2, 5, 7])
    labels = labels_for(batch)
    total, count = model.loss_sum(**batch, labels=labels)
    (total / count).backward()
    whole = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    for some in (slice(0, 1), slice(1, 4)):
        part = {name: tensor[some] for name, tensor in batch.items()}
        (model.loss_sum(**part, labels=labels[some])[0] / count).backward()
    for before, parameter in zip(whole, model.parameters(), strict=True):
        torch.testing.assert_close(parameter.grad, before, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_sum_of_many_losses_fits_a_half_precision_model(dtype):
    logits = torch.zeros(30_000, 99, dtype=dtype)
    total, count = cross_entropy_sum(logits, torch.full((30_000,), 7))
    assert total.item() == pytest.approx(30_000 * math.log(99), rel=1e-3)
    assert count == 30_000


@every_variant
def test_the_head_is_the_token_embedding(variant):
    model = roberta(variant)
    with torch.no_grad():
        before = model(torch.tensor([[5, 6]])).logits
        model.roberta.embeddings.token_embedding.weight[50] += 1  # a token not in the text
        after = model(torch.tensor([[5, 6]])).logits
    changed = (after - before).abs().amax(dim=(0, 1)) > 1e-6
    assert changed.nonzero().flatten().tolist() == [50]


@every_variant
def test_hidden_states_and_maps_are_there_however_they_are_computed(variant):
    model = roberta(variant)
    batch = batch_of([9, 4])
    real = batch["attention_mask"].bool()
    output = model(**batch, output_hidden_states=True, output_attentions=True)
    layers = model.config.num_hidden_layers
    assert [h.shape for h in output.hidden_states] == [(2, 9, 32)] * (layers + 1)
    assert [a.shape for a in output.attentions] == [(2, 4, 9, 9)] * layers
    sums = output.attentions[0].sum(dim=-1)[:, :, :4]  # of tokens that are real in both sequences
    torch.testing.assert_close(sums, torch.ones_like(sums))
    assert output.attentions[0][1, :, :, 4:].abs().max() == 0  # padding is not attended to
    without = model(**batch)
    assert without.hidden_states is None
    assert without.attentions is None
    torch.testing.assert_close(without.logits[real], output.logits[real])
    for asked, other in (
        ("output_hidden_states", "attentions"),
        ("output_attentions", "hidden_states"),
    ):
        assert getattr(model(**batch, **{asked: True}), other) is None


@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
def test_all_variants_give_the_numbers_of_the_formula(variant):
    eager, other = roberta("eager").double(), roberta(variant).double()
    batch = batch_of([9, 4], left=True)
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(
        other(**batch).logits[real], eager(**batch).logits[real], rtol=1e-10, atol=1e-10
    )


def test_initial_weights_are_berts():
    model = RobertaForMaskedLM(
        roberta_config(vocab_size=5000, hidden_size=64, initializer_range=0.05)
    )
    embedding = model.roberta.embeddings.token_embedding.weight
    assert embedding.std().item() == pytest.approx(0.05, rel=0.02)
    assert torch.equal(embedding[1], torch.zeros(64))
    for module in model.modules():
        if isinstance(module, nn.Linear):
            assert torch.equal(module.bias, torch.zeros_like(module.bias))
            assert module.weight.std().item() == pytest.approx(0.05, rel=0.1)


@every_variant
def test_dropout_changes_training_and_not_evaluation(variant):
    model = roberta(variant, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    batch = batch_of([9, 4])
    assert torch.equal(model(**batch).logits, model(**batch).logits)
    model.train()
    assert not torch.equal(model(**batch).logits, model(**batch).logits)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
def test_compiled_loss_is_the_loss(variant):
    model = roberta(variant)
    batch = batch_of([9, 4])
    labels = labels_for(batch)
    compiled = torch.compile(model.loss_sum, backend="aot_eager")
    total, count = compiled(**batch, labels=labels)
    expected, number = model.loss_sum(**batch, labels=labels)
    torch.testing.assert_close(total, expected)
    assert count == number


@pytest.mark.cuda
@every_variant
def test_cuda_gives_the_numbers_of_the_cpu(variant):
    model = roberta(variant).double()
    batch = batch_of([9, 4], left=True)
    labels = labels_for(batch)
    here = model(**batch, labels=labels)
    there = model.cuda()(
        **{name: tensor.cuda() for name, tensor in batch.items()}, labels=labels.cuda()
    )
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(there.logits.cpu()[real], here.logits[real], rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(there.loss.cpu(), here.loss, rtol=1e-9, atol=1e-9)
