"""The shares of masking, counted; and what is never touched."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from tests.tiny import JOB_TOKENIZER, job_sequences
from train.masking import MaskedBatches, mask_tokens
from train.text import TokenSequences

ORDINARY = np.arange(5, 99)


def masked(ids, starts=None, probability=0.15, seed=0):
    return mask_tokens(
        ids,
        starts,
        random=np.random.default_rng(seed),
        probability=probability,
        mask_token_id=4,
        ordinary_ids=ORDINARY,
    )


@pytest.mark.parametrize("probability", [0.15, 0.4])
def test_the_shares(probability):
    """Each count lies within four standard deviations of its binomial's mean."""
    ids = np.random.default_rng(1).integers(5, 99, (400, 500))
    inputs, labels = masked(ids, probability=probability)
    chosen = labels != -100

    def check(successes, trials, share):
        assert abs(successes - trials * share) < 4 * (trials * share * (1 - share)) ** 0.5

    check(chosen.sum(), ids.size, probability)
    check((inputs[chosen] == 4).sum(), chosen.sum(), 0.8)
    # A random token is the old one once in 94 times.
    changed = (inputs[chosen] != 4) & (inputs[chosen] != ids[chosen])
    check(changed.sum(), chosen.sum(), 0.1 * 93 / 94)
    check((inputs[chosen] == ids[chosen]).sum(), chosen.sum(), 0.1 + 0.1 / 94)
    # Random tokens are uniform.
    counts = np.bincount(inputs[chosen][changed], minlength=99)
    assert counts[:5].sum() == 0
    expected = changed.sum() / 94
    assert (
        (counts[5:] - expected) ** 2 / expected
    ).sum() < 160  # chi-squared, 93 degrees, p < 1e-5


def test_labels_are_the_old_ids_and_the_rest_is_untouched():
    ids = np.random.default_rng(1).integers(5, 99, (50, 50))
    inputs, labels = masked(ids)
    chosen = labels != -100
    assert (labels[chosen] == ids[chosen]).all()
    assert (inputs[~chosen] == ids[~chosen]).all()


def test_special_tokens_and_padding_are_never_masked_nor_sampled():
    ids = np.random.default_rng(1).integers(0, 99, (300, 300))
    inputs, labels = masked(ids, probability=0.9)
    special = ids < 5
    assert (labels[special] == -100).all()
    assert (inputs[special] == ids[special]).all()
    assert (inputs[~special] >= 4).all()  # 4 is the mask


def test_whole_words_are_masked():
    random = np.random.default_rng(1)
    ids = random.integers(5, 99, (400, 60))
    starts = random.random(ids.shape) < 0.5
    starts[:, 0] = True
    _, labels = masked(ids, starts)
    chosen = labels != -100
    same_word = ~starts[:, 1:]
    assert (chosen[:, 1:][same_word] == chosen[:, :-1][same_word]).all()
    assert abs(chosen[starts].mean() - 0.15) < 0.01
    # Token by token, words are broken up.
    _, labels = masked(ids)
    chosen = labels != -100
    assert (chosen[:, 1:][same_word] != chosen[:, :-1][same_word]).any()


def test_batches_of_whole_words():
    data = batches(whole_words=True, shuffle=False)
    text, broken = job_sequences(), 0
    for index in range(data.num_batches):
        chosen = (data.batch(0, index)["labels"] != -100).numpy()
        for line, sequence in zip(range(4 * index, len(text)), chosen, strict=False):
            starts = text.starts_word[text.bounds[line] : text.bounds[line + 1]]
            ids = text.ids[text.bounds[line] : text.bounds[line + 1]]
            inside = ~starts[1:] & (ids[1:] >= 5) & (ids[:-1] >= 5)
            broken += (sequence[1 : len(ids)] != sequence[: len(ids) - 1])[inside].sum()
    assert broken == 0


def batches(**changes):
    return MaskedBatches(
        job_sequences(), JOB_TOKENIZER, **({"batch_size": 4, "probability": 0.3} | changes)
    )


def test_a_batch_is_a_function_of_its_number():
    a, b = batches(), batches()
    b.batch(3, 1)  # earlier calls do not matter
    for name, tensor in a.batch(1, 2).items():
        assert torch.equal(tensor, b.batch(1, 2)[name])
    assert not torch.equal(
        a.batch(0, 0)["labels"].sum(), batches(seed=1).batch(0, 0)["labels"].sum()
    )


def sequence_sets(data, epoch):
    seen = []
    for index in range(data.num_batches):
        batch = data.batch(epoch, index)
        ids = torch.where(batch["labels"] != -100, batch["labels"], batch["input_ids"])
        for sequence, mask in zip(ids, batch["attention_mask"].bool(), strict=True):
            seen.append(tuple(sequence[mask].tolist()))
    return seen


def test_an_epoch_has_every_sequence_once_in_another_order_and_masked_anew():
    data, text = batches(), job_sequences()
    expected = sorted(
        tuple(text.ids[a:b].tolist()) for a, b in zip(text.bounds, text.bounds[1:], strict=False)
    )
    first, second = sequence_sets(data, 0), sequence_sets(data, 1)
    assert sorted(first) == sorted(second) == expected
    assert first != second
    held_out = batches(shuffle=False)
    assert sequence_sets(held_out, 0) == sequence_sets(held_out, 1)
    assert torch.equal(held_out.batch(0, 0)["labels"], held_out.batch(1, 0)["labels"])
    assert batches(batch_size=100).batch(0, 0)["labels"].shape[0] == 21


def test_masks_differ_between_batches():
    twice = TokenSequences(
        np.tile(np.arange(5, 65, dtype=np.int32), 2), np.ones(120, bool), np.array([0, 60, 120])
    )
    data = MaskedBatches(twice, JOB_TOKENIZER, batch_size=1)
    assert not torch.equal(data.batch(0, 0)["labels"], data.batch(0, 1)["labels"])


def test_masks_differ_between_epochs():
    one_sequence = TokenSequences(
        np.arange(5, 65, dtype=np.int32), np.ones(60, bool), np.array([0, 60])
    )
    data = MaskedBatches(one_sequence, JOB_TOKENIZER, batch_size=1)
    assert not torch.equal(data.batch(0, 0)["labels"], data.batch(1, 0)["labels"])


def test_sequences_meet_others_of_their_length():
    text = job_sequences(200)
    data = MaskedBatches(text, JOB_TOKENIZER, batch_size=10)
    padding = sum(int((data.batch(0, i)["attention_mask"] == 0).sum()) for i in range(20))
    assert padding < 0.05 * len(text.ids)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"probability": 0}, "probability=0"),
        ({"probability": 1.5}, "1.5"),
    ],
)
def test_settings_without_meaning_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        batches(**changes)
    with pytest.raises(ValueError, match="no examples to make batches of"):
        MaskedBatches(
            TokenSequences(np.empty(0, np.int32), np.empty(0, bool), np.zeros(1, int)),
            JOB_TOKENIZER,
            batch_size=1,
        )


def test_a_tokenizer_without_a_mask_is_refused():
    with pytest.raises(AttributeError, match="mask_token_id"):
        MaskedBatches(job_sequences(), SimpleNamespace(pad_token_id=1), batch_size=1)
