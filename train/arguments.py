"""The command-line arguments that all training jobs share."""

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
    """Add the fields of :class:`TrainingConfig`; `defaults` are the job's own."""

    def add(name: str, kind: Callable[[str], Any], text: str) -> None:
        field = next(field for field in fields(TrainingConfig) if field.name == name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=defaults.get(name, field.default), help=text)

    parser.add_argument("--output", type=Path, required=True, help="directory of the run")
    add("epochs", positive, "times through the data")
    add("max_steps", positive, "steps, instead of epochs")
    add("accumulate", positive, "batches that make one step")
    add("learning_rate", float, "the highest one, after the warm-up")
    add("warmup", float, "share of the steps")
    add("weight_decay", float, "of matrices; biases and norms have none")
    add("clip_norm", float, "longest gradient")
    add("evaluate_every", positive, "steps")
    add("save_every", positive, "steps between checkpoints")
    add("keep_checkpoints", positive, "how many checkpoints stay")
    add("patience", positive, "end after so many evaluations without a better loss, with the best")
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
        help="do not optimize the model: run the code of layers/ and models/ alone",
    )
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on from the last checkpoint; a plain run stays plain, an optimized one optimized",
    )


def training_config(arguments: argparse.Namespace) -> TrainingConfig:
    """The config that the arguments stand for.

    Raises:
        ValueError: a value has no meaning.
    """
    names = [field.name for field in fields(TrainingConfig)]
    return TrainingConfig(**{name: getattr(arguments, name) for name in names})


def run_job(job: Callable[[], int]) -> int:
    """Run a job and turn what a user can mend into one line; returns the exit status."""
    try:
        return job()
    except (ValueError, ArithmeticError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 128 + signal.SIGINT
