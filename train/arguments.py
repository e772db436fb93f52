"""The command-line arguments that all training jobs share."""

import argparse
from dataclasses import fields
from pathlib import Path

import torch

from minitransformer.arguments import Parser
from train.loop import TrainingConfig


def add_training_arguments(parser: Parser, **defaults: object) -> None:
    """Add the fields of :class:`TrainingConfig`; `defaults` are the job's own."""

    def add(name: str, kind: type, text: str) -> None:
        field = next(field for field in fields(TrainingConfig) if field.name == name)
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=kind, default=defaults.get(name, field.default), help=text)

    parser.add_argument("--output", type=Path, required=True, help="directory of the run")
    add("epochs", int, "times through the data")
    add("max_steps", int, "steps, instead of epochs")
    add("accumulate", int, "batches that make one step")
    add("learning_rate", float, "the highest one, after the warm-up")
    add("warmup", float, "share of the steps")
    add("weight_decay", float, "of matrices; biases and norms have none")
    add("clip_norm", float, "longest gradient")
    add("evaluate_every", int, "steps")
    add("save_every", int, "steps between checkpoints")
    add("keep_checkpoints", int, "how many checkpoints stay")
    add("patience", int, "end after so many evaluations without a better loss, with the best")
    add("device", str, "cpu or cuda")
    parser.add_argument("--bf16", action="store_true", help="bfloat16 autocast")
    parser.add_argument("--compile", action="store_true", help="torch.compile the loss")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint")


def training_config(arguments: argparse.Namespace) -> TrainingConfig:
    """The config that the arguments stand for.

    Raises:
        ValueError: a value has no meaning, or the device is not there.
    """
    if arguments.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(f"device={arguments.device!r}: PyTorch sees no CUDA device here; use cpu")
    names = [field.name for field in fields(TrainingConfig)]
    return TrainingConfig(**{name: getattr(arguments, name) for name in names})
