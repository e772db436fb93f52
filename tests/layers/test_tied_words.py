"""A table that is looked up in and scores: the gradients of the usual way, in fewer numbers."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from minitransformer.layers import tied_words as module
from minitransformer.layers.tied_words import tied_words
from tests.layers.made import Made

WORDS, SIZE = 50, 3
IDS = torch.tensor([[4, 4, 0], [9, 4, 49]])  # one thrice, one that is padding


def new_words(padding_idx=0, **options):
    torch.manual_seed(0)
    return nn.Embedding(WORDS, SIZE, padding_idx, **options)


def scores(words, ids=IDS):
    """Of every word, at every place."""
    with tied_words(words) as tied:
        vectors = words(ids)
    return F.linear(vectors.tanh(), tied.table)


def usual_scores(words, ids=IDS):
    return F.linear(words(ids).tanh(), words.weight)


def gradient(words, scores_of, ids=IDS):
    (found,) = torch.autograd.grad((scores_of(words, ids) + 1).pow(2).sum(), words.weight)
    return found


@pytest.mark.parametrize("padding_idx", [0, -1, None])
@pytest.mark.parametrize("ids", [IDS, IDS[0], IDS[:, None]])
def test_gradients_are_those_of_the_usual_way(padding_idx, ids):
    words = new_words(padding_idx)
    found, expected = gradient(words, scores, ids), gradient(words, usual_scores, ids)
    torch.testing.assert_close(found, expected)
    assert not words._forward_hooks


def test_one_gradient_of_the_size_of_the_table_is_made():
    words = new_words()
    found = scores(words).pow(2).sum()
    with Made() as made:
        found.backward()
    assert [name for name, tensor in made.noted if tensor.shape == (WORDS, SIZE)] == ["mm"]


def test_gradients_have_gradients():
    seconds = []
    for scores_of in (scores, usual_scores):
        words = new_words()
        loss = scores_of(words).pow(2).sum()
        (first,) = torch.autograd.grad(loss, words.weight, create_graph=True)
        first.pow(2).sum().backward()
        seconds.append(words.weight.grad)
    torch.testing.assert_close(*seconds)


def test_a_graph_that_is_kept_gives_the_same_twice():
    words = new_words()
    loss = scores(words).pow(2).sum()
    once = torch.autograd.grad(loss, words.weight, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(loss, words.weight), once, rtol=0, atol=0)


def test_either_use_alone_has_its_gradient():
    for only_looked_up in (True, False):
        words = new_words()
        with tied_words(words) as tied:
            vectors = words(IDS)
        used = vectors if only_looked_up else tied.table
        usual = words(IDS) if only_looked_up else words.weight
        found = torch.autograd.grad(used.pow(2).sum(), words.weight)
        torch.testing.assert_close(found, torch.autograd.grad(usual.pow(2).sum(), words.weight))


def test_without_a_lookup_the_table_is_the_weight():
    words = new_words()
    with tied_words(words) as tied:
        pass
    assert tied.table is words.weight


@pytest.mark.parametrize(
    "unusual",
    [
        {"max_norm": 0.5},
        {"scale_grad_by_freq": True},
        {"sparse": True},
        "hook",
        "subclass",
        "frozen",
        "no gradient",
    ],
)
def test_what_is_not_usual_is_left_to_pytorch(unusual, monkeypatch):
    words = new_words(**unusual) if isinstance(unusual, dict) else new_words()
    if unusual == "hook":
        words.register_forward_hook(lambda *call: None)
    if unusual == "subclass":
        words.__class__ = type("Words", (nn.Embedding,), {})
    words.weight.requires_grad_(unusual != "frozen")
    monkeypatch.setattr(module._LookUp, "apply", None)
    with torch.set_grad_enabled(unusual != "no gradient"):
        found = scores(words)
    torch.testing.assert_close(found, usual_scores(words))
    assert len(words._forward_hooks) == (unusual == "hook")


def test_an_error_leaves_no_hook():
    words = new_words()
    with pytest.raises(IndexError), tied_words(words):
        words(torch.tensor([WORDS]))
    assert not words._forward_hooks


def test_another_thread_looks_up_as_usual():
    words, seen = new_words(), []
    with tied_words(words) as tied:
        other = threading.Thread(target=lambda: seen.append(words(IDS)))
        other.start()
        other.join()
        assert tied.table is words.weight
    assert seen[0].grad_fn.name() == words(IDS).grad_fn.name()


def test_a_lookup_without_gradients_takes_none_from_the_scores():
    words = new_words()
    with tied_words(words) as tied, torch.no_grad():
        vectors = words(IDS)
    found = torch.autograd.grad(F.linear(vectors, tied.table).pow(2).sum(), words.weight)
    expected = torch.autograd.grad(
        F.linear(words(IDS).detach(), words.weight).pow(2).sum(), words.weight
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_lookup_may_be_computed_again_for_the_gradient(use_reentrant):
    words, needs = new_words(), torch.ones(1, requires_grad=True)

    def embed(ids, factor):
        return (words(ids) * factor).tanh()

    found = []
    for again in (True, False):
        with tied_words(words) as tied:
            if again:
                vectors = checkpoint(embed, IDS, needs, use_reentrant=use_reentrant)
            else:
                vectors = embed(IDS, needs)
        F.linear(vectors, tied.table).pow(2).sum().backward()
        found.append(words.weight.grad)
        words.weight.grad = None
    torch.testing.assert_close(*found)


def test_ids_that_change_before_the_gradient_change_nothing():
    words, ids = new_words(), IDS.clone()
    loss = (scores(words, ids) + 1).pow(2).sum()
    ids.zero_()
    found = torch.autograd.grad(loss, words.weight)[0]
    torch.testing.assert_close(found, gradient(words, usual_scores))


def test_a_copy_made_meanwhile_has_its_own_vectors():
    words = new_words()
    with tied_words(words):
        copied = copy.deepcopy(words)
    copied.weight.data.zero_()
    assert not copied(IDS).any()


def test_a_weight_that_a_pre_hook_sets_is_the_one_of_the_pass():
    words = nn.utils.parametrizations.weight_norm(new_words(None))
    for _ in range(2):
        torch.testing.assert_close(scores(words), usual_scores(words))
        scores(words).sum().backward()
    hooked = new_words()
    made = torch.randn(WORDS, SIZE, requires_grad=True)
    del hooked._parameters["weight"]
    hooked.weight = torch.zeros(WORDS, SIZE)
    hooked.register_forward_pre_hook(lambda module, _ids: setattr(module, "weight", made))
    with tied_words(hooked) as tied:
        hooked(IDS)
    assert tied.table is made


def test_ids_by_name_and_many_gradients_at_a_time_go_pytorchs_way():
    words = new_words()
    with tied_words(words) as tied:
        words(input=IDS)
    assert tied.table is words.weight
    directions = torch.randn(3, *usual_scores(words).shape)
    found, expected = (
        torch.autograd.grad(made(words), words.weight, directions, is_grads_batched=True)
        for made in (scores, usual_scores)
    )
    torch.testing.assert_close(found, expected)
