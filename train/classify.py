"""Fine-tune an encoder to classify texts: `python -m train.classify --model PATH --train FILE ...`.

FILE has a text, a tab and the name of its class on every line, as :mod:`train.labelled_text` says.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from minitransformer.arguments import Parser
from minitransformer.models.classification import SequenceClassification
from minitransformer.models.heads import summed_cross_entropy
from minitransformer.tokenization import Tokenizer
from train.arguments import run_job, training_config
from train.config import TrainingConfig
from train.finetuning import (
    add_finetuning_arguments,
    finetune,
    labelled_logits,
    load_pretrained,
    write_results,
)
from train.labelled_batches import LabelledBatches
from train.labelled_text import LabelledText, class_names, class_numbers, read_labelled_text
from train.loop import Record, last_checkpoint


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
        SequenceClassification,
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
    model: SequenceClassification,
    batches: LabelledBatches,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Record | None:
    """The mean loss (nats a text) and the share of texts whose likeliest class is right.

    Returns None if `should_stop` said so.
    """
    total, right, count = 0.0, 0, 0
    for _, logits, labels in labelled_logits(model, batches, config, should_stop):
        loss, _ = summed_cross_entropy(logits, labels)
        total += float(loss)
        right += int((logits.argmax(dim=-1) == labels).sum())
        count += len(labels)
    if should_stop():
        return None
    return {"loss": total / count, "accuracy": right / count}


def _batches(
    examples: Sequence[LabelledText],
    labels: list[int],
    tokenizer: Tokenizer,
    arguments: argparse.Namespace,
    name: str,
) -> LabelledBatches:
    texts = [example.text for example in examples]
    encoding = tokenizer(texts, truncation=True, max_length=arguments.max_length)
    truncated = sum(bool(row.overflowing) for row in encoding.encodings)
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
