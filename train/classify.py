"""Fine-tune a model to classify texts: `python -m train.classify --model PATH --train FILE ...`.

Each line of FILE contains a text, a tab and the name of its class:

    one long string of cliches<TAB>0
    a stirring , funny and finally transporting film<TAB>1

The file is UTF-8 and has no header and no quotes. The label can be any name without a tab, a comma,
a semicolon or a vertical bar, such as `0`, `positive` or `very good`. White space around text and
label is removed, and blank lines are skipped. SST-2 (Socher et al. 2013) is often distributed in
this form.
"""

import argparse
import re
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from minitransformer.arguments import Parser
from minitransformer.models.base import SequenceClassifier
from minitransformer.models.losses import cross_entropy_sum
from minitransformer.names import listed, shortened
from minitransformer.tokenization import Tokenizer
from train.arguments import run_job, training_config
from train.batching import LabelledBatches
from train.config import TrainingConfig
from train.finetuning import (
    add_finetuning_arguments,
    finetune,
    labelled_logits,
    load_pretrained,
    write_results,
)
from train.loop import Record, last_checkpoint
from train.text import numbered_lines

_FORMAT = "a line must be a text, a tab and a label"
_COLUMN_NAMES = {"text", "sentence", "review", "label", "labels", "class", "category", "topic"}
_COLUMN_NAMES |= {"intent", "rating", "score", "sentiment", "target"}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Run the job, step by step."""
    config = training_config(arguments)
    last_checkpoint(config)  # raises at once if --output contains another run
    examples, dev_examples = (read_labelled_text(path) for path in (arguments.train, arguments.dev))
    classes = class_names(examples, arguments.train)
    labels = class_ids(examples, classes, arguments.train)
    counts = Counter(labels)
    sizes = [f"{name} ({counts[number]:,})" for number, name in enumerate(classes)]
    print(f"{len(classes)} classes, with their number of texts: {listed(sizes)}")
    dev_labels = class_ids(dev_examples, classes, arguments.dev)
    model, tokenizer = load_pretrained(
        SequenceClassifier,
        arguments,
        id2label=dict(enumerate(classes)),
        problem_type="single_label_classification",
    )
    batches = _batches(examples, labels, tokenizer, arguments, "train")
    dev_batches = _batches(dev_examples, dev_labels, tokenizer, arguments, "dev")
    progress = finetune(
        model,
        tokenizer,
        batches,
        config,
        arguments,
        evaluate=lambda should_stop: evaluate(model, dev_batches, config, should_stop),
        fingerprint={
            "checksum of the training texts": batches.checksum(),
            "checksum of the dev texts": dev_batches.checksum(),
        },
        unit="text",
    )
    if progress.stop_signal is not None:
        return 128 + progress.stop_signal

    metrics = evaluate(model, dev_batches, config)
    assert metrics is not None
    frequent = counts.most_common(1)[0][0]
    baseline = dev_labels.count(frequent) / len(dev_labels)
    print(f"\n{len(dev_labels):,} texts of {arguments.dev}   accuracy\n")
    print(f"{'this model':42}{metrics['accuracy']:>8.1%}")
    print(f"{f'always {classes[frequent]!r}':42}{baseline:>8.1%}")
    report = {"steps": progress.step, "dev": metrics, "most_frequent_class": baseline}
    write_results(config.output, {"report.json": report})
    print(f"\nthe model, its tokenizer, loss.png, report.json: {config.output}")
    print(f"try it: pipeline('text-classification', '{config.output}')('...')")
    return 0


def evaluate(
    model: SequenceClassifier,
    batches: LabelledBatches,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Record | None:
    """The mean loss (nats per text) and the accuracy; None if `should_stop` returned True."""
    total, right, count = 0.0, 0, 0
    for _, logits, labels in labelled_logits(model, batches, config, should_stop):
        loss, _ = cross_entropy_sum(logits, labels)
        total += float(loss)
        right += int((logits.argmax(dim=-1) == labels).sum())
        count += len(labels)
    if should_stop():
        return None
    return {"loss": total / count, "accuracy": right / count}


@dataclass(frozen=True, slots=True)
class LabelledText:
    """A text, the name of its class, and its line in the file, counted from 1."""

    text: str
    label: str
    line_number: int


def read_labelled_text(path: str | Path) -> list[LabelledText]:
    """Read a file of labelled texts.

    Raises:
        ValueError: the file is missing, is not UTF-8 or contains no text, or a line has no tab or
            several, an empty text or an empty label. The message names the line.
    """
    examples = [
        _labelled_text(line, line_number, f"{path}, line {line_number}")
        for line_number, line in numbered_lines(path)
        if line.strip(" ")
    ]
    if not examples:
        raise ValueError(f"{path} contains no text; {_FORMAT}")
    return examples


def class_names(examples: Sequence[LabelledText], path: str | Path) -> list[str]:
    """The classes of the training texts, sorted as integers if all are integers, else as text.

    The first line is taken for a header if no other line has its label, and that label is the usual
    name of a column or the only one that occurs once.

    Args:
        examples: read from `path`.
        path: for the error message.

    Raises:
        ValueError: there is only one class; the labels are in front of the texts, because there are
            more different labels than different texts; a label is in quotes, or several in one; or
            the first line is a header.
    """
    names = Counter(example.label for example in examples)
    first, texts = examples[0], len({example.text for example in examples})
    if len(names) < 2:
        raise ValueError(
            f"{path}: every text has the label {shortened(first.label)}; training needs at least "
            "two classes"
        )
    if len(names) > texts:
        raise ValueError(
            f"{path}: the first column looks like the label, because it has {texts:,} different "
            f"values and the last one {len(names):,}; {_FORMAT}. To swap them: "
            "awk -F'\\t' -v OFS='\\t' '{print $2, $1}'"
        )
    for example in examples:
        _check_label(example.label, f"{path}, line {example.line_number}")
    only = len(names) > 2 and [*names.values()].count(1) == 1
    if names[first.label] == 1 and (only or first.label.lower() in _COLUMN_NAMES):
        raise ValueError(
            f"{path}, line {first.line_number}: {shortened(first.text)} with the label "
            f"{shortened(first.label)}, which no other line has, looks like a header; delete the "
            "line, or, if it is a text, move it below another one"
        )
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def class_ids(
    examples: Sequence[LabelledText], classes: Sequence[str], path: str | Path
) -> list[int]:
    """The id of each text's class: its index in `classes`.

    Args:
        examples: read from `path`.
        classes: as :func:`class_names` returns them.
        path: for the error message.

    Raises:
        ValueError: a text has another class. The message names its line.
    """
    ids = {name: index for index, name in enumerate(classes)}
    for example in examples:
        if example.label not in ids:
            raise ValueError(
                f"{path}, line {example.line_number}: the label {shortened(example.label)} is not "
                f"one of those in the training file: {listed(classes)}"
            )
    return [ids[example.label] for example in examples]


def _labelled_text(line: str, line_number: int, where: str) -> LabelledText:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) == 1:
        raise ValueError(
            f"{where}: there is no tab in {shortened(line)}; {_FORMAT}. Convert a CSV file to "
            "columns with a tab between them, and no quotes"
        )
    if len(fields) > 2:
        raise ValueError(
            f"{where}: there are {len(fields)} columns in {shortened(line)}; {_FORMAT}. To keep "
            "two columns: cut -f2,3"
        )
    text, label = fields
    if not text:
        raise ValueError(f"{where}: the text before the tab is empty; {_FORMAT}")
    if not label:
        raise ValueError(f"{where}: the label after the tab is empty; {_FORMAT}")
    return LabelledText(text, label, line_number)


def _check_label(label: str, where: str) -> None:
    if label[0] == label[-1] == '"':
        raise ValueError(
            f"{where}: the label {shortened(label)} is in quotes, which would be read as part of "
            "it, and of the texts; save the file without quotes"
        )
    if re.search("[,;|]", label):
        raise ValueError(
            f"{where}: {shortened(label)} looks like several labels, which are not supported; give "
            "every text one label, whose name has no comma, semicolon or vertical bar"
        )


def _batches(
    examples: Sequence[LabelledText],
    labels: list[int],
    tokenizer: Tokenizer,
    arguments: argparse.Namespace,
    name: str,
) -> LabelledBatches:
    texts = [example.text for example in examples]
    encoding = tokenizer(texts, truncation=True, max_length=arguments.max_length)
    truncated = sum(bool(text.overflowing) for text in encoding.encodings)
    limit = arguments.max_length
    print(f"{name}: {len(texts):,} texts ({truncated:,} truncated to {limit} tokens)")
    return LabelledBatches(
        encoding,
        labels,
        pad_token_id=tokenizer.pad_token_id,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )


def parser() -> Parser:
    """The parser of the job's arguments."""
    parser = Parser(
        prog="python -m train.classify", description="Fine-tune a model to classify texts."
    )
    parser.add_argument("--train", type=Path, required=True, help="lines of text, tab, class")
    parser.add_argument("--dev", type=Path, required=True, help="the same, to evaluate on")
    add_finetuning_arguments(parser, batch_size=32, max_length=128)
    return parser


if __name__ == "__main__":
    sys.exit(main())
