"""The command-line arguments shared by all training jobs."""

import argparse
import signal
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from minitransformer.arguments import Parser, device, positive
from minitransformer.layers.attention import ATTENTION_IMPLEMENTATIONS
from train.config import TrainingConfig


def add_training_arguments(parser: Parser, **defaults: object) -> None:
    """Add the fields of :class:`TrainingConfig`; `defaults` replace some of its defaults."""

    def add(name: str, kind: Callable[[str], Any], text: str) -> None:
        field = next(field for field in fields(TrainingConfig) if field.name == name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=defaults.get(name, field.default), help=text)

    parser.add_argument("--output", type=Path, required=True, help="directory for the run")
    add("epochs", positive, "passes over the data")
    add("max_steps", positive, "number of steps, instead of epochs")
    add("accumulate", positive, "batches per step, whose gradients are accumulated")
    add("learning_rate", float, "the peak, at the end of the warm-up")
    add("warmup", float, "length of the warm-up, as a fraction of the steps")
    add("weight_decay", float, "for matrices; biases and norms are not decayed")
    add("clip_norm", float, "largest norm of the gradient; a larger one is scaled down")
    add("evaluate_every", positive, "steps between evaluations")
    add("save_every", positive, "steps between checkpoints")
    add("keep_checkpoints", positive, "number of checkpoints to keep")
    add("patience", positive, "stop after this many evaluations without a better loss")
    add("device", device, "cpu or cuda")
    parser.add_argument(
        "--attention",
        choices=sorted(ATTENTION_IMPLEMENTATIONS),
        default="sdpa",
        help="sdpa: PyTorch's implementation; eager: the formula",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="do not optimize the model: run only the code of layers/ and models/",
    )
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint; the model stays plain or optimized",
    )


def training_config(arguments: argparse.Namespace) -> TrainingConfig:
    """The config with the values of the arguments.

    Raises:
        ValueError: a value is invalid.
    """
    names = [field.name for field in fields(TrainingConfig)]
    return TrainingConfig(**{name: getattr(arguments, name) for name in names})


def run_job(job: Callable[[], int]) -> int:
    """Run a job, print errors that a user can fix in one line, and return the exit status."""
    try:
        return job()
    except (ValueError, ArithmeticError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
