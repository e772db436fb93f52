"""Fine-tune an encoder on SQuAD: `python -m train.qa --model PATH --train FILE --dev FILE`.

FILE is in SQuAD's form, which :mod:`train.squad` shows; `--download v1.1` fetches the official two.
The steps, each one call in :func:`run`: questions, windows of tokens, a pretrained model with a new
head, the training loop, and at the end the score that the official script would give.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from minitransformer.arguments import Parser, positive
from minitransformer.models.question_answering import QuestionAnswering
from minitransformer.tokenization import Tokenizer
from train.arguments import run_job, training_config
from train.config import TrainingConfig
from train.download import squad_file
from train.finetuning import add_finetuning_arguments, finetune, load_pretrained, write_results
from train.loop import Record, last_checkpoint
from train.squad import Example, read_squad
from train.squad_features import Features, make_features
from train.squad_scores import BestThresholds, Scores, best_thresholds, score
from train.squad_windows import Predictions, WindowBatches, predict

Load = Callable[[argparse.Namespace], tuple[Any, Tokenizer]]


def load(arguments: argparse.Namespace) -> tuple[QuestionAnswering, Tokenizer]:
    """The pretrained encoder with a head for answers."""
    return load_pretrained(QuestionAnswering, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace, load: Load = load) -> int:
    """The job, top to bottom; `load` gives the model and its tokenizer."""
    config = training_config(arguments)
    last_checkpoint(config)  # before anything is done: an output with another run stays as it is
    train_path, dev_path = _paths(arguments)
    train_examples = _read(train_path, "train")
    dev_examples = _read(dev_path, "dev")
    model, tokenizer = load(arguments)
    scorer = Scorer(arguments, model, tokenizer, config)
    features = scorer.features(train_examples)
    print(f"train: {features.counts.summary()}")
    curve_examples = _sample(dev_examples, arguments.curve_questions, arguments.seed)
    curve_features = scorer.features(curve_examples)
    dev_examples = _sample(dev_examples, arguments.dev_questions, arguments.seed)
    dev_features = scorer.features(dev_examples)
    print(f"dev: {dev_features.counts.summary()}")
    batches = WindowBatches(
        features,
        pad_token_id=tokenizer.pad_token_id,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )

    def evaluate(should_stop: Callable[[], bool]) -> Record | None:
        predictions = scorer.predict(curve_examples, curve_features, should_stop)
        if predictions is None:
            return None
        scores = scorer.scores(curve_examples, predictions)
        return {"loss": predictions.loss, "exact": scores.total.exact, "f1": scores.total.f1}

    progress = finetune(
        model,
        tokenizer,
        batches,
        config,
        arguments,
        evaluate=evaluate,
        fingerprint={
            "checksum of the training windows": features.checksum(),
            "checksum of the windows of the curve": curve_features.checksum(),
        },
        unit="window",
    )
    if progress.stop_signal is not None:
        return 128 + progress.stop_signal

    predictions = scorer.predict(dev_examples, dev_features)
    assert predictions is not None
    threshold = scorer.report(dev_examples, predictions, progress.step)
    print(f"\nmodel, tokenizer, predictions.json, report.json, loss.png: {config.output}")
    # With "=", because -5e-05 by itself would be taken for an option.
    more = "" if threshold is None else f" --threshold={threshold!r}"
    print(f"try it: minitransformer answer {config.output} --question ... --context ...{more}")
    return 0


class Scorer:
    """Runs a model over questions, as the arguments say, and scores what it answers.

    Args:
        arguments: of the job.
        model, tokenizer: to be scored.
        config: device and precision.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        model: nn.Module,
        tokenizer: Tokenizer,
        config: TrainingConfig,
    ) -> None:
        self.arguments = arguments
        self.model = model
        self.tokenizer = tokenizer
        self.config = config

    def features(self, examples: Sequence[Example]) -> Features:
        """The windows of some questions."""
        return make_features(
            examples,
            self.tokenizer,
            max_length=self.arguments.max_length,
            stride=self.arguments.stride,
            max_question_length=self.arguments.max_question_length,
        )

    def predict(
        self,
        examples: Sequence[Example],
        features: Features,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Predictions | None:
        """What the model says; None if `should_stop` said so."""
        return predict(
            self.model.eval(),
            features,
            [example.context for example in examples],
            pad_token_id=self.tokenizer.pad_token_id,
            batch_size=self.arguments.eval_batch_size,
            max_answer_tokens=self.arguments.max_answer_tokens,
            bf16=self.config.bf16,
            should_stop=should_stop,
        )

    def scores(self, examples: Sequence[Example], predictions: Predictions) -> Scores:
        """Exact match and F1; where questions without an answer occur, at a threshold of 0."""
        texts, nulls = _answers(examples, predictions)
        has_nulls = any(example.is_impossible for example in examples)
        return score(examples, texts, null_scores=nulls if has_nulls else None)

    def report(
        self, examples: Sequence[Example], predictions: Predictions, steps: int
    ) -> float | None:
        """Print the tables, and write the answers in the official form and report.json.

        Returns:
            The tuned threshold, where questions without an answer occur.
        """
        texts, nulls = _answers(examples, predictions)
        scores = self.scores(examples, predictions)
        files: dict[str, Any] = {}
        best: BestThresholds | None = None
        if scores.no_answer is not None:
            print("\nwith a threshold of 0:")
            print(scores.table())
            best = best_thresholds(examples, texts, nulls)
            limit = best.f1_threshold
            scores = score(examples, texts, null_scores=nulls, threshold=limit)
            texts = {name: "" if nulls[name] > limit else text for name, text in texts.items()}
            files["null_odds.json"] = nulls
            print(f"\nwith the threshold that is best for the F1 here, {limit!r}:")
        print(scores.table())
        print(
            "\nof the windows, the labelled token is the likeliest\n"
            f"{'start':<12}{predictions.start_accuracy:>22.2%}\n"
            f"{'end':<12}{predictions.end_accuracy:>22.2%}\n"
            "(tokens, not answers: a window without the answer counts, one gold answer counts, and "
            "start and end count apart)"
        )
        kinds = {
            "all": scores.total,
            "has answer": scores.has_answer,
            "no answer": scores.no_answer,
        }
        files["predictions.json"] = texts
        files["report.json"] = {
            "steps": steps,
            "dev_loss": predictions.loss,
            "start_accuracy": predictions.start_accuracy,
            "end_accuracy": predictions.end_accuracy,
            "scores": {name: None if row is None else asdict(row) for name, row in kinds.items()},
            "thresholds": None if best is None else asdict(best),
        }
        write_results(self.config.output, files)
        return None if best is None else best.f1_threshold


def _answers(
    examples: Sequence[Example], predictions: Predictions
) -> tuple[dict[str, str], dict[str, float]]:
    """For each question the best span's text, and how much more no answer scores than that."""
    texts, nulls = {}, {}
    for number, example in enumerate(examples):
        prediction = predictions.questions[number]
        best = prediction.spans[0]
        texts[example.id] = example.context[best.start : best.end]
        nulls[example.id] = prediction.null_difference
    return texts, nulls


def _paths(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The files to train on and to score on; with `--download` the official ones."""
    given = arguments.train, arguments.dev
    if arguments.download is None:
        if None in given:
            raise ValueError("give --train FILE and --dev FILE, or --download v1.1 or v2.0")
        return given
    if given != (None, None):
        raise ValueError("--download brings its own files; leave out --train and --dev")
    train_path, dev_path = (
        squad_file(f"{part}-{arguments.download}.json", arguments.data) for part in ("train", "dev")
    )
    return train_path, dev_path


def _read(path: Path, name: str) -> Sequence[Example]:
    file = read_squad(path)
    print(f"{name}: {file.counts.summary()}")
    return file.examples


def _sample(examples: Sequence[Example], count: int | None, seed: int) -> Sequence[Example]:
    """So many questions, always the same, in the order of the file; all where there are fewer."""
    if count is None or count >= len(examples):
        return examples
    chosen = random.Random(seed).sample(range(len(examples)), count)
    return [examples[number] for number in sorted(chosen)]


def parser() -> Parser:
    """The arguments of the job."""
    parser = Parser(prog="python -m train.qa", description="Fine-tune an encoder on SQuAD.")
    parser.add_argument("--train", type=Path, help="SQuAD v1.1 or v2.0 file")
    parser.add_argument("--dev", type=Path, help="SQuAD file to score on")
    parser.add_argument(
        "--download", choices=("v1.1", "v2.0"), help="use the official files, fetched if absent"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="where those are kept")
    parser.add_argument("--stride", type=positive, default=128, help="tokens that windows share")
    parser.add_argument(
        "--max-question-length", type=positive, default=64, help="tokens; longer ones are cut"
    )
    parser.add_argument("--max-answer-tokens", type=positive, default=30, help="of a prediction")
    parser.add_argument("--eval-batch-size", type=positive, default=32, help="windows")
    parser.add_argument(
        "--dev-questions", type=positive, help="score a fixed sample of so many; all if not given"
    )
    parser.add_argument(
        "--curve-questions", type=positive, default=300, help="scored while training"
    )
    add_finetuning_arguments(parser, batch_size=16, max_length=384)
    return parser


if __name__ == "__main__":
    sys.exit(main())
