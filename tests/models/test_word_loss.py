"""The losses of models that guess words, in half formats: in pieces where nobody can tell."""

import copy

import pytest
import torch
from torch import nn

from minitransformer.layers import tied_words
from minitransformer.models import heads
from tests.models import decoders
from tests.models.test_decoder_invariants import collate_labelled, labelled
from tests.models.test_heads import FAMILIES, build, collate, examples_of, gradients


@pytest.fixture
def in_pieces(monkeypatch):
    """The losses that were computed in pieces."""
    seen = []
    word_loss = heads.word_loss

    def counted(*inputs):
        seen.append(word_loss(*inputs))
        return seen[-1]

    monkeypatch.setattr(heads, "word_loss", counted)
    return seen


def model_and_batch(name, dtype):
    """A copy of a model that guesses words, and labelled rows of unequal length."""
    if name in FAMILIES:
        model = build(name, "masked words", "packed", dtype)
        return copy.deepcopy(model), collate(examples_of("masked words", [6, 3, 4]), model)
    examples = labelled(name, [5, 3, 4], explicit=False)
    batch = collate_labelled(name, examples, left=False, left_target=False)
    return copy.deepcopy(decoders.build(name)).to(dtype), batch


def loss_and_gradients(model, batch, autocast):
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = model.loss(**batch)
    return loss.detach(), gradients(model, loss)


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("name", [*FAMILIES, *decoders.WRITERS])
def test_pieces_give_loss_and_gradients_of_the_formula(name, autocast, in_pieces, monkeypatch):
    model, batch = model_and_batch(name, torch.float32 if autocast else torch.bfloat16)
    found, mine = loss_and_gradients(model, batch, autocast)
    assert len(in_pieces) == 1
    monkeypatch.setattr(heads, "pieces_pay", lambda scores: False)
    expected, usual = loss_and_gradients(model, batch, autocast)
    assert len(in_pieces) == 1
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)
    for one, other in zip(mine, usual, strict=True):
        assert one.dtype == other.dtype
        assert float((one - other).norm()) <= 0.02 * float(other.norm())


@pytest.mark.parametrize("name", ["Bert", "GPT2LMHeadModel"])
def test_rows_without_a_label_have_no_loss_and_a_gradient_of_zeros(name, in_pieces):
    model, batch = model_and_batch(name, torch.float32)
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss, found = loss_and_gradients(model, batch, autocast=True)
    assert loss == 0 and not in_pieces
    assert not any(gradient.any() for gradient in found)


def test_a_head_that_is_watched_or_replaced_computes_the_scores(in_pieces):
    model, batch = model_and_batch("Bert", torch.float32)
    seen = []
    handle = model.lm_head.register_forward_hook(lambda *call: seen.append(call[-1]))
    watched, _ = loss_and_gradients(model, batch, autocast=True)
    handle.remove()
    assert len(seen) == 1 and not in_pieces

    class Guesses(nn.Module):
        def forward(self, hidden, words):
            return torch.zeros(len(hidden), len(words)) + hidden.sum() * 0

    model.lm_head = Guesses()
    loss, _ = loss_and_gradients(model, batch, autocast=True)
    assert not in_pieces
    torch.testing.assert_close(loss, torch.tensor(float(model.config.vocab_size)).log())
    assert watched != loss


@pytest.mark.parametrize("name", ["Bert", "GPT2LMHeadModel"])
@pytest.mark.parametrize("of_the_class", [True, False])
def test_scores_that_a_subclass_computes_are_those_of_the_loss(name, of_the_class, in_pieces):
    model, batch = model_and_batch(name, torch.float32)
    method = "logits_at" if name == "Bert" else "logits"
    usual = getattr(model, method)

    def halved(*inputs, **named):
        return usual(*inputs, **named) / 2

    if of_the_class:
        model.__class__ = type("Halved", (type(model),), {method: lambda self, *i: halved(*i)})
    else:
        setattr(model, method, halved)
    loss, _ = loss_and_gradients(model, batch, autocast=True)
    if name == "Bert":
        places = batch.pop("labels") != -100
        labels = examples_of("masked words", [6, 3, 4])
        labels = torch.cat([example["labels"] for example in labels])
        expected = nn.functional.cross_entropy(halved(places, **batch), labels[labels != -100])
    else:
        expected = model(**batch).loss
    assert not in_pieces
    torch.testing.assert_close(loss, expected, rtol=0.01, atol=0.01)


def test_a_row_without_a_label_goes_the_usual_way(in_pieces):
    """As where the compiler was asked for the labels, and gave up before the scores."""
    torch.manual_seed(0)
    scores = heads.WordScores(torch.randn(3, 4), torch.randn(7, 4))
    with torch.autocast("cpu", torch.bfloat16):
        total, count = heads.summed_word_loss(scores, torch.tensor([1, -100, 6]), True)
        expected, _ = heads.summed_word_loss(
            heads.WordScores(scores.hidden[[0, 2]], scores.weight), torch.tensor([1, 6]), True
        )
    assert count == 2 and len(in_pieces) == 1
    torch.testing.assert_close(total, expected, rtol=0.01, atol=0.01)


@pytest.mark.parametrize("name", ["Bert", "GPT2LMHeadModel"])
def test_a_gradient_that_may_be_derived_is_the_same(name):
    found = []
    for derivable in (False, True):
        model, batch = model_and_batch(name, torch.float32)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model.loss(**batch)
        words = model.get_parameter(
            "bert.embeddings.words.weight" if name == "Bert" else "transformer.words.weight"
        )
        found.append(torch.autograd.grad(loss, words, create_graph=derivable)[0].detach())
    assert float((found[0] - found[1]).norm() / found[0].norm()) < 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_the_word_table_of_a_masked_language_model_has_one_gradient(name, monkeypatch):
    model, batch = model_and_batch(name, torch.float64)
    parameters = list(model.parameters())
    table = model.backbone.embeddings.words.weight
    nodes = []
    for usual in (False, True):
        if usual:
            monkeypatch.setattr(tied_words, "_is_usual", lambda _words: False)
        loss = model.loss(**batch)
        seen, waiting = set(), [loss.grad_fn]
        while waiting:
            node = waiting.pop()
            if node is not None and node not in seen:
                seen.add(node)
                waiting += [following for following, _ in node.next_functions]
        uses = [
            n for n in seen for f, _ in n.next_functions if getattr(f, "variable", None) is table
        ]
        nodes.append((len(uses), torch.autograd.grad(loss, parameters, allow_unused=True)))
    assert [count for count, _ in nodes] == [1, 2]
    torch.testing.assert_close(nodes[0][1], nodes[1][1])
