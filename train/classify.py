"""Fine-tune an encoder to classify texts: `python -m train.classify --model PATH --train FILE ...`.

FILE has a text, a tab and the name of its class on every line:

    one long string of cliches<TAB>0
    a stirring , funny and finally transporting film<TAB>1

UTF-8, without a header. What follows the last tab of a line is the label, any name without a tab:
`0`, `positive`, `very good`. White space around text and label is left out, and blank lines are
passed over. SST-2 (Socher et al. 2013) is often handed on in this form.
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

_FORM = "a line is a text, a tab and a label"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """The job, top to bottom."""
    config = training_config(arguments)
    last_checkpoint(config)  # before anything is done: an output with another run stays as it is
    examples, dev_examples = (read_labelled_text(path) for path in (arguments.train, arguments.dev))
    classes = class_names(examples)
    labels = class_numbers(examples, classes, arguments.train)
    dev_labels = class_numbers(dev_examples, classes, arguments.dev)
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

    figures = evaluate(model, dev_batches, config)
    assert figures is not None
    frequent = Counter(labels).most_common(1)[0][0]
    always = dev_labels.count(frequent) / len(dev_labels)
    print(f"\n{len(dev_labels):,} texts of {arguments.dev}   accuracy\n")
    print(f"{'this model':42}{figures['accuracy']:>8.1%}")
    print(f"{f'always {classes[frequent]!r}':42}{always:>8.1%}")
    report = {"steps": progress.step, "dev": figures, "most_frequent_class": always}
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
    """The mean loss (nats a text) and the share of texts whose likeliest class is right.

    Returns None if `should_stop` said so.
    """
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
    """A text, the name of its class, and the row of the file, counted from 1."""

    text: str
    label: str
    row: int


def read_labelled_text(path: str | Path) -> list[LabelledText]:
    """Read a file of labelled texts.

    Raises:
        ValueError: the file is missing, is not UTF-8 or holds no text, or a line has no tab, an
            empty text or an empty label, or is a header. The message names the row.
    """
    examples = [
        _labelled_text(line, row, f"{path}, row {row}")
        for row, line in numbered_lines(path)
        if line.strip(" ")
    ]
    if not examples:
        raise ValueError(f"{path} holds no text; {_FORM}")
    first = examples[0]
    if first.label.lower() == "label":
        raise ValueError(
            f"{path}, row {first.row}: {first.text!r} with the label {first.label!r} is a header, "
            "not a text; delete the line"
        )
    return examples


def class_names(examples: Sequence[LabelledText]) -> list[str]:
    """The classes of the training texts: by number if all are integers, else by alphabet.

    Raises:
        ValueError: there is only one; nothing can be learned from it.
    """
    names = {example.label for example in examples}
    if len(names) < 2:
        raise ValueError(
            f"every text has the label {examples[0].label!r}; training needs two classes or more"
        )
    if all(re.fullmatch(r"[+-]?[0-9]+", name) for name in names):
        return sorted(names, key=lambda name: (int(name), name))
    return sorted(names)


def class_numbers(
    examples: Sequence[LabelledText], classes: Sequence[str], path: str | Path
) -> list[int]:
    """The number of each text's class.

    Args:
        examples: read from `path`.
        classes: the names of the classes in their order, as :func:`class_names` gives them.
        path: for the error message.

    Raises:
        ValueError: a text is of another class. The message names its row.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    for example in examples:
        if example.label not in numbers:
            raise ValueError(
                f"{path}, row {example.row}: the label {example.label!r} is not among those of "
                f"the training file: {', '.join(classes)}"
            )
    return [numbers[example.label] for example in examples]


def _labelled_text(line: str, row: int, where: str) -> LabelledText:
    text, tab, label = line.rpartition("\t")
    if not tab:
        raise ValueError(f"{where}: there is no tab in {line!r:.60}; {_FORM}")
    text, label = text.strip(), label.strip()
    if not text:
        raise ValueError(f"{where}: the text before the tab is empty; {_FORM}")
    if not label:
        raise ValueError(f"{where}: the label after the tab is empty; {_FORM}")
    return LabelledText(text, label, row)


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
    print(f"{name}: {len(texts):,} texts ({truncated:,} cut to {arguments.max_length} tokens)")
    return LabelledBatches(
        encoding,
        labels,
        pad_token_id=tokenizer.pad_token_id,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )


def parser() -> Parser:
    """The arguments of the job."""
    parser = Parser(
        prog="python -m train.classify", description="Fine-tune an encoder to classify texts."
    )
    parser.add_argument("--train", type=Path, required=True, help="lines of text, tab, class")
    parser.add_argument("--dev", type=Path, required=True, help="the same, to score on")
    add_finetuning_arguments(parser, batch_size=32, max_length=128)
    return parser


if __name__ == "__main__":
    sys.exit(main())
