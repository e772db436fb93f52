"""Sequences, the choice of batches, and what is in them."""

import json

import numpy as np
import pytest
import torch

from benchmarks import batches
from benchmarks.batches import (
    FULL,
    LINES,
    RAGGED,
    SQUAD,
    Sequences,
    lengths_of,
    without_useless_mask,
)
from tests.train.test_qa import squad


def test_batches_drawn_and_batches_sorted():
    lengths = np.random.default_rng(0).integers(3, 90, 200)
    at_random = batches.random_batches(lengths, 8, 5)
    assert len(np.unique(np.concatenate(at_random))) == 40
    assert np.array_equal(at_random, batches.random_batches(lengths, 8, 5))
    by_length = batches.sorted_batches(lengths, 8, 5)
    assert len(np.unique(np.concatenate(by_length))) == 40
    assert max(np.ptp(lengths[one]) for one in by_length) < 8
    # As many tokens as in a whole epoch, on average.
    assert lengths[np.concatenate(by_length)].mean() == pytest.approx(lengths.mean(), rel=0.03)
    # More batches than there are begin again.
    for choose in (batches.random_batches, batches.sorted_batches):
        assert len(choose(lengths[:20], 8, 5)) == 5
    few = Sequences("made", [np.array([0, 2])] * 7)
    with pytest.raises(ValueError, match="7 sequences are too few for a batch of 8"):
        few.batches(batches.RANDOM, 8, 1)


def test_made_up_sequences_have_the_lengths_that_are_stated():
    lines = batches.made_up(LINES, 99, 512)
    assert np.median(lines.lengths) == pytest.approx(23, abs=1)
    assert np.log(lines.lengths).std() == pytest.approx(0.9, abs=0.05)
    full = batches.made_up(FULL, 99, 512)
    assert set(full.lengths) == {512}
    windows = batches.made_up(SQUAD, 99, 384)
    assert windows.lengths.mean() == pytest.approx(160, abs=5)
    assert windows.lengths.std() == pytest.approx(60, abs=5)
    assert (windows.spans[:, 0] <= windows.spans[:, 1]).all()
    assert (windows.spans[:, 1] < windows.lengths).all()
    mixture = batches.made_up(RAGGED, 99, 512)
    assert np.median(mixture.lengths[mixture.lengths < 60]) < 30
    for made in (lines, full, windows, mixture):
        ids = np.concatenate(made.ids)
        assert ids.min() == batches.CLS and ids.max() == 98 and batches.PAD not in ids


def test_sequences_are_padded_and_useless_masks_left_out():
    made = Sequences("made", [np.array([0, 5, 2]), np.array([0, 2])], np.array([[1, 1], [0, 0]]))
    padded = made.batch([1, 0])
    assert padded["input_ids"].tolist() == [[0, 2, 1], [0, 5, 2]]
    assert padded["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert padded["start_positions"].tolist() == [0, 1]
    assert lengths_of(padded).tolist() == [2, 3]
    assert without_useless_mask(padded).keys() == padded.keys()
    alone = without_useless_mask(made.batch([1]))
    assert "attention_mask" not in alone and lengths_of(alone).tolist() == [2]
    wide = batches.pad_to(5, padded)
    assert wide["input_ids"].shape == (2, 5) and lengths_of(wide).tolist() == [2, 3]
    assert wide["start_positions"].tolist() == [0, 1]


def test_text_becomes_sequences(tmp_path):
    text = tmp_path / "text.txt"
    words = ["uno", "due", "tre", "quattro", "cinque", "sei"]
    text.write_text("".join(" ".join(words[: n % 6 + 1]) + "\n" for n in range(200)))
    lines, full = batches.text_sequences([text], 300, 16)
    assert len(lines.ids) == 200 and len(set(lines.lengths)) > 3
    assert set(full.lengths) == {16}
    assert all(ids[0] == batches.CLS and ids[-1] == batches.SEP for ids in lines.ids)
    with pytest.raises(ValueError, match="less text than one sequence of 9999 tokens"):
        batches.text_sequences([text], 300, 9999)
    text.write_text("".join(f"a line of words {n}\t{n % 2}\n" for n in range(50)))
    mixed = batches.mixed_sequences([text], None, 300, 6)
    assert mixed.source.startswith("50 sentences and 0 paragraphs")
    assert len(mixed.ids) == 50 and mixed.lengths.max() == 6


def test_questions_become_sequences(tmp_path):
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(squad(40)))
    made = batches.squad_sequences(file, 300, 48)
    # Some contexts are too long for one window.
    assert len(made.ids) > 40 and made.lengths.max() == 48
    assert made.spans.shape == (len(made.ids), 2)
    assert (made.spans[:, 0] <= made.spans[:, 1]).all()
    assert (made.spans[:, 1] < made.lengths).all()
    assert f"{len(made.ids)} windows of squad.json, WordPiece of " in made.source
    mixed = batches.mixed_sequences([], file, 300, 64)
    assert mixed.source.startswith("0 sentences and ")


def test_masked_tokens_are_labelled():
    plain = batches.made_up(LINES, 99, 64).batch(range(200))
    masked = batches.masked_batch(plain, 99)
    assert masked.keys() == {"input_ids", "attention_mask", "labels"}
    labelled = masked["labels"] != -100
    assert torch.equal(masked["labels"][labelled], plain["input_ids"][labelled])
    ordinary = plain["input_ids"] >= batches.FIRST_WORD
    assert labelled[~ordinary].sum() == 0
    assert labelled.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.02)
    assert (masked["input_ids"][labelled] == batches.MASK).float().mean() > 0.7
