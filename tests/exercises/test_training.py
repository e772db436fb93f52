"""The exercises on training: steps are the library; mistakes as students write them are named."""

import math
from collections.abc import Callable
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.exercises import training
from minitransformer.exercises.checking import first_difference, judge, wrong_outcome
from minitransformer.exercises.exercise import Exercise
from minitransformer.exercises.runner import evaluate
from minitransformer.models.base import next_token_labels, shift_right
from minitransformer.models.losses import cross_entropy_sum, mean_loss
from tests import tiny
from train import masking
from train.optimizer import build_optimizer, linear

# ---- the library's functions with the arguments of the exercises ----


def library_mask_tokens(
    input_ids: Tensor,
    attention_mask: Tensor,
    is_special: Tensor,
    chosen_draw: Tensor,
    kind_draw: Tensor,
    random_ids: Tensor,
    mask_token_id: int,
) -> tuple[Tensor, Tensor]:
    """Its random numbers are the given ones, in the order in which it asks for them."""
    draws = iter([chosen_draw.numpy(), kind_draw.numpy()])
    source: Any = SimpleNamespace(
        random=lambda shape: next(draws), choice=lambda ids, shape: random_ids.numpy()
    )
    masked, labels = masking.mask_tokens(
        input_ids.numpy(),
        excluded=(is_special | ~attention_mask).numpy(),
        random=source,
        probability=0.15,
        mask_token_id=mask_token_id,
        ordinary_ids=torch.arange(100).numpy(),
    )
    return torch.from_numpy(masked), torch.from_numpy(labels)


def library_cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """As models compute their loss."""
    return mean_loss(*cross_entropy_sum(logits, labels))


def library_schedule(step: int, warmup_steps: int, total_steps: int) -> float:
    """With the arguments in its order."""
    return linear(step, total_steps, warmup_steps)


def library_clip(gradients: list[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor]:
    """As `take_step` clips."""
    parameters = [nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient
    norm = nn.utils.get_total_norm(gradients)
    nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
    return [parameter.grad for parameter in parameters if parameter.grad is not None], norm


LIBRARY: list[tuple[Exercise, Callable[..., Any]]] = [
    (training.MASK_TOKENS, library_mask_tokens),
    (training.CROSS_ENTROPY, library_cross_entropy),
    (training.SHIFT_LABELS, next_token_labels),
    (training.SHIFT_RIGHT, shift_right),
    (training.WARMUP_SCHEDULE, library_schedule),
    (training.CLIP_GRADIENTS, library_clip),
]


@pytest.mark.parametrize(("exercise", "function"), LIBRARY)
def test_steps_without_mistakes_are_the_library(
    exercise: Exercise, function: Callable[..., Any]
) -> None:
    for case in exercise.cases():
        steps, library = wrong_outcome(exercise, (), case), evaluate(function, case)
        assert library.error is None, case.label
        assert first_difference(case, steps, library) is None, case.label


def test_steps_of_adamw_are_those_of_our_optimizer() -> None:
    """Ten steps, each from the state that the one before has left."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Embedding(5, 3), nn.LayerNorm(3), nn.Linear(3, 4)).double()
    optimizer = build_optimizer(model, learning_rate=0.1, weight_decay=0.3)
    parameters = {name: p.detach().clone() for name, p in model.named_parameters()}
    means = {name: torch.zeros_like(p) for name, p in parameters.items()}
    squares = dict(means)
    steps = training.AdamWStepSteps()
    for step in range(1, 11):
        model.zero_grad()
        model(torch.arange(5)).square().sum().backward()
        gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        optimizer.step()
        parameters, means, squares = steps(parameters, gradients, means, squares, step, 0.1, 0.3)
        for name, parameter in model.named_parameters():
            torch.testing.assert_close(parameters[name], parameter.detach(), rtol=0, atol=1e-12)


def test_no_random_number_of_a_case_lies_on_a_border() -> None:
    for case in training.MASK_TOKENS.cases():
        for name, borders in {"chosen_draw": [0.15], "kind_draw": [0.8, 0.82, 0.9]}.items():
            draws = case.inputs[name]
            assert all((draws - border).abs().min() > 1e-5 for border in borders), case.label


def test_a_model_makes_the_mistake_that_is_put_into_it() -> None:
    exercise = training.SHIFT_RIGHT
    [copied] = [m for m in exercise.mistakes if m.name == "decoder reads its labels"]
    labels = torch.tensor([[5, 6, 7, 8], [-100, -100, 9, 10]])
    inputs = {"input_ids": tiny.random_sequences(2, 6), "labels": labels}
    plain, right, wrong = (tiny.new(tiny.BART) for _ in range(3))
    exercise.put_into_model(right)
    exercise.put_into_model(wrong, [copied])
    assert torch.equal(right(**inputs).loss, plain(**inputs).loss)
    read, _ = wrong.decoder_inputs(None, None, labels)
    assert read[0, 1:].tolist() == [6, 7, 8]
    assert not torch.equal(wrong(**inputs).loss, plain(**inputs).loss)


# ---- mistakes as students write them ----


def masks_of_a_tutorial(
    input_ids: Tensor, mask: Tensor, special: Tensor, draw: Tensor, *_: Any
) -> tuple[Tensor, Tensor]:
    """Always [MASK] (with the id 4), as many tutorials have it."""
    chosen = (draw < 0.15) & ~special & mask
    return torch.where(chosen, 4, input_ids), torch.where(chosen, input_ids, -100)


def masks_by_one_tensor(
    input_ids: Tensor,
    mask: Tensor,
    special: Tensor,
    draw: Tensor,
    kind: Tensor,
    random_ids: Tensor,
    mask_token_id: int,
) -> tuple[Tensor, Tensor]:
    """Labels without a copy."""
    labels = input_ids
    chosen = (draw < 0.15) & mask & ~special
    labels[~chosen] = -100
    input_ids[chosen & (kind < 0.8)] = mask_token_id
    where = chosen & (kind >= 0.8) & (kind < 0.9)
    input_ids[where] = random_ids[where]
    return input_ids, labels


def masks_of_padding_with_labels_where_they_show(
    input_ids: Tensor,
    mask: Tensor,
    special: Tensor,
    draw: Tensor,
    kind: Tensor,
    random_ids: Tensor,
    mask_token_id: int,
) -> tuple[Tensor, Tensor]:
    """Two at once: padding is chosen, and labels are where the mask token is."""
    inputs = input_ids.clone()
    for at in ((draw < 0.15) & ~special).nonzero().unbind():
        kind_here = kind[tuple(at)]
        if kind_here < 0.8:
            inputs[tuple(at)] = mask_token_id
        elif kind_here < 0.9:
            inputs[tuple(at)] = random_ids[tuple(at)]
    labels = input_ids.clone()
    labels[inputs != mask_token_id] = -100
    return inputs, labels


def entropy_of_pytorch(logits: Tensor, labels: Tensor) -> Tensor:
    """Right but for sequences without a label."""
    logits = logits.float() if logits.dtype != torch.float64 else logits
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten())


def entropy_of_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """A softmax at the end of the model, and a loss that takes another."""
    probabilities = F.softmax(logits.float() if logits.itemsize == 2 else logits, dim=-1)
    total = F.cross_entropy(probabilities.transpose(1, 2), labels, reduction="sum")
    return total / (labels != -100).sum().clamp(min=1)


def entropy_with_a_floor(logits: Tensor, labels: Tensor) -> Tensor:
    """The logarithm of probabilities that cannot be 0."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    log_probabilities = logits.to(wide).softmax(-1).clamp(min=1e-8).log().transpose(1, 2)
    total = F.nll_loss(log_probabilities, labels, reduction="sum")
    return total / (labels != -100).sum().clamp(min=1)


def entropy_by_view(logits: Tensor, labels: Tensor) -> Tensor:
    """A view to the shape that the error message asks for."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    batch, tokens, classes = logits.shape
    loss = F.cross_entropy(logits.to(wide).view(batch, classes, tokens), labels, reduction="none")
    return loss.sum() / max(1, (labels != -100).sum().item())


def entropy_by_index(logits: Tensor, labels: Tensor) -> Tensor:
    """Fancy indexing; forgets -100."""
    wide = torch.promote_types(logits.dtype, torch.float32)
    chances = logits.to(wide).log_softmax(-1).reshape(-1, logits.shape[-1])
    return -chances[range(labels.numel()), labels.reshape(-1)].mean()


def labels_of_gpt2(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """As transformers: the mask is left to the caller."""
    return F.pad(labels, (0, 1), value=-100)[:, 1:]


def labels_by_slice(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """One position less."""
    shorter = labels[:, 1:].clone()
    if attention_mask is not None:
        shorter[~attention_mask[:, :-1]] = -100
    return shorter


def labels_by_loop(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """The modulo of a ring."""
    result, length = labels.clone(), labels.shape[1]
    for t in range(length):
        result[:, t] = labels[:, (t + 1) % length]
    return result if attention_mask is None else result.where(attention_mask, -100)


def right_of_transformers(labels: Tensor, start: int, pad: int) -> tuple[Tensor, Tensor]:
    """transformers' function, for padding on the right."""
    shifted = labels.new_zeros(labels.shape)
    shifted[:, 1:] = labels[:, :-1].clone()
    shifted[:, 0] = start
    return shifted.masked_fill_(shifted == -100, pad), torch.ones_like(labels, dtype=torch.bool)


def right_with_a_mask_of_tokens(labels: Tensor, start: int, pad: int) -> tuple[Tensor, Tensor]:
    """The same, and a mask as that of any padded batch: two entries of the catalogue."""
    shifted, _ = right_of_transformers(labels, start, pad)
    return shifted, shifted != pad


def _torch_step(kind: type, decays: Callable[[Tensor], bool]) -> Callable[..., Any]:
    def adamw_step(
        parameters: dict[str, Tensor],
        gradients: dict[str, Tensor],
        means: dict[str, Tensor],
        squares: dict[str, Tensor],
        step: int,
        learning_rate: float,
        weight_decay: float,
    ) -> tuple[dict[str, Tensor], ...]:
        for name, parameter in parameters.items():
            leaf = nn.Parameter(parameter)
            leaf.grad = gradients[name]
            optimizer = kind(
                [leaf], lr=learning_rate, weight_decay=weight_decay * decays(parameter)
            )
            optimizer.state[leaf] = {
                "step": torch.tensor(step - 1.0),
                "exp_avg": means[name],
                "exp_avg_sq": squares[name],
            }
            optimizer.step()
        return parameters, means, squares

    return adamw_step


def adamw_by_hand(
    p: dict[str, Tensor],
    g: dict[str, Tensor],
    m: dict[str, Tensor],
    v: dict[str, Tensor],
    t: int,
    lr: float,
    wd: float,
) -> tuple[dict[str, Tensor], ...]:
    """No bias correction at all: two entries of the catalogue."""
    for k in p:
        m[k] = 0.9 * m[k] + 0.1 * g[k]
        v[k] = 0.999 * v[k] + 0.001 * g[k] ** 2
        decay = lr * wd * p[k] * (p[k].ndim > 1)
        p[k] = p[k] - lr * m[k] / (v[k].sqrt() + 1e-8) - decay
    return p, m, v


def schedule_of_transformers(step: int, warmup_steps: int, total_steps: int) -> float:
    """get_linear_schedule_with_warmup."""
    if step < warmup_steps:
        return float(step) / float(max(1, warmup_steps))
    return max(0.0, float(total_steps - step) / float(max(1, total_steps - warmup_steps)))


def clipped_by_python(gradients: list[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor]:
    """Python's min, which ignores NaN."""
    norm = torch.sqrt(sum((g**2).sum() for g in gradients))  # type: ignore[arg-type]
    factor = min(1.0, max_norm / (float(norm) + 1e-6))
    return [g * factor for g in gradients], norm


def clipped_one_by_one(gradients: list[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor]:
    """PyTorch's function for each tensor; the norm of all, after it."""
    clipped = [library_clip([gradient], max_norm)[0][0] for gradient in gradients]
    return clipped, torch.cat([g.flatten() for g in clipped]).norm()


def clipped_by_ones_norm(gradients: list[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor]:
    """The sum of absolute values, with an if."""
    norm = torch.stack([g.abs().sum() for g in gradients]).sum()
    if norm <= max_norm:
        return gradients, norm
    return [max_norm * g / norm for g in gradients], norm


WRITTEN: list[tuple[Exercise, Callable[..., Any], set[str]]] = [
    (training.MASK_TOKENS, masks_of_a_tutorial, {"always the mask token"}),
    (
        training.MASK_TOKENS,
        masks_by_one_tensor,
        {"labels are the inputs", "inputs changed in place"},
    ),
    (
        training.MASK_TOKENS,
        lambda ids, *others: masks_by_one_tensor(ids.clone(), *others),
        {"labels are the inputs"},
    ),
    (
        training.MASK_TOKENS,
        masks_of_padding_with_labels_where_they_show,
        {"padding chosen", "labels of mask tokens alone"},
    ),
    (training.CROSS_ENTROPY, entropy_of_pytorch, {"not a number without labels"}),
    (training.CROSS_ENTROPY, entropy_of_probabilities, {"softmax twice"}),
    (training.CROSS_ENTROPY, entropy_with_a_floor, {"small number in the log"}),
    (training.CROSS_ENTROPY, entropy_by_view, {"logits reshaped"}),
    (training.CROSS_ENTROPY, entropy_by_index, {"minus 100 as an index"}),
    (training.SHIFT_LABELS, labels_of_gpt2, {"predicted from padding"}),
    (training.SHIFT_LABELS, labels_by_slice, {"one shorter"}),
    (training.SHIFT_LABELS, labels_by_loop, {"wraps around"}),
    (training.SHIFT_RIGHT, right_of_transformers, {"begins at position 0"}),
    (
        training.SHIFT_RIGHT,
        right_with_a_mask_of_tokens,
        {"start token at position 0", "mask of the padding token"},
    ),
    (
        training.ADAMW_STEP,
        _torch_step(torch.optim.AdamW, lambda parameter: True),
        {"everything decayed"},
    ),
    (
        training.ADAMW_STEP,
        _torch_step(torch.optim.Adam, lambda parameter: parameter.dim() > 1),
        {"decay in the gradient"},
    ),
    (
        training.ADAMW_STEP,
        _torch_step(torch.optim.Adam, lambda parameter: True),
        {"everything decayed", "decay in the gradient"},
    ),
    (training.ADAMW_STEP, adamw_by_hand, {"mean not corrected", "square not corrected"}),
    (training.WARMUP_SCHEDULE, schedule_of_transformers, {"first step of zero"}),
    (training.CLIP_GRADIENTS, clipped_by_python, {"not a number is not clipped"}),
    (training.CLIP_GRADIENTS, clipped_one_by_one, {"each tensor alone", "norm after clipping"}),
    (training.CLIP_GRADIENTS, clipped_by_ones_norm, {"sum of sizes"}),
]


@pytest.mark.parametrize(
    ("exercise", "function", "names"),
    WRITTEN,
    ids=[f"{exercise.name}: {' and '.join(sorted(names))}" for exercise, _, names in WRITTEN],
)
def test_mistakes_that_others_write_are_named(
    exercise: Exercise, function: Callable[..., Any], names: set[str]
) -> None:
    cases = list(exercise.cases())
    report = judge(exercise, cases, [evaluate(function, case) for case in cases])
    assert [{m.name for m in each} for each in report.mistakes] == [names]


def test_the_schedule_of_the_exercise_rises_to_1_and_falls() -> None:
    factors = [training.WarmupScheduleSteps()(step, 3, 10) for step in range(10)]
    assert max(factors) == factors[3] == 1.0 and min(factors) > 0
    assert all(a < b for a, b in pairwise(factors[:4]))
    assert all(math.isclose(a - b, 1 / 7) for a, b in pairwise(factors[3:]))
