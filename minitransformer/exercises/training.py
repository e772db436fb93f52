"""Training: what is predicted, the loss, and one step of the optimizer.

B batch, T tokens, V vocabulary.
"""

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from minitransformer.exercises.exercise import Exercise
from minitransformer.exercises.inputs import HALF_PRECISION, integers, normal, real_tokens
from minitransformer.exercises.runner import Case
from minitransformer.models import base, losses
from minitransformer.models.base import Seq2SeqLM, start_token

# ---- masks of masked language modelling ----


def mask_tokens(
    input_ids: Tensor,
    attention_mask: Tensor,
    is_special: Tensor,
    chosen_draw: Tensor,
    kind_draw: Tensor,
    random_ids: Tensor,
    mask_token_id: int,
) -> tuple[Tensor, Tensor]:
    """Choose 15% of the tokens for a masked language model to predict, and hide most of them.

    Of the chosen tokens, 80% become the mask token, 10% a random token, and 10% stay. Special
    tokens and padding are never chosen. All random numbers are arguments, so that the result is
    determined; none of them lies on a border (0.15, 0.8, 0.9).

    The arguments must not be changed in place: the next epoch masks the same ids anew.

    Source: "BERT" (Devlin et al. 2018), section 3.1.

    Args:
        input_ids: (B, T) int64.
        attention_mask: (B, T) bool, False at padding.
        is_special: (B, T) bool, True at tokens such as [CLS] and [SEP]; False at padding.
        chosen_draw: (B, T), uniform in [0, 1): an ordinary token is chosen below 0.15.
        kind_draw: (B, T), uniform in [0, 1): a chosen token becomes the mask token below 0.8, a
            random token from there to 0.9, and stays above.
        random_ids: (B, T) int64, what a token becomes if it is replaced by a random one.
        mask_token_id: the id of the mask token.

    Returns:
        The ids that the model reads, (B, T) int64, and the labels, (B, T) int64: the original id of
        every chosen token, -100 at all others.
    """
    raise NotImplementedError("write me")


class MaskTokensSteps:
    """`train.masking.mask_tokens` in steps, with given random numbers."""

    def candidates(self, attention_mask: Tensor, is_special: Tensor) -> Tensor:
        """Where a token may be chosen."""
        return attention_mask & ~is_special

    def chosen(self, candidates: Tensor, chosen_draw: Tensor) -> Tensor:
        """Where a token is to be predicted."""
        return candidates & (chosen_draw < 0.15)

    def masked(self, kind_draw: Tensor) -> Tensor:
        """Where a chosen token becomes the mask token."""
        return kind_draw < 0.8

    def randomized(self, kind_draw: Tensor) -> Tensor:
        """Where a chosen token becomes a random one."""
        return (kind_draw >= 0.8) & (kind_draw < 0.9)

    def replaced(self, chosen: Tensor) -> Tensor:
        """Where tokens may be replaced."""
        return chosen

    def labelled(
        self, chosen: Tensor, is_mask: Tensor, is_changed: Tensor, attention_mask: Tensor
    ) -> Tensor:
        """Where there is a label."""
        return chosen

    def targets(self, input_ids: Tensor, inputs: Tensor) -> Tensor:
        """The tokens that labels are taken from."""
        return input_ids

    def read(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """What the model reads."""
        return inputs

    def returned(self, read: Tensor, input_ids: Tensor) -> Tensor:
        """The same, in a tensor of its own."""
        return read

    no_label = losses.IGNORED_LABEL

    def __call__(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        is_special: Tensor,
        chosen_draw: Tensor,
        kind_draw: Tensor,
        random_ids: Tensor,
        mask_token_id: int,
    ) -> tuple[Tensor, Tensor]:
        chosen = self.chosen(self.candidates(attention_mask, is_special), chosen_draw)
        replaced = self.replaced(chosen)
        inputs = input_ids.masked_fill(replaced & self.masked(kind_draw), mask_token_id)
        inputs = torch.where(replaced & self.randomized(kind_draw), random_ids, inputs)
        is_mask, is_changed = inputs == mask_token_id, inputs != input_ids
        labelled = self.labelled(chosen, is_mask, is_changed, attention_mask)
        labels = torch.where(labelled, self.targets(input_ids, inputs), self.no_label)
        return self.returned(self.read(inputs, labels), input_ids), labels


def mask_tokens_cases() -> Iterator[Case]:
    """A token of every kind, then sentences with special tokens, padded on either side."""

    def case(label: str, **inputs: Any) -> Case:
        return Case(label, {**inputs, "mask_token_id": 4}, gradients=False)

    four_tokens = case(
        "four tokens that become the mask token, become random, stay, and are not chosen",
        input_ids=torch.tensor([[7, 8, 9, 10]]),
        attention_mask=torch.ones(1, 4, dtype=torch.bool),
        is_special=torch.zeros(1, 4, dtype=torch.bool),
        chosen_draw=torch.tensor([[0.05, 0.1, 0.07, 0.6]]),
        kind_draw=torch.tensor([[0.4, 0.81, 0.95, 0.3]]),
        random_ids=torch.tensor([[21, 22, 23, 24]]),
    )
    yield four_tokens

    def sentences(real: Tensor, seed: int, chosen_share: float) -> dict[str, Tensor]:
        ids = integers(90, *real.shape, seed=seed) + 5  # 0 is padding, 1 [CLS], 2 [SEP]
        begins = real & (real.cumsum(1) == 1)
        ends = real & (real.flip(1).cumsum(1).flip(1) == 1)
        ids = ids.masked_fill(begins, 1).masked_fill(ends, 2).masked_fill(~real, 0)
        uniform = [(integers(1000, *real.shape, seed=seed + i) + 0.5) / 1000 for i in (1, 2)]
        return {
            "input_ids": ids,
            "attention_mask": real,
            "is_special": begins | ends,
            "chosen_draw": uniform[0] * 0.15 / chosen_share,  # more are chosen than by chance
            "kind_draw": uniform[1],
            "random_ids": integers(90, *real.shape, seed=seed + 3) + 5,
        }

    yield case("one sentence", **sentences(real_tokens(12, total=12), 10, 0.5))
    yield case("padding on the right", **sentences(real_tokens(12, 8, total=12), 20, 0.5))
    yield case("padding on the left", **sentences(real_tokens(12, 8, total=12, left=True), 30, 0.5))
    yield case("every token is chosen", **sentences(real_tokens(20, 15, total=20), 40, 1.0))
    none = sentences(real_tokens(6, 4, total=6), 50, 0.5)
    yield case("no token is chosen", **none | {"chosen_draw": 0.2 + none["chosen_draw"]})
    yield case("many tokens", **sentences(real_tokens(64, 50, 33, total=64), 60, 0.5))
    # One case alone, because where an argument is changed, that is all that is known of the result.
    yield replace(four_tokens, label="the arguments stay as they are", keeps_inputs=True)


MASK_TOKENS = Exercise(
    template=mask_tokens,
    reference="train/masking.py",
    steps=MaskTokensSteps,
    cases=mask_tokens_cases,
    title="the masks of masked language modelling, 80/10/10",
)


@MASK_TOKENS.mistake("attention_mask & ~is_special", of=MaskTokensSteps)
def special_tokens_chosen(steps: Any) -> None:
    """Special tokens such as [CLS] and [SEP] are chosen too. They stand in every text, so there is
    nothing to learn from them; leave out those where is_special is True.
    """
    steps.candidates = lambda attention_mask, is_special: attention_mask


@MASK_TOKENS.mistake("attention_mask & ~is_special", of=MaskTokensSteps)
def padding_chosen(steps: Any) -> None:
    """Padding is chosen too, so that the model is trained to predict it; choose among the tokens
    where attention_mask is True.
    """
    steps.candidates = lambda attention_mask, is_special: ~is_special


@MASK_TOKENS.mistake("attention_mask & ~is_special", of=MaskTokensSteps)
def only_special_tokens_chosen(steps: Any) -> None:
    """is_special is inverted: special tokens are the only ones that are chosen; negate it (~)."""
    steps.candidates = lambda attention_mask, is_special: attention_mask & is_special


@MASK_TOKENS.mistake("chosen = candidates & (draws < probability)")
def chosen_above(steps: Any) -> None:
    """Tokens are chosen where chosen_draw is above 0.15, which are 85% of them; choose those
    below.
    """
    steps.chosen = lambda candidates, chosen_draw: candidates & (chosen_draw >= 0.15)


@MASK_TOKENS.mistake("chosen & (replacement < MASKED_SHARE)")
def always_the_mask_token(steps: Any) -> None:
    """Every chosen token becomes the mask token. It never occurs later, in fine-tuning, so 10%
    should become a random token and 10% stay.
    """
    steps.masked = lambda kind_draw: kind_draw >= 0.0
    steps.randomized = lambda kind_draw: kind_draw < 0.0


@MASK_TOKENS.mistake("MASKED_SHARE + RANDOM_SHARE")
def none_stays(steps: Any) -> None:
    """Every chosen token that does not become the mask token becomes random; from a kind_draw of
    0.9 on, it should stay.
    """
    steps.randomized = lambda kind_draw: kind_draw >= 0.8


@MASK_TOKENS.mistake("np.where(randomized")
def none_random(steps: Any) -> None:
    """No chosen token becomes random: where kind_draw is from 0.8 to 0.9, take random_ids."""
    steps.randomized = lambda kind_draw: kind_draw < 0.0


@MASK_TOKENS.mistake("MASKED_SHARE + RANDOM_SHARE")
def a_tenth_of_the_rest(steps: Any) -> None:
    """Random are 10% of those that do not become the mask token, 2% of the chosen ones; it should
    be half of them, which is 10% of the chosen ones.
    """
    steps.randomized = lambda kind_draw: (kind_draw >= 0.8) & (kind_draw < 0.82)


@MASK_TOKENS.mistake("replacement >= MASKED_SHARE")
def random_over_the_mask(steps: Any) -> None:
    """Random tokens replace the mask tokens again, because the condition of the second replacement
    (below 0.9) contains that of the first (below 0.8); it should begin at 0.8.
    """
    steps.randomized = lambda kind_draw: kind_draw < 0.9


@MASK_TOKENS.mistake("chosen & (replacement < MASKED_SHARE)")
def shares_exchanged(steps: Any) -> None:
    """The shares are exchanged: 10% become the mask token and 80% random; the mask token has
    80%.
    """
    steps.masked = lambda kind_draw: (kind_draw >= 0.8) & (kind_draw < 0.9)
    steps.randomized = lambda kind_draw: kind_draw < 0.8


@MASK_TOKENS.mistake("np.where(chosen & (replacement")
def replaced_without_being_chosen(steps: Any) -> None:
    """kind_draw alone decides, so that tokens are replaced that are not chosen; only chosen ones
    become mask tokens or random ones.
    """
    steps.replaced = torch.ones_like


@MASK_TOKENS.mistake("np.where(chosen, ids, IGNORED_LABEL)")
def labels_everywhere(steps: Any) -> None:
    """All tokens have a label, even those that the model reads, which it would learn to copy; set
    the labels of tokens that are not chosen to -100.
    """
    steps.labelled = lambda chosen, *_: torch.ones_like(chosen)


@MASK_TOKENS.mistake("np.where(chosen, ids, IGNORED_LABEL)")
def labels_of_all_real_tokens(steps: Any) -> None:
    """Only padding has the label -100, as for a decoder; here every token that is not chosen has
    it, because the model reads it and would learn to copy it.
    """
    steps.labelled = lambda chosen, is_mask, is_changed, attention_mask: attention_mask


@MASK_TOKENS.mistake("np.where(chosen, ids, IGNORED_LABEL)")
def labels_of_mask_tokens_alone(steps: Any) -> None:
    """Labels are only where the mask token is; chosen tokens that became random or stayed have one
    too, or these 20% would be no training.
    """
    steps.labelled = lambda chosen, is_mask, *_: is_mask


@MASK_TOKENS.mistake("np.where(chosen, ids, IGNORED_LABEL)")
def labels_of_changed_tokens_alone(steps: Any) -> None:
    """Labels are only where the input was changed; chosen tokens that stay have one too, which
    teaches the model that a token it reads may be the right one.
    """
    steps.labelled = lambda chosen, is_mask, is_changed, _: is_changed


@MASK_TOKENS.mistake("np.where(chosen, ids, IGNORED_LABEL)")
def labels_of_the_masked_inputs(steps: Any) -> None:
    """The labels are taken after the replacement, so that the mask token is to be predicted; take
    them from the original ids.
    """
    steps.targets = lambda input_ids, inputs: inputs


@MASK_TOKENS.mistake("np.where(chosen, ids, IGNORED_LABEL)")
def labels_are_the_inputs(steps: Any) -> None:
    """Inputs and labels are one tensor, so that each change of one is a change of the other:
    labels = input_ids is no copy; use input_ids.clone().
    """
    steps.targets = lambda input_ids, inputs: inputs
    steps.read = lambda inputs, labels: labels


@MASK_TOKENS.mistake("masked = np.where(chosen")
def inputs_changed_in_place(steps: Any) -> None:
    """An argument is changed in place, so that the next epoch finds mask tokens and random ones in
    input_ids, or the wrong draws; work on copies (input_ids.clone()), or use torch.where.
    """
    steps.returned = lambda read, input_ids: input_ids.copy_(read)


@MASK_TOKENS.mistake("np.where(chosen, ids, IGNORED_LABEL)")
def labels_of_the_next_token(steps: Any) -> None:
    """The labels are shifted as for a decoder; a masked language model predicts the token at the
    same position.
    """
    steps.targets = lambda input_ids, inputs: input_ids.roll(-1, dims=1)


@MASK_TOKENS.mistake("np.where(chosen, ids, IGNORED_LABEL)")
def zero_for_no_label(steps: Any) -> None:
    """Tokens that are not chosen have the label 0, which is a token of the vocabulary and counts
    in the loss; -100 is what the loss ignores.
    """
    steps.no_label = 0


@MASK_TOKENS.mistake("np.where(chosen, ids, IGNORED_LABEL)")
def minus_one_for_no_label(steps: Any) -> None:
    """Tokens that are not chosen have the label -1; the loss ignores -100."""
    steps.no_label = -1


# ---- cross-entropy ----


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """The mean of -log softmax(logits)[label] over all positions that have a label.

    log softmax(x)[i] = x[i] - log of the sum of exp(x), which must not overflow for large logits.
    Without a single label the loss is 0, with a gradient of zeros.

    Args:
        logits: (B, T, V), of any float dtype. In float16 or bfloat16 a sum of many losses would be
            wrong or infinite, so these are converted to float32 first.
        labels: (B, T) int64, -100 where there is no label: such positions count neither in the sum
            nor in the number that it is divided by.

    Returns:
        (), float32 if the logits have a half-precision dtype, and theirs otherwise.
    """
    raise NotImplementedError("write me")


class CrossEntropySteps:
    """`cross_entropy_sum` and `mean_loss` as they are computed."""

    def precise(self, logits: Tensor) -> Tensor:
        """Logits in the dtype of the loss."""
        return losses.at_least_float32(logits)

    def log_probabilities(self, logits: Tensor) -> Tensor:
        """(B, T, V)."""
        return logits - logits.logsumexp(dim=-1, keepdim=True)

    def losses(self, log_probabilities: Tensor, labels: Tensor) -> Tensor:
        """(B, T), of any value where there is no label."""
        index = labels.clamp(min=0).unsqueeze(-1)  # (B, T, 1)
        return -log_probabilities.gather(-1, index).squeeze(-1)

    def counted(self, labels: Tensor) -> Tensor:
        """(B, T) bool, True where there is a label."""
        return labels != losses.IGNORED_LABEL

    def number(self, counted: Tensor) -> Tensor:
        """How many losses there are."""
        return counted.sum()

    def divisor(self, number: Tensor) -> Tensor:
        """What their sum is divided by."""
        return number.clamp(min=1)

    def mean(self, losses: Tensor, counted: Tensor) -> Tensor:
        """The mean of the losses; those that do not count are 0."""
        return losses.sum() / self.divisor(self.number(counted))

    def __call__(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = self.losses(self.log_probabilities(self.precise(logits)), labels)
        counted = self.counted(labels)
        return self.mean(losses.masked_fill(~counted, 0.0), counted)


def cross_entropy_cases() -> Iterator[Case]:
    """From one token to unequal sequences, no label, large logits and half precision."""

    def labels(real: Tensor, classes: int) -> Tensor:
        return integers(classes, *real.shape, seed=7).masked_fill(~real, -100)

    def inputs(real: Tensor, classes: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
        logits = normal(*real.shape, classes, seed=3, dtype=dtype)
        return {"logits": logits, "labels": labels(real, classes)}

    full, right = real_tokens(4, 4, total=4), real_tokens(4, 2, total=4)
    left = real_tokens(1, 4, total=4, left=True)
    one = {"logits": torch.tensor([[[0.0, 1.0]]]), "labels": torch.tensor([[1]])}
    yield Case("one token, two classes", one)
    yield Case("two sequences", inputs(full, 5))
    yield Case("as many tokens as classes", inputs(full, 4))
    yield Case("no labels at the padding on the right", inputs(right, 5))
    yield Case("no labels at the padding on the left", inputs(left, 5))
    yield Case("no label at all", inputs(torch.zeros_like(full), 5))
    # What follows has all labels, so that what goes wrong with -100 hides nothing.
    large = inputs(full, 5)
    # Any small number that is added to a probability of 0 is one mistake: its log is -16 to -30.
    unlikely = {"logits": torch.tensor([[[0.0, 1000.0, -500.0]]]), "labels": torch.tensor([[0]])}
    yield Case("large logits", unlikely, tolerance=0.3)
    negative = large | {"logits": large["logits"] - 2000}
    yield Case("very negative logits", negative, tolerance=1e-3)  # rounded to 1e-4 in float32
    yield Case("float64", inputs(full, 5, torch.float64), tolerance=1e-5)
    for name, dtype in HALF_PRECISION.items():
        yield Case(name, inputs(full, 5, dtype), gradients=False)


CROSS_ENTROPY = Exercise(
    template=cross_entropy,
    reference=losses.cross_entropy_sum,
    steps=CrossEntropySteps,
    cases=cross_entropy_cases,
    title="cross-entropy over the labelled tokens",
)


@CROSS_ENTROPY.mistake("(labels != IGNORED_LABEL).sum()")
def mean_over_all_positions(steps: Any) -> None:
    """The sum is divided by the number of all positions, so that the loss falls with more padding;
    divide by the number of labels that are not -100.
    """
    steps.number = lambda counted: torch.tensor(counted.numel())


@CROSS_ENTROPY.mistake("total / count.clamp(min=1)", of=losses.mean_loss)
def sum_and_no_mean(steps: Any) -> None:
    """The losses are added but not divided by their number: the size of the gradient depends on
    that of the batch.
    """
    steps.mean = lambda losses, counted: losses.sum()


@CROSS_ENTROPY.mistake("total / count.clamp(min=1)", of=losses.mean_loss)
def mean_of_means(steps: Any) -> None:
    """The mean of each sequence is taken first, so that tokens of short sequences count more;
    divide the sum over the batch by the number of labels in it.
    """
    steps.mean = lambda losses, counted: (losses.sum(1) / steps.divisor(counted.sum(1))).mean()


@CROSS_ENTROPY.mistake("count.clamp(min=1)", of=losses.mean_loss)
def not_a_number_without_labels(steps: Any) -> None:
    """Without a label the loss is 0 / 0, which is NaN and ruins the weights; divide by 1 at
    least.
    """
    steps.divisor = lambda number: number


@CROSS_ENTROPY.mistake("ignore_index=IGNORED_LABEL")
def minus_100_as_class_0(steps: Any) -> None:
    """A label of -100 is taken for class 0 instead of being left out."""
    steps.counted = lambda labels: torch.ones_like(labels, dtype=torch.bool)


@CROSS_ENTROPY.mistake("ignore_index=IGNORED_LABEL")
def minus_100_as_an_index(steps: Any) -> None:
    """A label of -100 is used as an index, which is out of range; replace it by any class (clamp),
    and set its loss to 0 afterwards.
    """

    def indexed(log_probabilities: Tensor, labels: Tensor) -> Tensor:
        rows = torch.arange(labels.numel())
        return -log_probabilities.flatten(0, 1)[rows, labels.flatten()].view_as(labels)

    steps.losses = indexed


@CROSS_ENTROPY.mistake("ignore_index=IGNORED_LABEL")
def minus_100_in_gather(steps: Any) -> None:
    """gather gets a label of -100, which is out of range; replace it by any class (clamp), and set
    its loss to 0 afterwards.
    """
    steps.losses = lambda log_probabilities, labels: (
        -log_probabilities.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
    )


@CROSS_ENTROPY.mistake("return -log_probabilities.gather", of=CrossEntropySteps)
def sign_forgotten(steps: Any) -> None:
    """The sign is wrong: the loss is minus the log-probability; without it, training makes the
    right token less likely.
    """
    right = steps.losses
    steps.losses = lambda log_probabilities, labels: -right(log_probabilities, labels)


@CROSS_ENTROPY.mistake("return -log_probabilities.gather", of=CrossEntropySteps)
def mean_over_classes(steps: Any) -> None:
    """The mean runs over the classes too (one-hot labels and .mean()), so that the loss is V times
    too small; sum over the classes, and take the mean over the labels.
    """
    right = steps.losses
    steps.losses = lambda log_probabilities, labels: (
        right(log_probabilities, labels) / log_probabilities.shape[-1]
    )


@CROSS_ENTROPY.mistake("at_least_float32(logits).flatten(0, -2)")
def softmax_twice(steps: Any) -> None:
    """The softmax is taken twice: F.cross_entropy expects logits, not probabilities. The loss
    cannot fall near 0 then, and learning is slow.
    """
    steps.log_probabilities = lambda logits: logits.softmax(dim=-1).log_softmax(dim=-1)


@CROSS_ENTROPY.mistake("logits.logsumexp(dim=-1", of=CrossEntropySteps)
def no_logarithm(steps: Any) -> None:
    """The loss is minus the probability; it should be minus its logarithm (F.nll_loss expects
    log-probabilities).
    """
    steps.log_probabilities = lambda logits: logits.softmax(dim=-1)


@CROSS_ENTROPY.mistake("logits.logsumexp(dim=-1", of=CrossEntropySteps)
def no_softmax(steps: Any) -> None:
    """The loss is minus the logit itself; the logits need a log-softmax first (F.nll_loss expects
    log-probabilities).
    """
    steps.log_probabilities = lambda logits: logits


@CROSS_ENTROPY.mistake("logits.logsumexp(dim=-1", of=CrossEntropySteps)
def log_of_softmax(steps: Any) -> None:
    """The logarithm is taken of a softmax: the probability of a small logit among large ones is
    rounded to 0, and its loss is infinite; use log_softmax, or subtract logsumexp.
    """
    steps.log_probabilities = lambda logits: logits.softmax(dim=-1).log()


@CROSS_ENTROPY.mistake("logits.logsumexp(dim=-1", of=CrossEntropySteps)
def small_number_in_the_log(steps: Any) -> None:
    """A small number such as 1e-9 is added to the probabilities before the logarithm: that hides
    the infinity, but no loss is larger than -log(1e-9) = 20.7 then, and what is most wrong has no
    gradient; use log_softmax, or subtract logsumexp.
    """
    steps.log_probabilities = lambda logits: (logits.softmax(dim=-1) + 1e-10).log()


@CROSS_ENTROPY.mistake("logits.logsumexp(dim=-1", of=CrossEntropySteps)
def exponentials_overflow(steps: Any) -> None:
    """exp of a large logit is infinite, so its log is too; use logsumexp or log_softmax, which
    subtract the largest logit first.
    """
    steps.log_probabilities = lambda logits: logits - logits.exp().sum(dim=-1, keepdim=True).log()


@CROSS_ENTROPY.mistake("logits.logsumexp(dim=-1", of=CrossEntropySteps)
def softmax_over_tokens(steps: Any) -> None:
    """The softmax runs over the tokens (dim=1); the probabilities of the classes should sum to 1
    (dim=-1).
    """
    steps.log_probabilities = lambda logits: logits.log_softmax(dim=1)


@CROSS_ENTROPY.mistake("at_least_float32(logits).flatten(0, -2)")
def logits_reshaped(steps: Any) -> None:
    """The logits are reshaped to (B, V, T), which mixes numbers of different tokens; transpose(1,
    2) gives F.cross_entropy the classes where it expects them, or flatten to (B * T, V).
    """
    precise = steps.precise

    def reshaped(logits: Tensor) -> Tensor:
        batch, tokens, classes = logits.shape
        return precise(logits.reshape(batch, classes, tokens).transpose(1, 2))

    steps.precise = reshaped


@CROSS_ENTROPY.mistake("logits.float() if logits.dtype in", of=losses.at_least_float32)
def loss_in_half_precision(steps: Any) -> None:
    """The loss of float16 or bfloat16 logits is computed in their dtype, which has 2 or 3 digits
    and, in float16, no sum above 65504; convert the logits to float32 first.
    """
    steps.precise = lambda logits: logits


@CROSS_ENTROPY.mistake("logits.float() if logits.dtype in", of=losses.at_least_float32)
def float64_becomes_float32(steps: Any) -> None:
    """All logits are converted to float32, float64 too, which loses half of their digits; convert
    those of float16 and bfloat16.
    """
    steps.precise = lambda logits: logits.float()


# ---- labels of a decoder ----


def shift_labels(labels: Tensor, attention_mask: Tensor | None) -> Tensor:
    """What a decoder-only model predicts at each position: the label of the next one.

    The last position has nothing to predict. A position of padding predicts nothing, so that the
    first token after padding on the left is predicted nowhere. The label of such positions is -100.

    Example: the labels [[5, 6, 7]] give [[6, 7, -100]].

    Args:
        labels: (B, T) int64, the token at each position, which the decoder reads there; -100 where
            it is not to be predicted, as at padding.
        attention_mask: (B, T) bool, True at real tokens; None where all are.

    Returns:
        (B, T) int64.
    """
    raise NotImplementedError("write me")


class ShiftLabelsSteps:
    """`next_token_labels` in steps."""

    no_label = losses.IGNORED_LABEL

    def shifted(self, labels: Tensor) -> Tensor:
        """The labels of the next position, and anything at the last."""
        return labels.roll(-1, dims=1)

    def ended(self, shifted: Tensor) -> Tensor:
        """No label at the last position."""
        return torch.cat([shifted[:, :-1], torch.full_like(shifted[:, :1], self.no_label)], dim=1)

    def masked(self, shifted: Tensor, attention_mask: Tensor) -> Tensor:
        """No label at padding."""
        return shifted.masked_fill(~attention_mask, self.no_label)

    def __call__(self, labels: Tensor, attention_mask: Tensor | None) -> Tensor:
        shifted = self.ended(self.shifted(labels))
        return shifted if attention_mask is None else self.masked(shifted, attention_mask)


def shift_labels_cases() -> Iterator[Case]:
    """From two tokens to both paddings, a prompt without labels, and a single token."""

    def case(label: str, labels: list[list[int]], mask: Tensor | None = None) -> Case:
        inputs = {"labels": torch.tensor(labels), "attention_mask": mask}
        return Case(label, inputs, gradients=False)

    right = real_tokens(4, 2, total=4)
    left = real_tokens(4, 2, total=4, left=True)
    yield case("two tokens", [[5, 6]])
    yield case("three tokens", [[5, 6, 7]])
    yield case("two sequences", [[5, 6, 7, 8], [9, 10, 11, 12]])
    yield case("padding on the right", [[5, 6, 7, 8], [9, 10, -100, -100]], right)
    yield case("padding on the left", [[5, 6, 7, 8], [-100, -100, 9, 10]], left)
    yield case("a prompt without labels", [[-100, -100, 7, 8], [-100, 10, 11, 12]])
    yield case("a prompt and padding", [[-100, -100, 7, 8], [-100, 10, -100, -100]], right)
    yield case("one token", [[5]])
    yield case("no label at all", [[-100, -100, -100]], torch.ones(1, 3, dtype=torch.bool))


SHIFT_LABELS = Exercise(
    template=shift_labels,
    reference=base.next_token_labels,
    steps=ShiftLabelsSteps,
    cases=shift_labels_cases,
    title="the labels of a decoder, shifted by one",
)


@SHIFT_LABELS.mistake("labels.roll(-1, dims=1)")
def not_shifted(steps: Any) -> None:
    """The labels are not shifted: each position should predict the token that it reads, which the
    model learns to copy.
    """
    steps.shifted = lambda labels: labels
    steps.ended = lambda shifted: shifted


@SHIFT_LABELS.mistake("labels.roll(-1, dims=1)")
def shifted_twice(steps: Any) -> None:
    """The labels are shifted by two positions, as when the data and the model both shift them;
    shift once.
    """
    shifted, ended = steps.shifted, steps.ended
    steps.shifted = lambda labels: shifted(ended(shifted(labels)))


@SHIFT_LABELS.mistake("labels.roll(-1, dims=1)")
def shifted_the_other_way(steps: Any) -> None:
    """The labels are shifted right: each position should predict the token before it, which the
    model has read already; shift them left.
    """
    ended = steps.ended
    steps.shifted = lambda labels: labels.roll(1, dims=1)
    steps.ended = lambda shifted: ended(shifted.flip(1)).flip(1)


@SHIFT_LABELS.mistake("following[:, -1] = IGNORED_LABEL")
def wraps_around(steps: Any) -> None:
    """roll brings the first label to the last position; nothing follows there: set it to -100."""
    steps.ended = lambda shifted: shifted


@SHIFT_LABELS.mistake("labels.roll(-1, dims=1)")
def into_the_next_sequence(steps: Any) -> None:
    """The whole batch is shifted as one sequence (roll without dims), so that the last position
    predicts the first token of another; shift each sequence by itself (dims=1).
    """
    steps.shifted = lambda labels: labels.roll(-1)
    steps.ended = lambda shifted: shifted


@SHIFT_LABELS.mistake("following = labels.roll(-1, dims=1)")
def over_the_batch(steps: Any) -> None:
    """The labels are shifted along the batch (dim=0) instead of the tokens (dim=1)."""
    steps.shifted = lambda labels: labels.roll(-1, dims=0)


@SHIFT_LABELS.mistake("following[:, -1] = IGNORED_LABEL")
def one_shorter(steps: Any) -> None:
    """The result has one position less: labels[:, 1:] fits logits[:, :-1], but here all positions
    are kept, the last with the label -100.
    """
    steps.shifted = lambda labels: labels[:, 1:]
    steps.ended = lambda shifted: shifted
    steps.masked = lambda shifted, mask: shifted.masked_fill(~mask[:, :-1], steps.no_label)


@SHIFT_LABELS.mistake("following.masked_fill(attention_mask == 0")
def predicted_from_padding(steps: Any) -> None:
    """Padding on the left predicts the first token, because the mask is not used, or hides the
    position of the label; set -100 where the position that predicts is padding.
    """
    steps.masked = lambda shifted, attention_mask: shifted


@SHIFT_LABELS.mistake("following.masked_fill(attention_mask == 0")
def mask_inverted(steps: Any) -> None:
    """The mask is inverted: labels are removed at real tokens; attention_mask is True there."""
    masked = steps.masked
    steps.masked = lambda shifted, attention_mask: masked(shifted, ~attention_mask)


@SHIFT_LABELS.mistake("following[:, -1] = IGNORED_LABEL")
def zero_after_the_end(steps: Any) -> None:
    """Positions that predict nothing have the label 0, which is a token of the vocabulary and
    counts in the loss; set them to -100.
    """
    steps.no_label = 0


# ---- inputs of the decoder of an encoder-decoder ----


def shift_right(labels: Tensor, start_token_id: int, pad_token_id: int) -> tuple[Tensor, Tensor]:
    """What the decoder of an encoder-decoder reads, to predict the label of the same position.

    It reads the labels shifted right by one, after a start token, so that no position sees the
    token that it has to predict. A sequence begins at its first label that is not -100 (at position
    0 if there is none): there the decoder reads the start token, and before it the padding token. A
    label of -100 that is shifted is read as the padding token.

    Example: with the start token 2 and the padding token 1, the labels [[5, 6, 7], [-100, 8, 9]]
    give [[2, 5, 6], [1, 2, 8]] and the mask [[True, True, True], [False, True, True]].

    Args:
        labels: (B, T) int64, -100 where there is none, such as at padding on either side.
        start_token_id: what the decoder reads first.
        pad_token_id: what it reads where there is no token.

    Returns:
        (B, T) int64, and its attention mask, (B, T) bool: True from the first position of each
        sequence to the end. Padding on the right counts as real, because no token before it attends
        to it, and it has no label.
    """
    raise NotImplementedError("write me")


class ShiftRightSteps:
    """The library's `shift_right` in steps."""

    def first(self, labels: Tensor) -> Tensor:
        """(B, 1), the position at which each sequence begins."""
        return (labels != losses.IGNORED_LABEL).int().argmax(dim=1, keepdim=True)

    def shifted(self, labels: Tensor) -> Tensor:
        """The labels of the position before, and anything at position 0."""
        return labels.roll(1, dims=1)

    def is_missing(self, labels: Tensor, shifted: Tensor) -> Tensor:
        """Where a label of -100 was shifted to."""
        return shifted == losses.IGNORED_LABEL

    def filled(self, shifted: Tensor, missing: Tensor, pad_token_id: int) -> Tensor:
        """The padding token where a label is missing."""
        return shifted.masked_fill(missing, pad_token_id)

    def started(self, shifted: Tensor, is_first: Tensor, start: int, pad: int) -> Tensor:
        """The start token at the first position."""
        return shifted.masked_fill(is_first, start)

    def mask(self, is_real: Tensor, labels: Tensor, shifted: Tensor, pad: int) -> Tensor:
        """(B, T) bool, True where the decoder may attend."""
        return is_real

    def __call__(
        self, labels: Tensor, start_token_id: int, pad_token_id: int
    ) -> tuple[Tensor, Tensor]:
        first, positions = self.first(labels), torch.arange(labels.shape[1])
        shifted = self.shifted(labels)
        shifted = self.filled(shifted, self.is_missing(labels, shifted), pad_token_id)
        shifted = shifted.masked_fill(positions < first, pad_token_id)
        shifted = self.started(shifted, positions == first, start_token_id, pad_token_id)
        return shifted, self.mask(positions >= first, labels, shifted, pad_token_id)


def shift_right_cases() -> Iterator[Case]:
    """From two labels to both paddings, a gap, and no label at all."""

    def case(label: str, labels: list[list[int]], start: int = 2) -> Case:
        inputs = {"labels": torch.tensor(labels), "start_token_id": start, "pad_token_id": 1}
        return Case(label, inputs, gradients=False)

    yield case("two labels", [[5, 6]])
    yield case("three labels", [[5, 6, 7]])
    yield case("the start token is the padding token", [[5, 6, 7]], start=1)
    yield case("two sequences", [[5, 6, 7, 8], [9, 10, 11, 12]])
    yield case("padding on the right", [[5, 6, 7, 8], [9, 10, -100, -100]])
    yield case("padding on the left", [[5, 6, 7, 8], [-100, -100, 9, 10]])
    yield case("a label missing in the middle", [[5, -100, 7, 8]])
    yield case("one label", [[5]])
    yield case("no label at all", [[-100, -100, -100], [5, 6, 7]])


def install_shift_right(module: Any, steps: Any) -> None:
    """Let an encoder-decoder of the library shift its labels with these steps."""
    if isinstance(module, Seq2SeqLM):
        config, decoder_inputs = module.config, module.decoder_inputs

        def inputs(ids: Tensor | None, mask: Tensor | None, labels: Tensor | None) -> Any:
            checked = decoder_inputs(ids, mask, labels)
            if ids is not None or labels is None:
                return checked
            return steps(labels, start_token(config), config.pad_token_id)

        module.decoder_inputs = inputs  # type: ignore[method-assign, assignment]


SHIFT_RIGHT = Exercise(
    template=shift_right,
    reference=base.shift_right,
    steps=ShiftRightSteps,
    cases=shift_right_cases,
    install=install_shift_right,
    title="what the decoder of an encoder-decoder reads",
)


@SHIFT_RIGHT.mistake("labels.roll(1, dims=1)")
def decoder_reads_its_labels(steps: Any) -> None:
    """The labels are not shifted: each position reads the token that it has to predict, and the
    model learns to copy it.
    """
    steps.shifted = lambda labels: labels


@SHIFT_RIGHT.mistake("labels.roll(1, dims=1)")
def shifted_left(steps: Any) -> None:
    """The labels are shifted left: each position reads the token after the one that it predicts;
    shift them right.
    """
    steps.shifted = lambda labels: labels.roll(-1, dims=1)


@SHIFT_RIGHT.mistake("shifted == IGNORED_LABEL")
def minus_100_is_read(steps: Any) -> None:
    """The decoder reads -100, which is no token: the lookup in the embedding fails; replace it by
    the padding token.
    """
    steps.filled = lambda shifted, missing, pad_token_id: shifted


@SHIFT_RIGHT.mistake("shifted == IGNORED_LABEL")
def padding_before_the_shift(steps: Any) -> None:
    """The padding token is put where the label is -100 before the shift, and not where it is
    shifted to, so that the last token of the text is lost; look for -100 in the shifted labels.
    """
    steps.is_missing = lambda labels, shifted: labels == losses.IGNORED_LABEL


@SHIFT_RIGHT.mistake("positions == first, start_token_id")
def no_start_token(steps: Any) -> None:
    """The decoder does not read the start token first, but what roll brings there: the last
    label.
    """
    steps.started = lambda shifted, is_first, start, pad: shifted


@SHIFT_RIGHT.mistake("positions == first, start_token_id")
def padding_as_start(steps: Any) -> None:
    """The decoder reads the padding token first; it should read start_token_id, which only some
    models (T5, Marian) take from their padding token.
    """
    steps.started = lambda shifted, is_first, start, pad: shifted.masked_fill(is_first, pad)


@SHIFT_RIGHT.mistake("first = (labels != IGNORED_LABEL)")
def begins_at_position_0(steps: Any) -> None:
    """Each sequence begins at position 0, even where padding on the left comes before the text: the
    start token is read there, and the mask is True; it begins at its first label.
    """
    steps.first = lambda labels: torch.zeros_like(labels[:, :1])
    steps.mask = lambda is_real, *_: torch.ones_like(is_real)


@SHIFT_RIGHT.mistake("positions == first, start_token_id")
def start_token_at_position_0(steps: Any) -> None:
    """The start token is put at position 0, which may be padding on the left; it belongs to the
    position of the first label, where the mask becomes True.
    """
    steps.started = lambda shifted, is_first, start, pad: shifted.masked_fill(
        torch.arange(shifted.shape[1]) == 0, start
    )


@SHIFT_RIGHT.mistake("return shifted, positions >= first")
def mask_of_the_labels(steps: Any) -> None:
    """The mask is False where the label is -100. The mask belongs to what is read, which is the
    labels one position later: it is True from the start token on.
    """
    steps.mask = lambda is_real, labels, *_: labels != losses.IGNORED_LABEL


@SHIFT_RIGHT.mistake("return shifted, positions >= first")
def mask_of_the_padding_token(steps: Any) -> None:
    """The mask is False wherever the padding token is read, also at the start token of models that
    start with the padding token (T5, Marian), and where a label is missing in or after the text;
    compare positions: it is True from the start token to the end.
    """
    steps.mask = lambda is_real, labels, shifted, pad: shifted != pad


@SHIFT_RIGHT.mistake("return shifted, positions >= first")
def padding_is_attended(steps: Any) -> None:
    """The mask is True at padding on the left, so that tokens attend to it; it is True from the
    start token on.
    """
    steps.mask = lambda is_real, *_: torch.ones_like(is_real)


# ---- AdamW ----


def adamw_step(
    parameters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    means: dict[str, Tensor],
    squares: dict[str, Tensor],
    step: int,
    learning_rate: float,
    weight_decay: float,
) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
    """One step of AdamW for each parameter p with its gradient g, as torch.optim.AdamW takes it.

    With beta1 = 0.9, beta2 = 0.999, eps = 1e-8, the learning rate r, the weight decay d and step t:

        m = beta1 m + (1 - beta1) g             the running mean of gradients
        v = beta2 v + (1 - beta2) g^2           the running mean of their squares
        M = m / (1 - beta1^t)                   corrected for having begun at 0
        V = v / (1 - beta2^t)
        p = p - r d p - r M / (sqrt(V) + eps)   with the old p on the right

    Only matrices (two dimensions or more) are decayed: for biases and the weights of norms, which
    have one dimension, d = 0.

    The tensors and dicts that are given may be changed in place, and returned.

    Source: "Decoupled Weight Decay Regularization" (Loshchilov and Hutter 2017), algorithm 2.

    Args:
        parameters: by name, of any shape.
        gradients: of each parameter.
        means: m of each parameter before the step.
        squares: v of each parameter before the step.
        step: t, counted from 1.
        learning_rate: r.
        weight_decay: d.

    Returns:
        The new parameters, means m and squares v (both not corrected), by name.
    """
    raise NotImplementedError("write me")


class AdamWStepSteps:
    """`torch.optim.AdamW` with the groups of `build_optimizer`, in steps."""

    beta1, beta2, eps = 0.9, 0.999, 1e-8

    def is_decayed(self, name: str, parameter: Tensor) -> bool:
        """Whether the weight decay applies to a parameter."""
        return parameter.dim() >= 2

    def decayed(self, parameter: Tensor, learning_rate: float, weight_decay: float) -> Tensor:
        """A parameter after the weight decay."""
        return parameter - learning_rate * weight_decay * parameter

    def gradient(self, gradient: Tensor, parameter: Tensor, weight_decay: float) -> Tensor:
        """The gradient that the means follow."""
        return gradient

    def mean(self, mean: Tensor, gradient: Tensor) -> Tensor:
        """The running mean of gradients."""
        return self.beta1 * mean + (1 - self.beta1) * gradient

    def square(self, square: Tensor, gradient: Tensor) -> Tensor:
        """The running mean of their squares."""
        return self.beta2 * square + (1 - self.beta2) * gradient**2

    def power(self, beta: float, step: int) -> float:
        """The share of the initial zeros in a running mean."""
        return beta**step

    def corrected_mean(self, mean: Tensor, step: int) -> Tensor:
        """The mean without the share of the zeros."""
        return mean / (1 - self.power(self.beta1, step))

    def corrected_square(self, square: Tensor, step: int) -> Tensor:
        """The same for squares."""
        return square / (1 - self.power(self.beta2, step))

    def direction(self, mean: Tensor, square: Tensor, step: int) -> Tensor:
        """What is subtracted from a parameter, for a learning rate of 1."""
        return mean / (square.sqrt() + self.eps)

    def moved(
        self, parameter: Tensor, direction: Tensor, learning_rate: float, weight_decay: float
    ) -> Tensor:
        """A parameter after the step."""
        return self.decayed(parameter, learning_rate, weight_decay) - learning_rate * direction

    def kept(self, moment: Tensor, corrected: Tensor) -> Tensor:
        """What the next step begins with."""
        return moment

    def __call__(
        self,
        parameters: dict[str, Tensor],
        gradients: dict[str, Tensor],
        means: dict[str, Tensor],
        squares: dict[str, Tensor],
        step: int,
        learning_rate: float,
        weight_decay: float,
    ) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor]]:
        new: tuple[dict[str, Tensor], ...] = ({}, {}, {})
        for name, parameter in parameters.items():
            decay = weight_decay if self.is_decayed(name, parameter) else 0.0
            gradient = self.gradient(gradients[name], parameter, decay)
            mean = self.mean(means[name], gradient)
            square = self.square(squares[name], gradient)
            m, v = self.corrected_mean(mean, step), self.corrected_square(square, step)
            direction = self.direction(m, v, step)
            new[0][name] = self.moved(parameter, direction, learning_rate, decay)
            new[1][name], new[2][name] = self.kept(mean, m), self.kept(square, v)
        return new[0], new[1], new[2]


def adamw_step_cases() -> Iterator[Case]:
    """A first and a later step, of a weight, of a layer, with tiny and zero gradients."""

    def case(
        label: str,
        shapes: dict[str, tuple[int, ...]],
        step: int,
        *,
        size: float = 1.0,
        weight_decay: float = 0.1,
        dtype: torch.dtype = torch.float64,
    ) -> Case:
        def tensors(seed: int) -> dict[str, Tensor]:
            return {
                n: normal(*shape, seed=seed + i, dtype=dtype)
                for i, (n, shape) in enumerate(shapes.items())
            }

        begun = float(step > 1)  # the means are zeros before the first step
        inputs = {
            "parameters": tensors(0),
            "gradients": {name: size * tensor for name, tensor in tensors(10).items()},
            "means": {name: begun * size * tensor for name, tensor in tensors(20).items()},
            "squares": {name: begun * (size * tensor) ** 2 for name, tensor in tensors(30).items()},
            "step": step,
            "learning_rate": 0.1,
            "weight_decay": weight_decay,
        }
        return Case(label, inputs, gradients=False)

    weight: dict[str, tuple[int, ...]] = {"dense.weight": (1, 1)}
    layer: dict[str, tuple[int, ...]] = {
        "dense.weight": (2, 3),
        "dense.bias": (3,),
        "layer_norm.weight": (3,),
        "layer_norm.bias": (3,),
    }
    yield case("one weight without weight decay", weight, 1, weight_decay=0.0)
    yield case("first step of one weight", weight, 1)
    yield case("third step of one weight", weight, 3)
    yield case("a bias", {"dense.bias": (2,)}, 2)
    yield case("first step of a layer", layer, 1)
    yield case("tenth step of a layer", layer, 10)
    yield case("step 10,000 of a layer", layer, 10_000)
    yield case("tiny gradients", layer, 1, size=1e-7)
    yield case("tiny gradients in the fifth step", layer, 5, size=1e-7)
    yield case("gradients of zero", layer, 1, size=0.0)
    yield case("float32", layer, 4, dtype=torch.float32)


ADAMW_STEP = Exercise(
    template=adamw_step,
    reference=AdamWStepSteps,
    steps=AdamWStepSteps,
    cases=adamw_step_cases,
    title="a step of AdamW",
)


@ADAMW_STEP.mistake("matrices = [p for p in parameters", of="train/optimizer.py")
def everything_decayed(steps: Any) -> None:
    """Biases and the weights of norms are decayed too, which draws norms towards 0; decay only
    parameters with two dimensions or more.
    """
    steps.is_decayed = lambda name, parameter: True


@ADAMW_STEP.mistake("matrices = [p for p in parameters", of="train/optimizer.py")
def norms_decayed(steps: Any) -> None:
    """Biases are not decayed, but the weights of norms are; they too have one dimension."""
    steps.is_decayed = lambda name, parameter: not name.endswith("bias")


@ADAMW_STEP.mistake("learning_rate * weight_decay * parameter")
def no_decay(steps: Any) -> None:
    """No parameter is decayed: subtract learning_rate * weight_decay * p from matrices."""
    steps.decayed = lambda parameter, learning_rate, weight_decay: parameter


@ADAMW_STEP.mistake("learning_rate * weight_decay * parameter")
def decay_in_the_gradient(steps: Any) -> None:
    """The decay is added to the gradient, which is Adam with L2 regularization: weights with large
    gradients are decayed less. Subtract it from the parameter itself, beside Adam's update.
    """
    steps.gradient = lambda gradient, parameter, weight_decay: gradient + weight_decay * parameter
    steps.decayed = lambda parameter, learning_rate, weight_decay: parameter


@ADAMW_STEP.mistake("learning_rate * weight_decay * parameter")
def decay_without_the_learning_rate(steps: Any) -> None:
    """The decay is not multiplied by the learning rate, and is much too large."""
    steps.decayed = lambda parameter, learning_rate, weight_decay: (
        parameter - weight_decay * parameter
    )


@ADAMW_STEP.mistake("self.decayed(parameter, learning_rate, weight_decay) - learning_rate")
def decayed_after_the_update(steps: Any) -> None:
    """The decay is computed from the updated parameter; both terms are computed from the old
    one.
    """
    steps.moved = lambda parameter, direction, learning_rate, weight_decay: steps.decayed(
        parameter - learning_rate * direction, learning_rate, weight_decay
    )


@ADAMW_STEP.mistake("weight_decay) - learning_rate * direction")
def uphill(steps: Any) -> None:
    """The update is added, which raises the loss; subtract it."""
    steps.moved = lambda parameter, direction, learning_rate, weight_decay: (
        steps.decayed(parameter, learning_rate, weight_decay) + learning_rate * direction
    )


@ADAMW_STEP.mistake("mean / (1 - self.power(self.beta1")
def mean_not_corrected(steps: Any) -> None:
    """The mean m is not divided by 1 - beta1^t: it begins at 0, so the first steps are too
    small.
    """
    steps.corrected_mean = lambda mean, step: mean


@ADAMW_STEP.mistake("square / (1 - self.power(self.beta2")
def square_not_corrected(steps: Any) -> None:
    """The squares v are not divided by 1 - beta2^t: they begin at 0, so the first steps are too
    large.
    """
    steps.corrected_square = lambda square, step: square


@ADAMW_STEP.mistake("square / (1 - self.power(self.beta2")
def square_corrected_by_beta1(steps: Any) -> None:
    """The squares v are divided by 1 - beta1^t, as the mean is, so that the first steps are much
    too large; they follow with beta2, so divide them by 1 - beta2^t.
    """
    steps.corrected_square = lambda square, step: square / (1 - steps.power(steps.beta1, step))


@ADAMW_STEP.mistake("return beta**step")
def step_counted_from_0(steps: Any) -> None:
    """The correction uses t - 1 in place of t; in the first step it divides by 1 - beta^0 = 0.
    Count the steps from 1.
    """
    steps.power = lambda beta, step: beta ** (step - 1)


@ADAMW_STEP.mistake("return beta**step")
def correction_of_the_first_step(steps: Any) -> None:
    """Every step is corrected as the first one, with 1 - beta in place of 1 - beta^t."""
    steps.power = lambda beta, step: beta


@ADAMW_STEP.mistake("square.sqrt() + self.eps")
def eps_inside_the_root(steps: Any) -> None:
    """eps is added inside the root, where it counts as 1e-4 and slows down parameters with small
    gradients; add it to the root.
    """
    steps.direction = lambda mean, square, step: mean / (square + steps.eps).sqrt()


@ADAMW_STEP.mistake("square.sqrt() + self.eps")
def eps_before_the_correction(steps: Any) -> None:
    """eps is added to the root of v before v is corrected, so that it counts more in the first
    steps; add it to sqrt(V).
    """
    steps.direction = lambda mean, square, step: (
        mean / (square.sqrt() + steps.eps / math.sqrt(1 - steps.power(steps.beta2, step)))
    )


@ADAMW_STEP.mistake("square.sqrt() + self.eps")
def no_eps(steps: Any) -> None:
    """eps is missing: a gradient that has always been 0 gives 0 / 0, which is NaN."""
    steps.direction = lambda mean, square, step: mean / square.sqrt()


@ADAMW_STEP.mistake("square.sqrt() + self.eps")
def no_root(steps: Any) -> None:
    """The mean is divided by V; divide by its root, so that the size of the gradient cancels."""
    steps.direction = lambda mean, square, step: mean / (square + steps.eps)


@ADAMW_STEP.mistake("beta1, beta2, eps =")
def betas_exchanged(steps: Any) -> None:
    """beta1 and beta2 are exchanged: the mean follows with 0.9, the squares with 0.999."""
    steps.beta1, steps.beta2 = steps.beta2, steps.beta1


@ADAMW_STEP.mistake("(1 - self.beta1) * gradient")
def gradient_with_weight_1(steps: Any) -> None:
    """The gradient is added to beta1 m with weight 1, as in SGD with momentum; in a mean, it has
    the weight 1 - beta1.
    """
    steps.mean = lambda mean, gradient: steps.beta1 * mean + gradient


@ADAMW_STEP.mistake("(1 - self.beta2) * gradient**2")
def gradient_not_squared(steps: Any) -> None:
    """v is the running mean of the gradients, not of their squares, and its root may be NaN."""
    steps.square = lambda square, gradient: steps.beta2 * square + (1 - steps.beta2) * gradient


@ADAMW_STEP.mistake("self.kept(mean, m), self.kept(square, v)")
def corrected_moments_kept(steps: Any) -> None:
    """The corrected M and V are returned, so that the next step corrects them again; return m
    and v.
    """
    steps.kept = lambda moment, corrected: corrected


# ---- the schedule of the learning rate ----


def warmup_schedule(step: int, warmup_steps: int, total_steps: int) -> float:
    """The factor by which the learning rate is multiplied: it rises linearly, and falls linearly.

    With s = step, W = warmup_steps and N = total_steps:

        (s + 1) / (W + 1)     for s < W, the warm-up, so that the first step is not lost
        (N - s) / (N - W)     from s = W on, where it is 1, to 0 at s = N, after the last step

    Source: "BERT" (Devlin et al. 2018), appendix A.2.

    Args:
        step: counted from 0, less than `total_steps`.
        warmup_steps: from 0, which is no warm-up, and less than `total_steps`.
        total_steps: of the whole run.

    Returns:
        A float of at most 1.
    """
    raise NotImplementedError("write me")


class WarmupScheduleSteps:
    """`train.optimizer.linear` in steps."""

    def is_warmup(self, step: int, warmup_steps: int) -> bool:
        """Whether the factor rises."""
        return step < warmup_steps

    def rising(self, step: int, warmup_steps: int) -> float:
        """The factor in the warm-up."""
        return (step + 1) / (warmup_steps + 1)

    def left(self, step: int, warmup_steps: int, total_steps: int) -> int:
        """The steps that are left, this one included."""
        return total_steps - step

    def length(self, warmup_steps: int, total_steps: int) -> int:
        """The steps after the warm-up."""
        return total_steps - warmup_steps

    def falling(self, left: int, length: int) -> float:
        """The factor after the warm-up."""
        return left / length

    def __call__(self, step: int, warmup_steps: int, total_steps: int) -> float:
        if self.is_warmup(step, warmup_steps):
            return self.rising(step, warmup_steps)
        left = self.left(step, warmup_steps, total_steps)
        return self.falling(left, self.length(warmup_steps, total_steps))


def warmup_schedule_cases() -> Iterator[Case]:
    """The first, middle and last steps of short and long runs, with and without a warm-up."""
    for label, step, warmup_steps, total_steps in (
        ("first step of the warm-up", 0, 2, 6),
        ("last step of the warm-up", 1, 2, 6),
        ("first step after the warm-up", 2, 2, 6),
        ("second step after the warm-up", 3, 2, 6),
        ("last step", 5, 2, 6),
        ("no warm-up, first step", 0, 0, 4),
        ("no warm-up, last step", 3, 0, 4),
        ("a long run, in the warm-up", 300, 1_000, 10_000),
        ("a long run, after it", 4_321, 1_000, 10_000),
    ):
        inputs = {"step": step, "warmup_steps": warmup_steps, "total_steps": total_steps}
        yield Case(label, inputs, gradients=False)


WARMUP_SCHEDULE = Exercise(
    template=warmup_schedule,
    reference="train/optimizer.py",
    steps=WarmupScheduleSteps,
    cases=warmup_schedule_cases,
    title="a learning rate that rises and falls linearly",
)


@WARMUP_SCHEDULE.mistake("(step + 1) / (warmup_steps + 1)")
def first_step_of_zero(steps: Any) -> None:
    """The warm-up is s / W: the first step has a factor of 0 and changes no weight; use
    (s + 1) / (W + 1).
    """
    steps.rising = lambda step, warmup_steps: step / warmup_steps


@WARMUP_SCHEDULE.mistake("(step + 1) / (warmup_steps + 1)")
def warmup_too_short(steps: Any) -> None:
    """The warm-up is (s + 1) / W: the factor is 1 in the last step of the warm-up and again in the
    step after it; divide by W + 1.
    """
    steps.rising = lambda step, warmup_steps: (step + 1) / warmup_steps


@WARMUP_SCHEDULE.mistake("if step < warmup_steps")
def no_warmup(steps: Any) -> None:
    """The factor is 1 during the warm-up; it should rise to 1."""
    steps.rising = lambda step, warmup_steps: 1.0


@WARMUP_SCHEDULE.mistake("if step < warmup_steps")
def larger_than_1(steps: Any) -> None:
    """There is no warm-up: the line that falls is used before it, where it is larger than 1."""
    steps.is_warmup = lambda step, warmup_steps: False


@WARMUP_SCHEDULE.mistake("(step + 1) / (warmup_steps + 1)")
def whole_numbers(steps: Any) -> None:
    """The division of the warm-up rounds down (//), so that its factor is 0; use /."""
    steps.rising = lambda step, warmup_steps: float((step + 1) // (warmup_steps + 1))


@WARMUP_SCHEDULE.mistake("(total_steps - step)")
def never_falls(steps: Any) -> None:
    """The factor stays at 1 after the warm-up; it should fall to 0 at the end."""
    steps.falling = lambda left, length: 1.0


@WARMUP_SCHEDULE.mistake("max(1, total_steps - warmup_steps)")
def falls_from_the_first_step(steps: Any) -> None:
    """The fall is counted from step 0, (N - s) / N, so that it begins below 1 after the warm-up;
    divide by N - W.
    """
    steps.length = lambda warmup_steps, total_steps: total_steps


@WARMUP_SCHEDULE.mistake("(total_steps - step)")
def warmup_subtracted(steps: Any) -> None:
    """The warm-up is subtracted from the steps that are left, so that the factor drops after it and
    is negative at the end; N - s steps are left.
    """
    steps.left = lambda step, warmup_steps, total_steps: total_steps - warmup_steps - step


@WARMUP_SCHEDULE.mistake("(total_steps - step)")
def rises_after_the_warmup(steps: Any) -> None:
    """After the warm-up the factor rises from 0 to 1: that is the share of the steps that are done;
    use the share that is left.
    """
    steps.falling = lambda left, length: 1 - left / length


@WARMUP_SCHEDULE.mistake("(total_steps - step)")
def last_step_of_zero(steps: Any) -> None:
    """The factor is 0 in the last step, which then changes no weight; it would be 0 one step
    later.
    """
    steps.left = lambda step, warmup_steps, total_steps: total_steps - step - 1
    steps.length = lambda warmup_steps, total_steps: total_steps - warmup_steps - 1


@WARMUP_SCHEDULE.mistake("(total_steps - step)")
def one_step_behind(steps: Any) -> None:
    """The fall begins one step early: (N - s - 1) / (N - W); the first step after the warm-up has
    the factor 1.
    """
    steps.left = lambda step, warmup_steps, total_steps: total_steps - step - 1


@WARMUP_SCHEDULE.mistake("(total_steps - step)")
def half_a_cosine(steps: Any) -> None:
    """The factor falls along half a cosine; that is another schedule: here it falls linearly."""
    steps.falling = lambda left, length: (1 - math.cos(math.pi * left / length)) / 2


# ---- clipping ----


def clip_gradients(gradients: list[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor]:
    """Scale all gradients down, by the same factor, if their common norm is larger than a limit.

    The norm is that of one vector with the numbers of all gradients: the root of the sum of all
    squares. The factor is max_norm / (norm + 1e-6), and at most 1; the 1e-6, which torch adds, may
    be left out.

    What is not finite stays visible, as in torch: an infinite norm gives the factor 0, so that
    infinite gradients become NaN (0 times infinity) and all others 0; a norm of NaN gives a factor
    of NaN. The caller sees the norm, and skips the step. The gradients may be changed in place.

    Source: "On the difficulty of training recurrent neural networks" (Pascanu et al. 2013),
    algorithm 1; torch.nn.utils.clip_grad_norm_.

    Args:
        gradients: float tensors of any shapes, of one dtype.
        max_norm: the limit, more than 0.

    Returns:
        The new gradients in the same order, and the norm before clipping, ().
    """
    raise NotImplementedError("write me")


class ClipGradientsSteps:
    """`torch.nn.utils.clip_grad_norm_` in steps, returning what it changes."""

    def norms(self, gradients: list[Tensor]) -> Tensor:
        """The norm of each tensor."""
        return torch.stack([gradient.norm() for gradient in gradients])

    def total(self, norms: Tensor) -> Tensor:
        """The norm of all of them together."""
        return norms.square().sum().sqrt()

    def ratio(self, norm: Tensor, max_norm: float) -> Tensor:
        """What brings the norm to the limit."""
        return max_norm / (norm + 1e-6)

    def factor(self, ratio: Tensor) -> Tensor:
        """What gradients are multiplied by; NaN stays NaN."""
        return ratio.clamp(max=1.0)

    def scaled(self, gradients: list[Tensor], max_norm: float, norm: Tensor) -> list[Tensor]:
        """The new gradients."""
        factor = self.factor(self.ratio(norm, max_norm))
        return [gradient * factor for gradient in gradients]

    def reported(self, norm: Tensor, scaled: list[Tensor]) -> Tensor:
        """The norm that is returned."""
        return norm

    def __call__(self, gradients: list[Tensor], max_norm: float) -> tuple[list[Tensor], Tensor]:
        norm = self.total(self.norms(gradients))
        scaled = self.scaled(gradients, max_norm, norm)
        return scaled, self.reported(norm, scaled)


def clip_gradients_cases() -> Iterator[Case]:
    """Norms above and below the limit, of one and of several tensors; zeros, infinity and NaN."""

    def case(label: str, gradients: list[Tensor], max_norm: float) -> Case:
        inputs = {"gradients": gradients, "max_norm": max_norm}
        return Case(label, inputs, gradients=False, tolerance=1e-5)  # with the 1e-6 or without

    pair = torch.tensor([3.0, 4.0], dtype=torch.float64)
    layer = [normal(3, 4, seed=1), normal(4, seed=2), 0.1 * normal(4, 2, seed=3), normal(1, seed=4)]
    yield case("a norm of 5, and 1 allowed", [pair], 1.0)
    yield case("a norm of 5, and 2 allowed", [pair], 2.0)
    yield case("a norm of 5, and 8 allowed", [pair], 8.0)
    yield case("two tensors", [pair, 2 * pair[:1]], 1.5)
    yield case("a layer above the limit", layer, 0.5)
    yield case("a layer below the limit", layer, 20.0)
    yield case(
        "tensors that are only together above the limit", [pair / 5, pair / 5, pair / 5], 1.2
    )
    yield case("zeros", [torch.zeros(2, 2, dtype=torch.float64), 0 * pair], 1.0)
    yield case("an infinite gradient", [pair, torch.tensor([math.inf, 1.0]).double()], 1.0)
    yield case("a gradient of NaN", [pair, torch.tensor([math.nan, 1.0]).double()], 1.0)
    yield case("float32", [gradient.float() for gradient in layer], 0.5)


CLIP_GRADIENTS = Exercise(
    template=clip_gradients,
    reference=ClipGradientsSteps,
    steps=ClipGradientsSteps,
    cases=clip_gradients_cases,
    title="clipping gradients by their norm",
)


@CLIP_GRADIENTS.mistake("norms.square().sum().sqrt()")
def each_tensor_alone(steps: Any) -> None:
    """Each tensor is clipped by its own norm, which changes the direction of the step; compute one
    norm of all gradients, and one factor.
    """
    steps.scaled = lambda gradients, max_norm, norm: [
        gradient * steps.factor(steps.ratio(gradient.norm(), max_norm)) for gradient in gradients
    ]


@CLIP_GRADIENTS.mistake("ratio.clamp(max=1.0)")
def scaled_up(steps: Any) -> None:
    """Gradients with a small norm are scaled up to the limit; the factor is at most 1."""
    steps.factor = lambda ratio: ratio


@CLIP_GRADIENTS.mistake("gradient * factor for gradient in gradients")
def by_value(steps: Any) -> None:
    """Each number is clipped to [-max_norm, max_norm], which changes the direction of the step;
    multiply all gradients by one factor.
    """
    steps.scaled = lambda gradients, max_norm, norm: [
        gradient.clamp(-max_norm, max_norm) for gradient in gradients
    ]


@CLIP_GRADIENTS.mistake("norms.square().sum().sqrt()")
def norm_without_root(steps: Any) -> None:
    """The norm is the sum of squares; take its root."""
    steps.total = lambda norms: norms.square().sum()


@CLIP_GRADIENTS.mistake("norms.square().sum().sqrt()")
def sum_of_norms(steps: Any) -> None:
    """The norms of the tensors are added; the norm of all is the root of the sum of their
    squares.
    """
    steps.total = lambda norms: norms.sum()


@CLIP_GRADIENTS.mistake("norms.square().sum().sqrt()")
def largest_norm(steps: Any) -> None:
    """The norm is the largest one among the tensors'; that of all is the root of the sum of their
    squares.
    """
    steps.total = lambda norms: norms.max()


@CLIP_GRADIENTS.mistake("norms.square().sum().sqrt()")
def mean_of_norms(steps: Any) -> None:
    """The norm is the mean of the tensors' norms; that of all is the root of the sum of their
    squares.
    """
    steps.total = lambda norms: norms.mean()


@CLIP_GRADIENTS.mistake("gradient.norm() for gradient in gradients")
def sum_of_sizes(steps: Any) -> None:
    """The norm is the sum of absolute values (L1); it should be the root of the sum of squares."""
    steps.norms = lambda gradients: torch.stack([gradient.abs().sum() for gradient in gradients])
    steps.total = lambda norms: norms.sum()


@CLIP_GRADIENTS.mistake("gradient.norm() for gradient in gradients")
def largest_size(steps: Any) -> None:
    """The norm is the largest absolute value; it should be the root of the sum of squares."""
    steps.norms = lambda gradients: torch.stack([gradient.abs().max() for gradient in gradients])
    steps.total = lambda norms: norms.max()


@CLIP_GRADIENTS.mistake("max_norm / (norm + 1e-6)")
def norm_of_1(steps: Any) -> None:
    """Gradients above the limit are scaled to a norm of 1; scale them to max_norm."""
    ratio = steps.ratio
    steps.ratio = lambda norm, max_norm: torch.where(
        norm > max_norm, ratio(norm, 1.0), ratio(norm, max_norm)
    )


@CLIP_GRADIENTS.mistake("max_norm / (norm + 1e-6)")
def factor_inverted(steps: Any) -> None:
    """The factor is norm / max_norm, which is smallest for small gradients; invert it."""
    steps.ratio = lambda norm, max_norm: norm / max_norm


@CLIP_GRADIENTS.mistake("norm = self.total(self.norms(gradients))")
def norm_after_clipping(steps: Any) -> None:
    """The norm after clipping is returned, which never exceeds the limit and hides what happened;
    return the norm before.
    """
    steps.reported = lambda norm, scaled: steps.total(steps.norms(scaled))


@CLIP_GRADIENTS.mistake("ratio.clamp(max=1.0)")
def not_a_number_is_not_clipped(steps: Any) -> None:
    """With a norm of NaN the gradients stay as they are, because NaN is not larger than the limit
    (and min(1.0, nan) is 1.0); the factor should be NaN, so that nobody overlooks it.
    """
    factor = steps.factor
    steps.factor = lambda ratio: factor(ratio).nan_to_num(nan=1.0)
