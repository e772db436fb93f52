"""What the jobs that train a new model share when they continue from a checkpoint, `--model`."""

import argparse
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from minitransformer.arguments import Parser
from minitransformer.hf.checkpoint import model_class_for
from minitransformer.models.base import Model
from minitransformer.tasks.base import check_vocabularies, load_tokenizer
from minitransformer.tokenization import Tokenizer
from train.config import TrainingConfig
from train.loop import Record
from train.metrics import read_metrics

SomeModel = TypeVar("SomeModel", bound=Model)

USUAL_LENGTH = 128  # tokens of a sequence with --model, where the model takes that many


def parse_job(
    parser: Parser,
    argv: Sequence[str] | None,
    *,
    pretrained: Mapping[str, Any],
    new_model: Sequence[str],
    new_tokenizer: Sequence[str],
) -> argparse.Namespace:
    """Parse the options of a job that has `--model` and `--tokenizer`.

    Args:
        parser: of the job.
        argv: the arguments; None takes those of the process.
        pretrained: the defaults that hold with `--model`.
        new_model: the options that only describe a new model.
        new_tokenizer: those of a new tokenizer.

    Raises:
        ValueError: an option is given that has no effect together with another one.
    """
    arguments = parser.parse_args(argv)
    if arguments.model is not None:
        parser.set_defaults(**pretrained)
    useless = {"model": [*new_model, *new_tokenizer], "tokenizer": new_tokenizer}
    for option, names in useless.items():
        if getattr(arguments, option) is None:
            continue
        parser.set_defaults(**dict.fromkeys(names))
        arguments = parser.parse_args(argv)
        if given := [name for name in names if getattr(arguments, name) is not None]:
            options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise ValueError(
                f"{options} {'has' if len(given) == 1 else 'have'} no effect together with "
                f"--{option}, which decides that; leave them out, or --{option}"
            )
    return arguments


def defaults_with_model(pretrained: Mapping[str, Any]) -> str:
    """What the help of a job says of them."""
    values = {**pretrained, "max_length": f"{USUAL_LENGTH}, or fewer if the model takes fewer"}
    options = (
        f"--{name.replace('_', '-')} {'that of the checkpoint' if value is None else value}"
        for name, value in values.items()
    )
    return (
        f"With --model the defaults are: {', '.join(options)}. The options of a new model and of "
        "a new tokenizer have no effect then, and are refused."
    )


def load_to_train(
    base: type[SomeModel], arguments: argparse.Namespace, **changes: Any
) -> tuple[SomeModel, Tokenizer]:
    """Load the checkpoint `--model` to train it further, and its tokenizer.

    A head that the checkpoint lacks is new, and that is printed. `--dropout`, if it is given,
    replaces the checkpoint's.

    Args:
        base: the base class of the models that the job trains, such as `BertForMaskedLM`.
        arguments: of the job.
        changes: further fields of the config to replace.

    Raises:
        CheckpointError: the checkpoint cannot be loaded, or is of a family without such a model.
        ValueError: the tokenizer has more tokens than the model, or `--max-length` is too much.
    """
    model_class = model_class_for(arguments.model, base)
    with warnings_as_notes():
        model = model_class.from_pretrained(
            arguments.model, attention=arguments.attention, **changes
        )
    tokenizer = load_tokenizer(arguments.tokenizer or arguments.model, model)
    check_vocabularies(model, tokenizer)
    fit_lengths(arguments, model, USUAL_LENGTH)
    return model, tokenizer


@contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Print the warnings of a checkpoint that is loaded, each as one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(f"note: {warning.message}")


def fit_lengths(arguments: argparse.Namespace, model: Model, usual: int) -> None:
    """Set `--max-length` if it was not given: to `usual`, or to less if the model takes less.

    Raises:
        ValueError: a length was given that is more than the model takes; T5 takes any.
    """
    longest = model.config.max_sequence_length
    if arguments.max_length is None:
        arguments.max_length = usual if longest is None else min(usual, longest)
    for name in ("max_length", "max_target_length"):
        if longest is not None and (getattr(arguments, name, None) or 0) > longest:
            raise ValueError(
                f"--{name.replace('_', '-')} {getattr(arguments, name)}: the model takes at most "
                f"{longest} tokens; choose that or less"
            )


def first_evaluation(config: TrainingConfig) -> Record:
    """The metrics of a run's evaluation at step 0, before training."""
    first = read_metrics(config.output / "metrics.jsonl")[0]
    return {n.removeprefix("eval_"): v for n, v in first.items() if n.startswith("eval_")}
