"""Fine-tune an encoder to find entities: `python -m train.tag --model PATH --train FILE ...`.

FILE has a word and its tag on every line, as :mod:`train.conll` says.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from minitransformer.arguments import Parser
from minitransformer.models.bert import BertForTokenClassification
from minitransformer.models.losses import cross_entropy_sum
from minitransformer.tokenization import Tokenizer
from train.arguments import run_job, training_config
from train.batching import LabelledBatches
from train.config import TrainingConfig
from train.conll import (
    Alignment,
    Sentence,
    align_words,
    count_missing_beginnings,
    read_conll,
    tag_names,
    tag_numbers,
)
from train.entities import Score, score_entities
from train.finetuning import (
    add_finetuning_arguments,
    finetune,
    labelled_logits,
    load_pretrained,
    write_results,
)
from train.loop import Record, last_checkpoint


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """The job, top to bottom."""
    config = training_config(arguments)
    last_checkpoint(config)  # before anything is done: an output with another run stays as it is
    sentences, dev_sentences = (read_conll(path) for path in (arguments.train, arguments.dev))
    tags = tag_names(sentences)
    labels = tag_numbers(sentences, tags, arguments.train)
    dev_labels = tag_numbers(dev_sentences, tags, arguments.dev)
    model, tokenizer = load_pretrained(
        BertForTokenClassification, arguments, id2label=dict(enumerate(tags))
    )
    data = TaggedSentences(sentences, labels, tokenizer, arguments)
    dev_data = TaggedSentences(dev_sentences, dev_labels, tokenizer, arguments)
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

    predicted = predict(model, dev_data, config)
    assert predicted is not None
    tags_found, loss = predicted
    scores = score_entities([sentence.tags for sentence in dev_sentences], tags_found)
    right = word_accuracy(dev_sentences, tags_found)
    only_o = word_accuracy(dev_sentences, [["O"] * len(s.words) for s in dev_sentences])
    print(f"\nentities of {len(dev_sentences):,} sentences of {arguments.dev}\n")
    print(scores.table())
    print(f"\nwords with the right tag {right:.2%}; if every word were O {only_o:.2%}")
    report = {
        "steps": progress.step,
        "loss": loss,
        **_figures(scores.micro),
        "by_type": {name: _figures(score) for name, score in scores.by_type.items()},
        "word_accuracy": right,
        "word_accuracy_of_only_o": only_o,
    }
    write_results(config.output, {"report.json": report})
    print(f"\nthe model, its tokenizer, loss.png, report.json: {config.output}")
    print(f"try it: pipeline('token-classification', '{config.output}')('...')")
    return 0


class TaggedSentences:
    """Sentences as batches to train on, and the way back from tokens to words.

    Args:
        sentences: words and tags.
        labels: for each sentence the numbers of its tags.
        tokenizer: of the model.
        arguments: of the job.
    """

    def __init__(
        self,
        sentences: Sequence[Sentence],
        labels: Sequence[Sequence[int]],
        tokenizer: Tokenizer,
        arguments: argparse.Namespace,
    ) -> None:
        encoding = tokenizer(
            [sentence.text for sentence in sentences],
            truncation=True,
            max_length=arguments.max_length,
        )
        self.sentences = sentences
        self.alignments: list[Alignment] = [
            align_words(encoding, number, sentence.words)
            for number, sentence in enumerate(sentences)
        ]
        self.batches = LabelledBatches(
            encoding,
            [a.token_labels(own) for a, own in zip(self.alignments, labels, strict=True)],
            pad_token_id=tokenizer.pad_token_id,
            batch_size=arguments.batch_size,
            seed=arguments.seed,
        )

    def summary(self) -> str:
        """One line that says what there is, and what was lost."""
        words = sum(len(sentence.words) for sentence in self.sentences)
        return (
            f"{len(self.sentences):,} sentences with {words:,} words "
            f"({sum(a.truncated for a in self.alignments):,} cut off, "
            f"{sum(a.dropped for a in self.alignments):,} without a token), "
            f"{count_missing_beginnings(self.sentences):,} entities that begin with I-"
        )


def predict(
    model: BertForTokenClassification,
    data: TaggedSentences,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> tuple[list[list[str]], float] | None:
    """For each sentence a tag for each of its words, and the mean loss (nats a word).

    A word has the tag of its first token; one that was cut off, or has no token, is O. Returns
    None if `should_stop` said so.
    """
    tags: list[list[str]] = [[] for _ in data.sentences]
    total, count = 0.0, 0
    for numbers, logits, labels in labelled_logits(model, data.batches, config, should_stop):
        loss, labelled = cross_entropy_sum(logits, labels)
        total += float(loss)
        count += int(labelled)
        for number, best in zip(numbers, logits.argmax(dim=-1).tolist(), strict=True):
            classes = data.alignments[number].word_values(best, missing=0)  # O
            tags[number] = [model.config.id2label[each] for each in classes]
    if should_stop():
        return None
    return tags, total / max(1, count)


def evaluate(
    model: BertForTokenClassification,
    data: TaggedSentences,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Record | None:
    """The mean loss, and precision, recall and F1 of the entities; None if told to stop."""
    predicted = predict(model, data, config, should_stop)
    if predicted is None:
        return None
    tags, loss = predicted
    scores = score_entities([sentence.tags for sentence in data.sentences], tags)
    return {"loss": loss, **_figures(scores.micro)}


def _figures(score: Score) -> Record:
    return {
        "precision": score.precision,
        "recall": score.recall,
        "f1": score.f1,
        "entities": score.gold,
    }


def word_accuracy(sentences: Sequence[Sentence], tags: Sequence[Sequence[str]]) -> float:
    """The share of words with the right tag, which flatters: most words are O."""
    pairs = [
        (right, guess)
        for sentence, guesses in zip(sentences, tags, strict=True)
        for right, guess in zip(sentence.tags, guesses, strict=True)
    ]
    return sum(right == guess for right, guess in pairs) / len(pairs)


def parser() -> Parser:
    """The arguments of the job."""
    parser = Parser(prog="python -m train.tag", description="Fine-tune an encoder on entities.")
    parser.add_argument("--train", type=Path, required=True, help="lines of word, tab, tag")
    parser.add_argument("--dev", type=Path, required=True, help="the same, to score on")
    add_finetuning_arguments(parser, batch_size=32, max_length=128)
    return parser


if __name__ == "__main__":
    sys.exit(main())
