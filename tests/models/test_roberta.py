"""Promises of the encoder that need no reference: invariants, losses, what can be looked at."""

import math

import pytest
import torch
from torch import nn

from minitransformer import RobertaForMaskedLM
from minitransformer.models.losses import cross_entropy_sum
from tests.tiny import batch_of, every_variant, new, roberta_config


def roberta(variant: str = "sdpa", **changes: object) -> RobertaForMaskedLM:
    return new("RobertaForMaskedLM", variant, dtype=torch.float32, **changes)


def labels_for(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    chosen = torch.rand(batch["input_ids"].shape, generator=generator) < 0.4
    chosen &= batch["attention_mask"].bool()
    return torch.where(chosen, batch["input_ids"].flip(1).clamp(4), -100)


@every_variant
def test_logits_at_are_those_of_forward_at_these_positions(variant):
    model = roberta(variant)
    batch = batch_of([9, 4, 6])
    positions = labels_for(batch) != -100
    found = model.logits_at(positions, **batch)
    assert found.shape == (int(positions.sum()), 99)
    torch.testing.assert_close(found, model(**batch).logits[positions], rtol=1e-5, atol=1e-5)


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
