"""Tiny perturbed checkpoints of every family, each with a tokenizer of its own kind."""

from pathlib import Path

import pytest
import torch

import minitransformer
from minitransformer import Tokenizer
from tests.tiny import SIZES, perturb

FAMILIES = ["Bert", "Roberta", "DistilBert"]
TEXT = "ciao, come va? la ragazza legge un libro e il ragazzo ascolta la radio. tutto bene.\n"
TEXTS = [
    "la ragazza legge un libro",
    "ciao",
    "il ragazzo ascolta la radio. tutto bene. come va la ragazza?",
    "Tutto bene, ragazzo?",
    "un libro",
]


def save_checkpoint(
    directory: Path, family: str, head: str, *, max_length: int = 40, **fields: object
) -> Path:
    """Write model and tokenizer; `head` is the end of the class's name, such as "ForMaskedLM"."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    tokenizer = Tokenizer.train(
        directory / "text.txt",
        vocab_size=330,
        algorithm="bpe" if family == "Roberta" else "wordpiece",
        lowercase=family != "Roberta",
        show_progress=False,
    )
    tokenizer.token_types = family == "Bert"
    sizes = {
        **SIZES,
        "vocab_size": tokenizer.vocab_size,
        "pad_token_id": tokenizer.pad_token_id,
        # RoBERTa's table has two rows that belong to no token.
        "max_position_embeddings": max_length + 2 * (family == "Roberta"),
    }
    config = getattr(minitransformer, f"{family}Config")(**sizes, **fields)
    torch.manual_seed(0)
    perturb(getattr(minitransformer, f"{family}{head}")(config)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def their_pipeline(task: str, path: Path, **settings: object):
    """transformers' pipeline; the test is skipped where transformers is absent."""
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    return transformers.pipeline(task, str(path), **settings)


def same(ours: object, theirs: object) -> None:
    """Equal in structure and words, and in numbers within rounding."""
    if isinstance(theirs, float):
        assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-6)
    elif isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        for name in theirs:
            same(ours[name], theirs[name])
    elif isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)
    else:
        assert ours == theirs
