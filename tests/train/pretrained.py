"""For the jobs that fine-tune: a tiny "pretrained" checkpoint, and a look at what they draw."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from minitransformer import BertConfig, BertModel, Tokenizer
from train import metrics


def save_tiny_bert(path: Path, lines: Iterable[str], *, max_length: int = 64) -> None:
    """A two-layer BERT and a WordPiece tokenizer trained on the lines."""
    path.mkdir(parents=True, exist_ok=True)
    text = path / "text.txt"
    text.write_text("\n".join(lines), encoding="utf-8")
    tokenizer = Tokenizer.train(
        text, vocab_size=400, algorithm="wordpiece", lowercase=True, show_progress=False
    )
    torch.manual_seed(0)
    model = BertModel(
        BertConfig(
            vocab_size=tokenizer.vocab_size,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=64,
            max_position_embeddings=max_length,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    tokenizer.save_pretrained(path)
    model.save_pretrained(path)


def watch_figures(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A list to which every figure is added that a job draws."""
    figures: list[Any] = []
    empty = metrics.new_figure
    monkeypatch.setattr(metrics, "new_figure", lambda: figures.append(empty()) or figures[-1])
    return figures
