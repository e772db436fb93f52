"""Sides that take turns over their batches, the choice of batches, and the FLOPs of an encoder."""

import json

import numpy as np
import pytest
import torch

from benchmarks import comparison, rows
from benchmarks.comparison import (
    AS_IT_COMES,
    AT_ITS_BEST,
    COMPILED,
    OURS,
    OURS_SORTED,
    SAME_BATCHES,
    Comparison,
    Side,
    comparisons,
    without_useless_mask,
)
from benchmarks.flops import EncoderSizes
from tests.train.test_qa import squad


def batch(lengths, width=None):
    mask = torch.arange(width or max(lengths)) < torch.tensor(lengths)[:, None]
    return {"input_ids": mask * 7, "attention_mask": mask.long()}


def side(name, batches, calls=None):
    def work(given):
        number = next(n for n, one in enumerate(batches) if one is given)
        if calls is not None:
            calls.append((name, number))

    tokens = [int(one["attention_mask"].sum()) for one in batches]
    return Side(name, work, batches, tokens, [2 * t for t in tokens], [3 * t for t in tokens])


def test_sides_take_turns_and_go_over_their_batches(monkeypatch):
    calls = []
    rates = iter([1e9, 2e9] * 2)
    monkeypatch.setattr(comparison, "product_rate", lambda dtype, device: next(rates))
    sides = [side(name, [batch([3, 1]), batch([2])], calls) for name in (AS_IT_COMES, OURS)]
    workers = [comparison.SideAtWork(one, "cpu") for one in sides]
    found, ratios = comparison.measure(
        sides, workers, comparisons((2.0, 3.0), ragged=False), 2, torch.float32, "cpu"
    )
    # All to warm up, each with its largest batch to see the memory, and then the rounds.
    a, b = AS_IT_COMES, OURS
    assert calls[:6] == [(a, 0), (a, 1), (b, 0), (b, 1), (a, 0), (b, 0)]
    assert calls[6:10] == [(a, 0), (b, 0), (b, 1), (a, 1)]
    assert calls[10:] == calls[6:10]
    assert [row["side"] for row in found] == [AS_IT_COMES, OURS]
    # Nobody was transformers at its best, so there is nothing to say about that.
    assert [(row["against"], row["target"]) for row in ratios] == [("as it comes", 2.0)]


def test_what_a_side_is_said_to_do():
    one = side(OURS, [batch([3, 1]), batch([2])])
    row = comparison.figures(one, [1.0, 3.0, 2.0, 6.0], [1.0, 2.0, 1.0, 4.0])
    assert row["padding"] == pytest.approx(2 / 8)
    assert row["seconds"] == {"median": 3.0, "low": 2.5, "high": 3.5}
    assert row["real_tokens_per_second"]["median"] == pytest.approx((6 / 4 + 6 / 8) / 2)
    # 12 FLOPs; a plain product would have done 1 * 1 + 2 * 3 in the first pass, then 2 + 24.
    assert row["necessary_share_of_ceiling"]["median"] == pytest.approx((12 / 7 + 12 / 26) / 2)
    assert row["executed_share_of_ceiling"]["high"] > row["necessary_share_of_ceiling"]["high"]


def test_ratios_are_of_real_tokens_and_against_the_fastest():
    wide, long = [batch([3, 1])], [batch([8, 8])]
    taken = {
        AS_IT_COMES: (side(AS_IT_COMES, wide), [4.0, 8.0]),
        AT_ITS_BEST: (side(AT_ITS_BEST, long), [8.0, 16.0]),
        COMPILED: (side(COMPILED, long), [4.0, 8.0]),
        OURS: (side(OURS, wide), [2.0, 1.0]),
        OURS_SORTED: (side(OURS_SORTED, long), [1.0, 4.0]),
    }
    ratio = {
        pair.against: comparison.compare(pair, taken) for pair in comparisons((5, 6), ragged=True)
    }
    # A second a token against a sixteenth, then two against a quarter.
    assert ratio["as it comes"]["ratio"]["median"] == pytest.approx((16 + 8) / 2)
    assert ratio["at its best"]["theirs"] == COMPILED
    assert ratio["at its best"]["ratio"]["median"] == pytest.approx((4 + 2) / 2)
    assert ratio[SAME_BATCHES]["ratio"]["median"] == pytest.approx((2 + 8) / 2)
    assert [row["target"] for row in ratio.values()] == [5, 6, None]
    alone = Comparison("at its best", [AT_ITS_BEST], OURS_SORTED)
    assert comparison.compare(alone, taken)["theirs"] == AT_ITS_BEST


def test_a_mask_of_nothing_but_ones_is_left_out():
    assert without_useless_mask(batch([3, 3])).keys() == {"input_ids"}
    assert without_useless_mask(batch([3, 2])).keys() == {"input_ids", "attention_mask"}
    assert comparison.lengths_of({"input_ids": torch.ones(2, 5)}).tolist() == [5, 5]
    assert comparison.lengths_of(batch([3, 2])).tolist() == [3, 2]


def test_batches_drawn_and_batches_sorted():
    lengths = np.random.default_rng(0).integers(3, 90, 200)
    at_random = rows.random_batches(lengths, 8, 5, seed=1)
    assert len(np.unique(np.concatenate(at_random))) == 40
    assert np.array_equal(at_random, rows.random_batches(lengths, 8, 5, seed=1))
    by_length = rows.sorted_batches(lengths, 8, 5, seed=1)
    assert len(np.unique(np.concatenate(by_length))) == 40
    assert max(np.ptp(lengths[one]) for one in by_length) < 8
    # As many tokens as in a whole epoch, on average.
    assert lengths[np.concatenate(by_length)].mean() == pytest.approx(lengths.mean(), rel=0.03)
    # More batches than there are begin again.
    assert len(rows.sorted_batches(lengths[:20], 8, 5, seed=0)) == 5
    assert len(rows.random_batches(lengths[:20], 8, 5, seed=0)) == 5
    for draw in (rows.random_batches, rows.sorted_batches):
        with pytest.raises(ValueError, match="7 rows are too few for a batch of 8"):
            draw(lengths[:7], 8, 1, seed=0)


def test_made_up_rows_have_the_lengths_that_are_stated():
    lines, full = rows.made_up_rows(99, 512)
    assert np.median(lines.lengths) == pytest.approx(23, abs=1)
    assert np.log(lines.lengths).std() == pytest.approx(0.9, abs=0.05)
    assert set(full.lengths) == {512}
    windows = rows.made_up_windows(99, 384)
    assert windows.lengths.mean() == pytest.approx(160, abs=5)
    assert windows.lengths.std() == pytest.approx(60, abs=5)
    assert (windows.spans[:, 0] <= windows.spans[:, 1]).all()
    assert (windows.spans[:, 1] < windows.lengths).all()
    mixture = rows.made_up_mixture(99, 512)
    assert np.median(mixture.lengths[mixture.lengths < 60]) < 30
    for made in (lines, full, windows, mixture):
        ids = np.concatenate(made.ids)
        assert ids.min() == rows.CLS and ids.max() == 98 and rows.PAD not in ids


def test_rows_are_padded():
    made = rows.Rows("made", [np.array([0, 5, 2]), np.array([0, 2])], np.array([[1, 1], [0, 0]]))
    padded = made.padded([1, 0])
    assert padded["input_ids"].tolist() == [[0, 2, 1], [0, 5, 2]]
    assert padded["attention_mask"].tolist() == [[1, 1, 0], [1, 1, 1]]
    assert padded["start_positions"].tolist() == [0, 1]
    assert made.padded([1])["input_ids"].tolist() == [[0, 2]]


def test_text_becomes_rows(tmp_path):
    text = tmp_path / "text.txt"
    words = ["uno", "due", "tre", "quattro", "cinque", "sei"]
    text.write_text("".join(" ".join(words[: n % 6 + 1]) + "\n" for n in range(200)))
    lines, full = rows.text_rows([text], 300, 16)
    assert len(lines.ids) == 200 and len(set(lines.lengths)) > 3
    assert set(full.lengths) == {16}
    assert all(row[0] == rows.CLS and row[-1] == rows.SEP for row in lines.ids)
    with pytest.raises(ValueError, match="less text than one row of 9999 tokens"):
        rows.text_rows([text], 300, 9999)
    with pytest.raises(ValueError, match="--text .*nowhere.*no such file; leave out --text"):
        rows.text_rows([text, tmp_path / "nowhere"], 300, 16)

    text.write_text("".join(f"a line of words {n}\t{n % 2}\n" for n in range(50)))
    mixed = rows.mixed_rows([text], None, 300, 6, seed=0)
    assert mixed.source.startswith("50 sentences and 0 paragraphs")
    assert len(mixed.ids) == 50 and mixed.lengths.max() == 6


def test_questions_become_rows(tmp_path):
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(squad(40)))
    made = rows.squad_rows(file, 300, 48)
    # Some contexts are too long for one window.
    assert len(made.ids) > 40 and made.lengths.max() == 48
    assert made.spans.shape == (len(made.ids), 2)
    assert (made.spans[:, 0] <= made.spans[:, 1]).all()
    assert (made.spans[:, 1] < made.lengths).all()
    assert f"{len(made.ids)} windows of squad.json, WordPiece of " in made.source
    mixed = rows.mixed_rows([], file, 300, 64, seed=0)
    assert mixed.source.startswith("0 sentences and ")
    with pytest.raises(ValueError, match="--squad .*nowhere.*no such file; leave out --squad"):
        rows.squad_rows(tmp_path / "nowhere", 300, 48)


def test_masked_by_their_collator():
    pytest.importorskip("transformers", reason="the collator is theirs")
    lines, _ = rows.made_up_rows(99, 64)
    plain = lines.padded(range(200))
    masked = rows.masked_batch(plain, 99, seed=3)
    assert masked.keys() == {"input_ids", "attention_mask", "labels"}
    assert torch.equal(masked["attention_mask"], plain["attention_mask"])
    labelled = masked["labels"] != -100
    assert torch.equal(masked["labels"][labelled], plain["input_ids"][labelled])
    ordinary = plain["input_ids"] >= rows.FIRST_WORD
    assert labelled[~ordinary].sum() == 0
    assert labelled.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.02)
    hidden = masked["input_ids"][labelled] == rows.MASK
    assert hidden.float().mean() == pytest.approx(0.8, abs=0.05)


def test_flops_of_one_layer_by_hand():
    sizes = EncoderSizes(hidden_size=2, num_hidden_layers=1, intermediate_size=5)
    # Four maps of 2 x 2 and two of 2 x 5 for each of 3 tokens, scores and sums of 9 pairs.
    assert sizes.encoder(np.array([3])) == 3 * (4 * 2 * 4 + 2 * 2 * 10) + 9 * 2 * 2 * 2
    # Keys and values of all, the rest for one of them.
    one = 3 * 2 * 2 * 4 + 2 * 2 * 4 + 2 * 2 * 10 + 3 * 2 * 2 * 2
    assert sizes.encoder(np.array([3]), np.array([1])) == one
    assert sizes.word_scores(3, 11) == 3 * (2 * 4 + 2 * 2 * 11)
