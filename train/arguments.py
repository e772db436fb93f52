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
from minitransformer.names import shortened
from train.config import TrainingConfig
from train.optimizer import SCHEDULES


def steps_or_epoch(text: str) -> int | str:
    """Parse a number of steps, or "epoch"; for argparse's `type`."""
    if text == "epoch":
        return text
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError(
            f"{shortened(text)} must be a number of steps, at least 1, or epoch"
        )
    return int(text)


def add_training_arguments(parser: Parser, **defaults: object) -> None:
    """Add the fields of :class:`TrainingConfig`; `defaults` replace some of its defaults."""

    def add(name: str, kind: Callable[[str], Any], text: str, **more: Any) -> None:
        field = next(field for field in fields(TrainingConfig) if field.name == name)
        option, default = f"--{name.replace('_', '-')}", defaults.get(name, field.default)
        parser.add_argument(option, type=kind, default=default, help=text, **more)

    parser.add_argument("--output", type=Path, required=True, help="directory for the run")
    add("epochs", positive, "passes over the data")
    add("max_steps", positive, "number of steps, instead of epochs")
    add("accumulate", positive, "batches per step, whose gradients are accumulated")
    add("learning_rate", float, "the peak, at the end of the warm-up")
    add("schedule", str, "of the learning rate after the warm-up", choices=tuple(SCHEDULES))
    add("warmup", float, "length of the warm-up, as a fraction of the steps")
    add("weight_decay", float, "for matrices; biases and norms are not decayed")
    add("clip_norm", float, "largest norm of the gradient; a larger one is scaled down")
    add("label_smoothing", float, "share of a label that goes to all classes alike; in training")
    add(
        "freeze",
        str,
        "parts that are not trained, separated by commas: embeddings, numbers or ranges of layers, "
        "encoder, decoder, or names of modules",
        metavar="embeddings,0-5",
    )
    add("evaluate_every", steps_or_epoch, "steps between evaluations, or epoch")
    add("save_every", steps_or_epoch, "steps between checkpoints, or epoch")
    add("keep_checkpoints", positive, "number of checkpoints to keep")
    add("patience", positive, "stop after this many evaluations without a better metric")
    add(
        "best_metric",
        str,
        "keep the weights that are best by this metric of the evaluations; with --patience the "
        "loss, if no other is named",
        metavar="METRIC",
    )
    parser.add_argument(
        "--greater-is-better",
        action=argparse.BooleanOptionalAction,
        help="of the best metric; by default it is, except of losses, perplexities and errors",
    )
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
    parser.add_argument(
        "--fp16", action="store_true", help="float16 autocast and loss scaling, on CUDA"
    )
    parser.add_argument(
        "--gradient-checkpointing",
        action="store_true",
        help="save memory: recompute each layer in the backward pass",
    )
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
