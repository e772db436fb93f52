"""The code shared by the jobs that fine-tune a pretrained model for a task that labels texts."""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from minitransformer.arguments import Parser, positive
from minitransformer.files import atomic_directory, read_json, write_json
from minitransformer.hf.checkpoint import model_class_for
from minitransformer.hub import resolve_checkpoint
from minitransformer.models.base import TaskModel
from minitransformer.models.gpt2 import GPT2Config
from minitransformer.names import listed
from minitransformer.tasks.base import check_vocabularies, load_tokenizer
from minitransformer.tokenization import Tokenizer
from train.arguments import add_training_arguments, training_config
from train.batching import LabelledBatches
from train.config import TrainingConfig
from train.loop import Data, Progress, Record, optimize_unless_plain, train
from train.metrics import draw_curve, try_to_draw
from train.pretrained import fit_lengths, warnings_as_notes

# The config fields of all families for dropout outside of the attention weights.
_DROPOUTS = ("hidden_dropout_prob", "classifier_dropout", "qa_dropout", "seq_classif_dropout")

Task = TypeVar("Task", bound=TaskModel)


def add_finetuning_arguments(parser: Parser, *, batch_size: int, max_length: int) -> None:
    """Add the arguments of every such job."""
    parser.add_argument("--model", required=True, help="a directory, or a name on the hub")
    parser.add_argument(
        "--batch-size", type=positive, default=batch_size, help="examples per batch"
    )
    parser.add_argument(
        "--max-length",
        type=positive,
        help=f"tokens per example; by default {max_length}, or fewer if the model takes fewer",
    )
    parser.set_defaults(usual_length=max_length)
    parser.add_argument("--dropout", type=float, default=0.1, help="outside of attention weights")
    parser.add_argument(
        "--attention-dropout",
        type=float,
        default=0.0,
        help="of attention weights; above 0, attention is half as fast on a CPU",
    )
    parser.add_argument("--seed", type=int, default=0, help="for the head, order, dropout")
    add_training_arguments(
        parser, epochs=3, learning_rate=1e-4, warmup=0.1, evaluate_every=100, save_every=200
    )


def classes_of_checkpoint(path: str, task: type[TaskModel]) -> list[str] | None:
    """The names of the classes of a checkpoint that has a head for the task; else None."""
    content = read_json(resolve_checkpoint(path, ("config.json",)) / "config.json")
    if model_class_for(path, task).__name__ not in (content.get("architectures") or []):
        return None
    names = content.get("id2label")
    if not isinstance(names, dict):
        return None
    return [str(names[key]) for key in sorted(names, key=lambda key: int(key))]


def match_classes(classes: list[str], stored: list[str] | None) -> list[str]:
    """The classes of the data, by the names and in the order of those of the checkpoint.

    So a checkpoint with the same classes is trained on with its head. If the data has only ids
    (0, 1, ...), their names are the checkpoint's.
    """
    if stored is None:
        return classes
    if sorted(classes) == sorted(stored):
        return stored
    if classes == [str(index) for index in range(len(stored))] and not _unnamed(stored):
        print(f"--model has names for the classes {listed(classes)}: {listed(stored)}")
        return stored
    return classes


def _unnamed(classes: list[str]) -> bool:
    return classes == [f"LABEL_{index}" for index in range(len(classes))]


def load_pretrained(
    task: type[Task], arguments: argparse.Namespace, **changes: Any
) -> tuple[Task, Tokenizer]:
    """Load the checkpoint `--model` with a head for a task, optimize it, and load its tokenizer.

    The model stays plain with `--plain`, and if a plain run is resumed.

    Args:
        task: the base class of the task's models, such as `BertForQuestionAnswering`.
        arguments: of the job.
        changes: further fields of the config to replace.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ValueError: an argument is invalid, `--max-length` is more than the model takes, or the
            tokenizer has more tokens than the model.
    """
    if arguments.seed < 0:
        raise ValueError(f"seed={arguments.seed} must not be negative")
    torch.manual_seed(arguments.seed)
    model_class = model_class_for(arguments.model, task)
    if issubclass(model_class.config_class, GPT2Config):
        # transformers finds the last token of a text by it; our models by the mask.
        changes["pad_token_id"] = Tokenizer.from_pretrained(arguments.model).padding_id
    known = {field.name for field in fields(model_class.config_class)}
    changes |= {name: arguments.dropout for name in _DROPOUTS if name in known}
    changes["attention_probs_dropout_prob"] = arguments.attention_dropout
    with warnings_as_notes():
        model = model_class.from_pretrained(
            arguments.model, attention=arguments.attention, **changes
        )
    if "id2label" in changes:
        _renew_head(model, arguments.model, [*changes["id2label"].values()])
    fit_lengths(arguments, model, arguments.usual_length)
    tokenizer = load_tokenizer(arguments.model, model)
    check_vocabularies(model, tokenizer)
    # GPT-2's tokenizer has no padding token; the saved one names the token that we pad with.
    tokenizer.pad_token = tokenizer.id_to_token(tokenizer.padding_id)
    tokenizer.model_max_length = model.config.max_sequence_length
    optimize_unless_plain(model, training_config(arguments), plain=arguments.plain)
    # Again, so that dropout does not depend on how the head was initialized.
    torch.manual_seed(arguments.seed)
    return model, tokenizer


def _renew_head(model: TaskModel, path: str, classes: list[str]) -> None:
    """Initialize the head anew if the checkpoint's is for other classes, and say so."""
    stored = classes_of_checkpoint(path, type(model))
    if stored is None or stored == classes:
        return
    if _unnamed(stored) and len(stored) == len(classes):
        print(f"--model does not name its classes: its head is kept, for {listed(classes)}")
        return
    print(
        f"--model classifies {listed(stored)}, the training data {listed(classes)}: the head is new"
    )
    for module in model.children():
        if module is not model.backbone:
            model.init_weights(module)


def finetune(
    model: Task,
    tokenizer: Tokenizer,
    batches: Data,
    config: TrainingConfig,
    arguments: argparse.Namespace,
    *,
    evaluate: Callable[[Callable[[], bool]], Record | None],
    fingerprint: Record,
    unit: str,
) -> Progress:
    """Train, then save the model, its tokenizer and a picture of the loss curve.

    Args:
        model, tokenizer: from :func:`load_pretrained`.
        batches: the training data.
        config, arguments: of the job.
        evaluate: as in :func:`train.loop.train`; its metrics have short names, such as "f1", by
            which `--best-metric` can choose.
        fingerprint: further settings that must be the same when the run is resumed.
        unit: what the loss is averaged over, for the label of the curve.

    Returns:
        The progress; if its `stop_signal` is not None, only a checkpoint was saved.
    """
    progress = train(
        model,
        batches,
        config,
        evaluate=evaluate,
        tokenizer=tokenizer,
        fingerprint={
            "model": {"path": str(arguments.model), **model.config.__dict__},
            "batch_size": arguments.batch_size,
            "seed": arguments.seed,
            **fingerprint,
        },
    )
    if progress.stop_signal is not None:
        print(f"stopped after step {progress.step}; continue with the same command and --resume")
        return progress
    tokenizer.save_pretrained(config.output)
    model.cpu().save_pretrained(config.output)
    model.to(config.device)
    curve = config.output / "metrics.jsonl", config.output / "loss.png"
    try_to_draw(draw_curve, *curve, None, unit)
    return progress


def labelled_logits(
    model: TaskModel,
    batches: LabelledBatches,
    config: TrainingConfig,
    should_stop: Callable[[], bool],
) -> Iterator[tuple[np.ndarray, Tensor, Tensor]]:
    """Run a classifier on every text, from short to long, until `should_stop` returns True.

    Yields:
        For each batch the indices of its texts, (B,), the logits in float32 on the CPU, and the
        labels.
    """
    model.eval()
    device = next(model.parameters()).device
    for indices, batch in tqdm(
        batches.by_length(), total=batches.num_batches, desc="evaluating", leave=False, unit="batch"
    ):
        if should_stop():
            return
        labels = batch.pop("labels")
        with torch.inference_mode(), config.autocast():
            output: Any = model(**{n: t.to(device) for n, t in batch.items()})
        yield indices, output.logits.float().cpu(), labels


def write_results(output: Path, files: dict[str, Any]) -> None:
    """Write files to the directory of a run, atomically, and report.json last.

    Args:
        output: the directory.
        files: by name: of a `.jsonl` file the objects, one a line; of a `.json` file the object;
            else the text.
    """
    with atomic_directory(output, last="report.json") as directory:
        for name, content in files.items():
            if name.endswith(".json"):
                write_json(directory / name, content)
                continue
            if name.endswith(".jsonl"):
                content = "".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in content)
            (directory / name).write_text(content, encoding="utf-8")
