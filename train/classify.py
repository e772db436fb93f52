"""Fine-tune an encoder to classify texts: `python -m train.classify --model PATH --train FILE ...`.

Each line of FILE contains a text, a tab and the name of its class:

    one long string of cliches<TAB>0
    a stirring , funny and finally transporting film<TAB>1

The file is UTF-8 and has no header. The label is what follows the last tab of a line; it can be any
name without a tab, such as `0`, `positive` or `very good`. White space around text and label is
removed, and blank lines are skipped. SST-2 (Socher et al. 2013) is often distributed in this form.
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Run the job, step by step."""
    config = training_config(arguments)
    last_checkpoint(config)  # raises at once if --output contains another run
    examples, dev_examples = (read_labelled_text(path) for path in (arguments.train, arguments.dev))
    classes = class_names(examples)
    labels = class_ids(examples, classes, arguments.train)
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
    frequent = Counter(labels).most_common(1)[0][0]
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
        ValueError: the file is missing, is not UTF-8 or contains no text, or a line has no tab, an
            empty text or an empty label, or is a header. The message names the line.
    """
    examples = [
        _labelled_text(line, line_number, f"{path}, line {line_number}")
        for line_number, line in numbered_lines(path)
        if line.strip(" ")
    ]
    if not examples:
        raise ValueError(f"{path} contains no text; {_FORMAT}")
    first = examples[0]
    if first.label.lower() == "label":
        raise ValueError(
            f"{path}, line {first.line_number}: {first.text!r} with the label {first.label!r} is a "
            "header, not a text; delete the line"
        )
    return examples


def class_names(examples: Sequence[LabelledText]) -> list[str]:
    """The classes of the training texts, sorted as integers if all are integers, else as text.

    Raises:
        ValueError: there is only one class.
    """
    names = {example.label for example in examples}
    if len(names) < 2:
        raise ValueError(
            f"every text has the label {examples[0].label!r}; training needs at least two classes"
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
                f"{path}, line {example.line_number}: the label {example.label!r} is not one of "
                f"those in the training file: {', '.join(classes)}"
            )
    return [ids[example.label] for example in examples]


def _labelled_text(line: str, line_number: int, where: str) -> LabelledText:
    text, tab, label = line.rpartition("\t")
    if not tab:
        raise ValueError(f"{where}: there is no tab in {line!r:.60}; {_FORMAT}")
    text, label = text.strip(), label.strip()
    if not text:
        raise ValueError(f"{where}: the text before the tab is empty; {_FORMAT}")
    if not label:
        raise ValueError(f"{where}: the label after the tab is empty; {_FORMAT}")
    return LabelledText(text, label, line_number)


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
        prog="python -m train.classify", description="Fine-tune an encoder to classify texts."
    )
    parser.add_argument("--train", type=Path, required=True, help="lines of text, tab, class")
    parser.add_argument("--dev", type=Path, required=True, help="the same, to evaluate on")
    add_finetuning_arguments(parser, batch_size=32, max_length=128)
    return parser


if __name__ == "__main__":
    sys.exit(main())
