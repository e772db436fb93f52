"""The translation demo, in small; and its picture, drawn from maps that are made here."""

import json
from pathlib import Path

import pytest
import torch

from minitransformer.attention_maps import AttentionMaps, TokenLabels
from train.demos import translation
from train.demos.italian import is_held_out
from train.demos.translation import DRAWN, draw_cross_attention
from train.metrics import new_figure


def test_the_sentence_in_the_picture_is_held_out():
    assert "una lezione interessante" in DRAWN
    assert is_held_out(("lezione", "interessante"))


def test_the_picture_shows_the_mean_of_the_last_layer(tmp_path, monkeypatch):
    """Generated tokens are rows, source tokens are columns."""
    maps = torch.rand(2, 3, 4, 2)
    named = TokenLabels(("·ciao", "</s>"), (0, None))
    written = ("see", "·you", ".", "</s>")
    figures = []
    monkeypatch.setattr(
        translation,
        "new_figure",
        lambda **size: figures.append(new_figure(**size)) or figures[-1],
    )
    draw_cross_attention(
        AttentionMaps(written, maps, (0, 0, 0, None), named), tmp_path / "attention.png"
    )
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    axes, scale = figures[0].axes
    drawn = torch.tensor(axes.images[0].get_array().tolist())
    assert torch.allclose(drawn, maps[1].mean(dim=0))
    assert [label.get_text() for label in axes.get_yticklabels()] == ["see", "you", ".", "</s>"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["ciao", "</s>"]
    assert scale.get_ylabel() == "cross-attention of the last layer, mean of 3 heads"


@pytest.mark.slow
def test_the_demo_from_nothing_and_once_more(tmp_path: Path, capsys):
    command = ["--output", str(tmp_path), "--pairs", "80", "--questions", "4", "--max-steps", "2"]
    assert translation.main(command) == 0
    out = capsys.readouterr().out
    exact = json.loads((tmp_path / "report.json").read_text())["dev"]["this model"]["exact"]
    assert f"{exact:.1%} of 4 held-out sentences" in out
    assert (tmp_path / "attention.png").read_bytes().startswith(b"\x89PNG")
    known, asked = (
        {line.split("\t")[0] for line in (tmp_path / name).read_text("utf-8").splitlines()}
        for name in ("train.tsv", "held_out.tsv")
    )
    assert (len(known), len(asked)) == (80, 4)
    assert not known & asked
    before = (tmp_path / "model.safetensors").read_bytes()
    assert translation.main(command) == 0  # nothing is left to do but to show it
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert translation.main([*command[:-1], "3"]) == 1
    assert "max_steps was 2, now it is 3" in capsys.readouterr().err


def test_the_pairs_of_a_finished_demo_are_not_written_over(tmp_path, capsys):
    train_file = tmp_path / "train.tsv"
    train_file.write_text("ciao.\thello.\n" * 3)
    assert translation.main(["--output", str(tmp_path), "--pairs", "9"]) == 1
    assert "does not have 9 pairs, so it belongs to another run" in capsys.readouterr().err
    assert train_file.read_text() == "ciao.\thello.\n" * 3
