"""Fine-tune an encoder to find entities: `python -m train.tag --model PATH --train FILE ...`.

Each line of FILE contains a word and its tag, or is a JSON object with the words and tags of a
sentence; see :mod:`train.conll`.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from minitransformer.arguments import Parser
from minitransformer.models.bert import BertForTokenClassification
from minitransformer.models.losses import cross_entropy_sum
from minitransformer.tasks.tag_schemes import OUTSIDE, TagScheme
from minitransformer.tokenization import Tokenizer
from train.arguments import run_job, training_config
from train.batching import LabelledBatches
from train.config import TrainingConfig
from train.conll import (
    Alignment,
    Sentence,
    align_words,
    count_missing_beginnings,
    read_sentences,
    tag_ids,
    tag_names,
    tag_scheme,
)
from train.entities import Score, score_entities
from train.finetuning import (
    add_finetuning_arguments,
    classes_of_checkpoint,
    finetune,
    labelled_logits,
    load_pretrained,
    match_classes,
    write_results,
)
from train.loop import Record, last_checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """Run the job, step by step."""
    config = training_config(arguments)
    last_checkpoint(config)  # raises at once if --output contains another run
    names = [name.strip() for name in (arguments.tag_names or "").split(",") if name.strip()]
    sentences, dev_sentences = (
        read_sentences(path, names) for path in (arguments.train, arguments.dev)
    )
    scheme = tag_scheme(sentences, arguments.train)
    stored = classes_of_checkpoint(arguments.model, BertForTokenClassification)
    tags = match_classes(tag_names(sentences, scheme, arguments.train), stored)
    labels = tag_ids(sentences, tags, arguments.train)
    dev_labels = tag_ids(dev_sentences, tags, arguments.dev)
    model, tokenizer = load_pretrained(
        BertForTokenClassification, arguments, id2label=dict(enumerate(tags))
    )
    data = TaggedSentences(sentences, labels, scheme, tokenizer, arguments)
    dev_data = TaggedSentences(dev_sentences, dev_labels, scheme, tokenizer, arguments)
    print(f"tags: {len(tags)}, scheme {scheme.name}")
    print(f"train: {data.summary()}\ndev: {dev_data.summary()}")
    progress = finetune(
        model,
        tokenizer,
        data.batches,
        config,
        arguments,
        evaluate=lambda should_stop: evaluate(model, dev_data, config, should_stop),
        fingerprint={
            "checksum of the training sentences": data.batches.checksum(),
            "checksum of the dev sentences": dev_data.batches.checksum(),
        },
        unit="word",
    )
    if progress.stop_signal is not None:
        return 128 + progress.stop_signal

    prediction = predict(model, dev_data, config)
    assert prediction is not None
    predicted_tags, loss = prediction
    scores = score_entities([s.tags for s in dev_sentences], predicted_tags, scheme)
    accuracy = word_accuracy(dev_sentences, predicted_tags)
    baseline = word_accuracy(dev_sentences, [[OUTSIDE] * len(s.words) for s in dev_sentences])
    print(f"\nentities of {len(dev_sentences):,} sentences of {arguments.dev}\n")
    print(scores.table())
    print(f"\naccuracy of the tags of words: {accuracy:.2%}; if all were O: {baseline:.2%}")
    report = {
        "steps": progress.step,
        "loss": loss,
        **_metrics(scores.micro),
        "by_type": {name: _metrics(score) for name, score in scores.by_type.items()},
        "word_accuracy": accuracy,
        "word_accuracy_of_only_o": baseline,
    }
    files = {
        "predictions.conll": _as_columns(dev_sentences, predicted_tags),
        "predictions.jsonl": [
            {"tokens": sentence.words, "tags": sentence.tags, "predicted": found}
            for sentence, found in zip(dev_sentences, predicted_tags, strict=True)
        ],
        "report.json": report,
    }
    write_results(config.output, files)
    print(f"\nthe model, its tokenizer, loss.png, {', '.join(files)}: {config.output}")
    print(f"try it: pipeline('token-classification', '{config.output}')('...')")
    return 0


class TaggedSentences:
    """Tokenized sentences, in batches, and the alignment of their tokens and words.

    Args:
        sentences: words and tags.
        labels: for each sentence the ids of its tags.
        scheme: of the tags.
        tokenizer: the model's.
        arguments: of the job.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        labels: Sequence[Sequence[int]],
        scheme: TagScheme,
        tokenizer: Tokenizer,
        arguments: argparse.Namespace,
    ) -> None:
        encoding = tokenizer(
            [sentence.text for sentence in sentences],
            truncation=True,
            max_length=arguments.max_length,
        )
        self.sentences = sentences
        self.scheme = scheme
        self.alignments: list[Alignment] = [
            align_words(encoding, index, sentence.words) for index, sentence in enumerate(sentences)
        ]
        self.batches = LabelledBatches(
            encoding,
            [a.token_labels(ids) for a, ids in zip(self.alignments, labels, strict=True)],
            pad_token_id=tokenizer.pad_token_id,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
        )

    def summary(self) -> str:
        """One line with the numbers of sentences and words, and of words that were lost."""
        missing = count_missing_beginnings(self.sentences, self.scheme)
        words = sum(len(sentence.words) for sentence in self.sentences)
        return (
            f"{len(self.sentences):,} sentences with {words:,} words "
            f"({sum(a.truncated for a in self.alignments):,} truncated, "
            f"{sum(a.dropped for a in self.alignments):,} without a token), "
            f"{missing:,} entities whose first tag is not B-, S- or U-"
        )


def predict(
    model: BertForTokenClassification,
    data: TaggedSentences,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[list[list[str]], float] | None:
    """Predict a tag for each word of each sentence; also returns the mean loss (nats per word).

    A word gets the tag of its first token, or O if it was truncated or has no token. Returns None
    if `should_stop` returned True.
    """
    tags: list[list[str]] = [[] for _ in data.sentences]
    [outside] = [number for number, name in model.config.id2label.items() if name == OUTSIDE]
    total, count = 0.0, 0
    for indices, logits, labels in labelled_logits(model, data.batches, config, should_stop):
        loss, labelled = cross_entropy_sum(logits, labels)
        total += float(loss)
        count += int(labelled)
        for index, token_classes in zip(indices, logits.argmax(dim=-1).tolist(), strict=True):
            classes = data.alignments[index].word_values(token_classes, missing=outside)
            tags[index] = [model.config.id2label[each] for each in classes]
    if should_stop():
        return None
    return tags, total / max(1, count)


def evaluate(
    model: BertForTokenClassification,
    data: TaggedSentences,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Record | None:
    """The loss, and precision, recall and F1 of entities; None if `should_stop` returned True."""
    prediction = predict(model, data, config, should_stop)
    if prediction is None:
        return None
    tags, loss = prediction
    scores = score_entities([s.tags for s in data.sentences], tags, data.scheme)
    return {"loss": loss, **_metrics(scores.micro)}


def _metrics(score: Score) -> Record:
    return {
        "precision": score.precision,
        "recall": score.recall,
        "f1": score.f1,
        "entities": score.gold,
    }


def word_accuracy(sentences: Sequence[Sentence], tags: Sequence[Sequence[str]]) -> float:
    """The fraction of words with the correct tag; high even for poor taggers, as most are O."""
    correct = [
        gold == predicted
        for sentence, predictions in zip(sentences, tags, strict=True)
        for gold, predicted in zip(sentence.tags, predictions, strict=True)
    ]
    return sum(correct) / len(correct)


def _as_columns(sentences: Sequence[Sentence], tags: Sequence[Sequence[str]]) -> str:
    """Lines of word, tag and predicted tag, which conlleval reads."""
    blocks = (
        "".join(f"{row}\n" for row in map("\t".join, zip(s.words, s.tags, found, strict=True)))
        for s, found in zip(sentences, tags, strict=True)
    )
    return "\n".join(blocks)


def parser() -> Parser:
    """The parser of the job's arguments."""
    parser = Parser(prog="python -m train.tag", description="Fine-tune an encoder on entities.")
    parser.add_argument(
        "--train", type=Path, required=True, help="lines of word, tab, tag; or JSON lines"
    )
    parser.add_argument("--dev", type=Path, required=True, help="the same, to evaluate on")
    parser.add_argument(
        "--tag-names",
        metavar="O,B-A,I-A",
        help="of the tags 0, 1, 2, ..., if the files have numbers",
    )
    add_finetuning_arguments(parser, batch_size=32, max_length=128)
    return parser


if __name__ == "__main__":
    sys.exit(main())
