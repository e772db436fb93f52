"""The loss of guessed words in pieces: the numbers of the formula, without its copies."""

import pytest
import torch
import torch.nn.functional as F

from minitransformer.layers import word_loss as module
from minitransformer.layers.word_loss import WordScores, pieces_pay, word_loss
from tests.layers.made import Made

WORDS, SIZE = 23, 7


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Pieces of 5 words, and one of 3."""
    monkeypatch.setattr(module, "_WORDS", 5)


def leaves(rows=WORDS, dtype=torch.float32, bias=True):
    """x, W and b."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(rows, SIZE), (WORDS, SIZE)] + [(WORDS,)] * bias
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def formula(factors, labels):
    """In the dtype of the factors."""
    return F.cross_entropy(F.linear(*factors).float(), labels, reduction="sum")


def exact(factors, labels, scale=1.0):
    """The loss and its gradients of float64."""
    wide = [factor.detach().double().requires_grad_() for factor in factors]
    loss = F.cross_entropy(F.linear(*wide), labels, reduction="sum") * scale
    return loss.detach(), torch.autograd.grad(loss, wide)


def relative_error(found, expected):
    assert found.shape == expected.shape
    return float((found.detach().double() - expected).norm() / expected.norm())


# Each word is the right one of a row: the first and the last of a piece among them.
LABELS = torch.arange(WORDS).flip(0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("autocast", [True, False])
def test_loss_and_gradients_are_those_of_the_formula(dtype, bias, autocast):
    factors = leaves(dtype=torch.float32 if autocast else dtype, bias=bias)
    with torch.autocast("cpu", dtype, enabled=autocast):
        assert pieces_pay(WordScores(*factors))
        loss = 3 * word_loss(WordScores(*factors), LABELS)
    assert loss.dtype == torch.float32
    loss.backward()
    expected, gradients = exact(factors, LABELS, scale=3)
    # A number of bfloat16 is off by up to 2^-8 of itself, one of float16 by 2^-11.
    bound = 2**-7 if dtype == torch.bfloat16 else 2**-10
    assert relative_error(loss, expected) < bound
    for factor, gradient in zip(factors, gradients, strict=True):
        assert factor.grad.dtype == factor.dtype
        assert relative_error(factor.grad, gradient) < bound


def test_a_loss_that_is_nearly_zero_has_gradients_that_are_too():
    """The right word's score is far above the others': nothing cancels, nothing overflows."""
    with torch.autocast("cpu", torch.bfloat16):
        x, weight = (1e3 * torch.eye(WORDS)).requires_grad_(), torch.eye(WORDS).requires_grad_()
        loss = word_loss(WordScores(x, weight), torch.arange(WORDS))
        wrong = word_loss(WordScores(x, weight), torch.arange(WORDS).roll(1))
    assert loss == 0 and wrong == 1e3 * WORDS
    loss.backward()
    assert not x.grad.any() and not weight.grad.any()


def test_only_the_gradients_that_are_wanted_are_computed():
    for wanted in range(3):
        factors = leaves()
        for number, factor in enumerate(factors):
            factor.requires_grad_(number == wanted)
        for derivable in (False, True):
            with torch.autocast("cpu", torch.bfloat16):
                loss = word_loss(WordScores(*factors), LABELS)
            (found,) = torch.autograd.grad(loss, factors[wanted], create_graph=derivable)
            expected = exact(factors, LABELS)[1][wanted]
            assert relative_error(found, expected) < 2**-7


@pytest.mark.parametrize("autocast", [True, False])
def test_gradients_have_gradients(autocast):
    """Those of the formula, to the bit."""
    seconds = []
    for loss_of in (lambda f: word_loss(WordScores(*f), LABELS), lambda f: formula(f, LABELS)):
        factors = leaves(dtype=torch.float32 if autocast else torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = loss_of(factors)
        firsts = torch.autograd.grad(loss, factors, create_graph=True)
        total = sum(first.float().pow(2).sum() for first in firsts)
        seconds.append(torch.autograd.grad(total, factors))
    torch.testing.assert_close(*seconds, rtol=0, atol=0)


def test_inference_has_the_same_loss():
    factors = leaves()
    with torch.autocast("cpu", torch.bfloat16):
        learning = word_loss(WordScores(*factors), LABELS)
        with torch.no_grad():
            assert torch.equal(word_loss(WordScores(*factors), LABELS), learning)


def test_a_head_that_lies_across():
    """Transposed weights, an expanded bias, rows with gaps."""
    x, weight, bias = leaves()
    x = torch.stack([x, x], dim=1)[:, 0].detach().requires_grad_()
    weight = weight.detach().t().contiguous().t().requires_grad_()
    bias = torch.ones(1).expand(WORDS).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        loss = word_loss(WordScores(x, weight, bias), LABELS)
    found = torch.autograd.grad(loss, (x, weight, bias))
    expected, gradients = exact((x, weight, bias), LABELS)
    assert relative_error(loss, expected) < 2**-7
    for one, other in zip(found, gradients, strict=True):
        assert relative_error(one, other) < 2**-7


def test_neither_the_scores_nor_the_matrix_are_copied_whole():
    for rows in (2, 40):
        factors = leaves(rows=rows)
        with Made() as made, torch.autocast("cpu", torch.bfloat16):
            word_loss(WordScores(*factors), torch.arange(rows) % WORDS).backward()
        sizes = [(tensor.dtype, tensor.numel()) for _, tensor in made.noted]
        assert sizes.count((torch.bfloat16, rows * WORDS)) == 1  # the scores
        assert sizes.count((torch.float32, rows * WORDS)) == 0
        assert sizes.count((torch.bfloat16, WORDS * SIZE)) == 0
        assert sizes.count((torch.float32, WORDS * SIZE)) == 1  # the gradient of the matrix


def test_only_half_formats_go_in_pieces():
    factors = leaves()
    assert not pieces_pay(WordScores(*factors))
    with torch.autocast("cpu", torch.bfloat16):
        assert pieces_pay(WordScores(*factors))
        with torch.autocast("cpu", enabled=False):
            assert not pieces_pay(WordScores(*factors))
        assert not pieces_pay(WordScores(factors[0][:0], *factors[1:]))  # no label at all
    assert pieces_pay(WordScores(*leaves(dtype=torch.bfloat16)))


def test_what_does_not_fit_gets_the_error_of_the_formula():
    x, weight, bias = leaves(dtype=torch.bfloat16)
    for autocast in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            assert pieces_pay(WordScores(x, weight.float(), bias)) is autocast
            assert pieces_pay(WordScores(x, weight, bias.float())) is autocast
            assert not pieces_pay(WordScores(x, weight.double(), bias))
            assert not pieces_pay(WordScores(x, weight, bias.double()))
            assert not pieces_pay(WordScores(x[:, 1:], weight, bias))
            assert not pieces_pay(WordScores(x, weight, bias[:1]))


def test_autocast_leaves_float64_alone():
    with torch.autocast("cpu", torch.bfloat16):
        assert not pieces_pay(WordScores(*leaves(dtype=torch.float64)))


@pytest.mark.parametrize("autocast", [True, False])
def test_hidden_states_that_come_from_the_weight_are_not_counted_twice(autocast):
    """As where the head is the word embedding."""
    found = []
    for derivable in (False, True):
        _, weight, bias = leaves(dtype=torch.float32 if autocast else torch.bfloat16)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = word_loss(WordScores(weight[LABELS].tanh(), weight, bias), LABELS.roll(3))
        found.append(torch.autograd.grad(loss, weight, create_graph=derivable)[0].detach())
    assert relative_error(found[1], found[0].double()) < 2**-7


def test_many_gradients_at_a_time():
    factors = leaves()
    with torch.autocast("cpu", torch.bfloat16):
        loss = word_loss(WordScores(*factors), LABELS)
    times = torch.tensor([1.0, -2.0])
    found = torch.autograd.grad(loss, factors, times, is_grads_batched=True)
    for several, one in zip(found, exact(factors, LABELS)[1], strict=True):
        for number, scale in zip(several, times, strict=True):
            assert relative_error(number, one * scale) < 2**-7
