"""Fine-tune a model to classify texts: `python -m train.classify --model PATH --train FILE ...`.

FILE is a table with a text and a label in each row, see :mod:`train.labelled_text`. A label is a
class; with `--multi-label` or `--label-columns` any number of labels; with `--regression` a number:
see :mod:`train.classification`.

N texts, C classes.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitransformer.arguments import Parser
from minitransformer.models.base import SequenceClassifier
from minitransformer.names import listed
from minitransformer.tokenization import Tokenizer
from train.arguments import run_job, training_config
from train.batching import LabelledBatches
from train.classification import (
    MultiLabel,
    Problem,
    Regression,
    SingleLabel,
    class_names,
    class_table,
)
from train.config import TrainingConfig
from train.finetuning import (
    add_finetuning_arguments,
    classes_of_checkpoint,
    finetune,
    labelled_logits,
    load_pretrained,
    match_classes,
    write_results,
)
from train.labelled_text import (
    Columns,
    LabelledText,
    class_name,
    number,
    read_labelled_text,
    read_texts,
    several_names,
)
from train.loop import Record, last_checkpoint
from train.metrics import try_to_draw


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Run the job, step by step."""
    config = training_config(arguments)
    last_checkpoint(config)  # raises at once if --output contains another run
    columns = chosen_columns(arguments)
    examples, dev_examples = (
        read_labelled_text(path, columns, _label_reader(arguments))
        for path in (arguments.train, arguments.dev)
    )
    unlabelled = read_texts(arguments.predict, columns) if arguments.predict else []
    problem = problem_of(examples, arguments)
    targets = problem.targets(examples, arguments.train)
    dev_targets = problem.targets(dev_examples, arguments.dev)
    print(problem.summary(examples))
    model, tokenizer = load_pretrained(
        SequenceClassifier,
        arguments,
        id2label=dict(enumerate(problem.classes)),
        problem_type=problem.problem_type,
    )
    batches = _batches(examples, targets, tokenizer, arguments, "train")
    dev_batches = _batches(dev_examples, dev_targets, tokenizer, arguments, "dev")
    progress = finetune(
        model,
        tokenizer,
        batches,
        config,
        arguments,
        evaluate=lambda should_stop: evaluate(model, problem, dev_batches, config, should_stop),
        fingerprint={
            "checksum of the training texts": batches.checksum(),
            "checksum of the dev texts": dev_batches.checksum(),
        },
        unit="label" if isinstance(problem, MultiLabel) else "text",
    )
    if progress.stop_signal is not None:
        return 128 + progress.stop_signal

    prediction = predict(model, dev_batches, config)
    assert prediction is not None
    logits, labels, loss = prediction
    metrics = {"loss": loss, **problem.metrics(logits, labels)}
    details = problem.details(logits, labels)
    baseline = problem.baseline(targets, labels)
    files = {
        "predictions.jsonl": _rows(dev_examples, problem, logits, dev_targets),
        "report.json": {
            "steps": progress.step,
            "dev": metrics,
            "constant_answer": baseline,
            **details,
        },
    }
    if unlabelled:
        # Labels are needed for batches alone; any will do.
        more = _batches(unlabelled, [targets[0]] * len(unlabelled), tokenizer, arguments, "predict")
        answered = predict(model, more, config)
        assert answered is not None
        files["predicted.jsonl"] = _rows(unlabelled, problem, answered[0])
    write_results(config.output, files)
    picture = config.output / problem.picture
    try_to_draw(problem.draw, logits, labels, picture)
    print(f"\n{len(dev_examples):,} texts of {arguments.dev}\n")
    print(_summary(metrics, baseline, details))
    names = ", ".join(["loss.png", *files, picture.name])
    print(f"\nthe model, its tokenizer, {names}: {config.output}")
    print(f"try it: minitransformer classify {config.output} 'a text'")
    return 0


def chosen_columns(arguments: argparse.Namespace) -> Columns:
    """The columns that the options name.

    Raises:
        ValueError: two options contradict each other.
    """
    several = arguments.multi_label or arguments.label_columns
    if arguments.regression and (several or arguments.label_names):
        other = "--label-names" if arguments.label_names else "several labels"
        raise ValueError(f"--regression is about a number, {other} about classes: choose one")
    if arguments.label_column and arguments.label_columns:
        raise ValueError("--label-column and --label-columns exclude each other: choose one")
    return Columns(
        text=arguments.text_column,
        pair=arguments.text_pair_column,
        label=arguments.label_column,
        labels=_names(arguments.label_columns, "--label-columns"),
    )


def problem_of(examples: Sequence[LabelledText], arguments: argparse.Namespace) -> Problem:
    """What is to be predicted, with the classes of the training texts."""
    if arguments.regression:
        return Regression()
    classes = [*_names(arguments.label_names, "--label-names")]
    if not classes:
        classes = [*_names(arguments.label_columns, "--label-columns")]
    if not classes:
        classes = class_names(examples, arguments.train)
        classes = match_classes(classes, classes_of_checkpoint(arguments.model, SequenceClassifier))
    several = arguments.multi_label or arguments.label_columns
    return MultiLabel(classes) if several else SingleLabel(classes)


def predict(
    model: SequenceClassifier,
    batches: LabelledBatches,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[Tensor, Tensor, float] | None:
    """The logits of N texts, (N, C) float32, their labels, and the mean loss (nats per label).

    None if `should_stop` returned True.
    """
    total, count = 0.0, 0
    indices, logits, labels = [], [], []
    for some, scores, targets in labelled_logits(model, batches, config, should_stop):
        shape = scores.shape if targets.is_floating_point() else targets.shape  # numbers: (B, 1)
        loss, number_of_labels = model.classification_loss_sum(scores, targets.reshape(shape))
        total += float(loss)
        count += int(number_of_labels)
        indices.append(torch.from_numpy(some))
        logits.append(scores)
        labels.append(targets)
    if should_stop():
        return None
    order = torch.cat(indices).argsort()
    return torch.cat(logits)[order], torch.cat(labels)[order], total / max(1, count)


def evaluate(
    model: SequenceClassifier,
    problem: Problem,
    batches: LabelledBatches,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Record | None:
    """The mean loss (nats per label) and the metrics; None if `should_stop` returned True."""
    prediction = predict(model, batches, config, should_stop)
    if prediction is None:
        return None
    logits, labels, loss = prediction
    return {"loss": loss, **problem.metrics(logits, labels)}


def _label_reader(arguments: argparse.Namespace) -> Callable[[object], object]:
    if arguments.regression:
        return number
    return several_names if arguments.multi_label else class_name


def _names(option: str | None, name: str) -> tuple[str, ...]:
    """The names in the value of an option, separated by commas."""
    names = tuple(each.strip() for each in (option or "").split(","))
    if option is not None and ("" in names or len(set(names)) < len(names)):
        raise ValueError(
            f"{name} must be different names, separated by commas; got {listed(names)}"
        )
    return names if option else ()


def _batches(
    examples: Sequence[LabelledText],
    targets: list[float] | list[Tensor],
    tokenizer: Tokenizer,
    arguments: argparse.Namespace,
    name: str,
) -> LabelledBatches:
    texts = [example.text for example in examples]
    pairs = [example.pair for example in examples if example.pair is not None] or None
    if pairs and not tokenizer.backend.num_special_tokens_to_add(True):
        raise ValueError(
            "--text-pair-column: the tokenizer of --model puts nothing between two texts; choose "
            "an encoder such as BERT or RoBERTa, or join the texts in one column"
        )
    encoding = tokenizer(texts, pairs, truncation=True, max_length=arguments.max_length)
    truncated = sum(bool(text.overflowing) for text in encoding.encodings)
    limit, kind = arguments.max_length, "pairs of texts" if pairs else "texts"
    print(f"{name}: {len(texts):,} {kind} ({truncated:,} truncated to {limit} tokens)")
    return LabelledBatches(
        encoding,
        targets,
        pad_token_id=tokenizer.pad_token_id,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )


def _rows(
    examples: Sequence[LabelledText],
    problem: Problem,
    logits: Tensor,
    targets: Sequence[Any] | None = None,
) -> list[Record]:
    """The lines of predictions.jsonl, with the labels if there are any."""
    rows = []
    for index, answer in enumerate(problem.answers(logits)):
        row: Record = {"text": examples[index].text}
        if examples[index].pair is not None:
            row["text_pair"] = examples[index].pair
        if targets is not None:
            row["label"] = problem.label(targets[index])
        rows.append({**row, **answer})
    return rows


def _summary(metrics: Record, baseline: Record, details: Record) -> str:
    """The metrics beside those of a constant answer, then the scores of each class."""
    lines = [f"{'':18}{'this model':>10}   constant answer"]
    for name, value in metrics.items():
        constant = f"{baseline[name]:18.4f}" if name in baseline else ""
        lines.append(f"{name:18}{value:>10.4f}{constant}")
    if "by_class" in details:
        lines += ["", class_table(details["by_class"])]
    return "\n".join(lines)


def parser() -> Parser:
    """The parser of the job's arguments."""
    parser = Parser(
        prog="python -m train.classify", description="Fine-tune a model to classify texts."
    )
    add = parser.add_argument
    add(
        "--train", type=Path, required=True, help="CSV, TSV, JSON lines, or lines of text TAB class"
    )
    add("--dev", type=Path, required=True, help="the same, to evaluate on")
    add("--predict", type=Path, help="texts without labels, which are classified at the end")
    add("--text-column", metavar="NAME", help="column of the text, if its name is unusual")
    add("--text-pair-column", metavar="NAME", help="column of a second text, as in NLI")
    add("--label-column", metavar="NAME", help="column of the label, if its name is unusual")
    add("--multi-label", action="store_true", help="any number of labels a text: a,b,c")
    add("--label-columns", metavar="A,B,C", help="columns of 0 and 1, one for each label")
    add("--label-names", metavar="A,B,C", help="names of the classes 0, 1, 2, or their order")
    add("--regression", action="store_true", help="the label is a number, which is predicted")
    add_finetuning_arguments(parser, batch_size=32, max_length=128)
    return parser


if __name__ == "__main__":
    sys.exit(main())
