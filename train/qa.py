"""Fine-tune an encoder on SQuAD: `python -m train.qa --model PATH --train FILE --dev FILE`.

FILE is in SQuAD's format, which :mod:`train.squad` shows; `--download v1.1` downloads the official
files. :func:`run` reads the questions, loads a pretrained model with a new head, converts the
questions to windows of tokens, trains, and computes the same scores as the official script.

Letters: B batch, T tokens of a window, N tokens of all windows.
"""

import argparse
import random
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from minitransformer.arguments import Parser, positive
from minitransformer.models.bert import BertForQuestionAnswering
from minitransformer.models.validation import not_finite
from minitransformer.tasks.question_answering import (
    Prediction,
    Window,
    best_spans,
    join_windows,
    may_be_answer,
)
from minitransformer.tokenization import Tokenizer
from train.arguments import run_job, training_config
from train.batching import pad_sequences
from train.config import TrainingConfig
from train.download import squad_file
from train.finetuning import add_finetuning_arguments, finetune, load_pretrained, write_results
from train.loop import Record, last_checkpoint
from train.squad import Example, read_squad
from train.squad_features import Features, WindowBatches, make_features, window_inputs
from train.squad_scores import BestThresholds, Scores, best_thresholds, question_scores, score

Load = Callable[[argparse.Namespace], tuple[Any, Tokenizer]]


def load(arguments: argparse.Namespace) -> tuple[BertForQuestionAnswering, Tokenizer]:
    """The pretrained encoder with a question-answering head, optimized unless the run is plain."""
    return load_pretrained(BertForQuestionAnswering, arguments)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace, load: Load = load) -> int:
    """Run the job, step by step; `load` returns the model and its tokenizer."""
    config = training_config(arguments)
    last_checkpoint(config)  # raises at once if --output contains another run
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
    files = "predictions.json, predictions.jsonl, report.json, loss.png"
    print(f"\nmodel, tokenizer, {files}: {config.output}")
    # With "=", because -5e-05 alone would be parsed as an option.
    more = "" if threshold is None else f" --threshold={threshold!r}"
    print(f"try it: minitransformer answer {config.output} --question ... --context ...{more}")
    return 0


@dataclass(frozen=True)
class Predictions:
    """The predictions of a model for the questions of a file.

    Attributes:
        questions: the prediction for each question, by its index.
        loss: the mean over the windows, in nats.
        start_accuracy, end_accuracy: the fraction of windows whose most likely first, or last,
            token is the labelled one. Courses often report these. They count tokens, not answers: a
            window without the answer is correct if [CLS] is predicted, a span that ends one token
            late is half correct, and of several gold answers only the first counts.
    """

    questions: dict[int, Prediction]
    loss: float
    start_accuracy: float
    end_accuracy: float


@torch.inference_mode()
def predict(
    model: nn.Module,
    features: Features,
    contexts: Sequence[str],
    *,
    pad_token_id: int,
    batch_size: int,
    max_answer_tokens: int = 30,
    top_k: int = 20,
    config: TrainingConfig | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Predictions | None:
    """Run the model on every window, and combine the windows of each question.

    Args:
        model: for question answering, in evaluation mode.
        features: the windows.
        contexts: the context of each question.
        pad_token_id: the tokenizer's.
        batch_size: windows per batch, which have similar lengths.
        max_answer_tokens: the longest answer, in tokens.
        top_k: the number of spans to keep for each question.
        config: for the precision; by default that of the model.
        should_stop: called before every batch; returns whether to stop.

    Returns:
        The predictions; None if `should_stop` returned True.

    Raises:
        ValueError: a logit is NaN or infinite.
    """
    device = next(model.parameters()).device
    by_length = np.argsort(features.lengths, kind="stable")
    allowed = _may_be_answer(features, contexts)
    windows_of: dict[int, list[Window]] = {}  # question to its windows
    sums = _Sums()
    for begin in tqdm(
        range(0, len(by_length), batch_size), desc="answering", leave=False, unit="batch"
    ):
        if should_stop():
            return None
        windows = by_length[begin : begin + batch_size]
        inputs = window_inputs(features, windows, pad_token_id)
        with config.autocast() if config else nullcontext():
            output = model(**{name: tensor.to(device) for name, tensor in inputs.items()})
        if not bool((output.start_logits + output.end_logits).isfinite().all()):
            raise not_finite("the logits", model)
        start_logits = _at_real_tokens(output.start_logits, inputs["attention_mask"])
        end_logits = _at_real_tokens(output.end_logits, inputs["attention_mask"])
        found = best_spans(
            start_logits,
            end_logits,
            allowed=pad_sequences(
                [allowed[features.tokens(window)] for window in windows], 0
            ).bool(),
            cls_positions=torch.zeros(len(windows), dtype=torch.int64),
            max_answer_tokens=max_answer_tokens,
            top_k=top_k,
        )
        for row, window in enumerate(windows):
            offsets = features.offsets[features.tokens(window)].tolist()
            question = int(features.example_index[window])
            windows_of.setdefault(question, []).append(
                found.window(row, contexts[question], offsets)
            )
        sums.add(features, windows, start_logits, end_logits)
    return Predictions(
        questions={
            question: join_windows(joined, top_k=top_k) for question, joined in windows_of.items()
        },
        loss=sums.loss / max(1, sums.windows),
        start_accuracy=sums.correct_starts / max(1, sums.windows),
        end_accuracy=sums.correct_ends / max(1, sums.windows),
    )


@dataclass
class _Sums:
    """Sums over the windows whose labels are known."""

    loss: float = 0.0
    correct_starts: int = 0
    correct_ends: int = 0
    windows: int = 0

    def add(
        self, features: Features, windows: np.ndarray, start_logits: Tensor, end_logits: Tensor
    ) -> None:
        """Add windows with their logits, (B, T) each."""
        # If no window contains the answer of a question, there is no correct label.
        known = features.trainable[windows]
        if not known.any():
            return
        starts = torch.from_numpy(features.start_positions[windows][known]).long()
        ends = torch.from_numpy(features.end_positions[windows][known]).long()
        start_logits, end_logits = start_logits[known], end_logits[known]
        for logits, positions in ((start_logits, starts), (end_logits, ends)):
            self.loss += float(nn.functional.cross_entropy(logits, positions, reduction="sum")) / 2
        self.correct_starts += int((start_logits.argmax(dim=1) == starts).sum())
        self.correct_ends += int((end_logits.argmax(dim=1) == ends).sum())
        self.windows += len(starts)


def _may_be_answer(features: Features, contexts: Sequence[str]) -> np.ndarray:
    """(N,) bool, True at the tokens of all windows that may begin or end an answer."""
    allowed = np.zeros(len(features.input_ids), dtype=bool)
    for window in range(len(features)):
        tokens = features.tokens(window)
        allowed[tokens] = may_be_answer(
            contexts[features.example_index[window]],
            features.offsets[tokens].tolist(),
            int(features.context_start[window]),
            int(features.context_end[window]),
        )
    return allowed


def _at_real_tokens(logits: Tensor, attention_mask: Tensor) -> Tensor:
    """The logits, (B, T), in float32 on the CPU, with -inf at padding."""
    return logits.cpu().float().masked_fill(attention_mask == 0, -torch.inf)


class Scorer:
    """Predicts the answers to questions and scores them.

    Args:
        arguments: of the job.
        model, tokenizer: to evaluate.
        config: for the device and the precision.
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
        """The windows of the questions."""
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
        """The predictions of the model; None if `should_stop` returned True."""
        return predict(
            self.model.eval(),
            features,
            [example.context for example in examples],
            pad_token_id=self.tokenizer.pad_token_id,
            batch_size=self.arguments.eval_batch_size,
            max_answer_tokens=self.arguments.max_answer_tokens,
            config=self.config,
            should_stop=should_stop,
        )

    def scores(self, examples: Sequence[Example], predictions: Predictions) -> Scores:
        """Exact match and F1, with a threshold of 0 if there are questions without an answer."""
        texts, nulls = _answers(examples, predictions)
        has_nulls = any(example.is_impossible for example in examples)
        return score(examples, texts, null_scores=nulls if has_nulls else None)

    def report(
        self, examples: Sequence[Example], predictions: Predictions, steps: int
    ) -> float | None:
        """Print the scores, and write the answers, in the official format, and report.json.

        Returns:
            The tuned threshold, if there are questions without an answer, else None.
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
            print(f"\nwith the threshold that maximizes F1 here, {limit!r}:")
        print(scores.table())
        print(
            "\nwindows whose most likely token is the labelled one\n"
            f"{'start':<12}{predictions.start_accuracy:>22.2%}\n"
            f"{'end':<12}{predictions.end_accuracy:>22.2%}\n"
            "(of tokens, not answers: windows without the answer count, only one gold answer "
            "counts, and start and end are counted separately)"
        )
        kinds = {
            "all": scores.total,
            "has answer": scores.has_answer,
            "no answer": scores.no_answer,
        }
        files["predictions.json"] = texts
        files["predictions.jsonl"] = _rows(examples, predictions, texts)
        files["report.json"] = {
            "steps": steps,
            "dev_loss": predictions.loss,
            "start_accuracy": predictions.start_accuracy,
            "end_accuracy": predictions.end_accuracy,
            "scores": {
                name: None if kind is None else asdict(kind) for name, kind in kinds.items()
            },
            "thresholds": None if best is None else asdict(best),
        }
        write_results(self.config.output, files)
        return None if best is None else best.f1_threshold


def _answers(
    examples: Sequence[Example], predictions: Predictions
) -> tuple[dict[str, str], dict[str, float]]:
    """By question id: the text of the best span, and how much higher "no answer" scores."""
    texts, nulls = {}, {}
    for index, example in enumerate(examples):
        prediction = predictions.questions[index]
        best = prediction.spans[0]
        texts[example.id] = example.context[best.start : best.end]
        nulls[example.id] = prediction.null_difference
    return texts, nulls


def _rows(
    examples: Sequence[Example], predictions: Predictions, texts: dict[str, str]
) -> list[Record]:
    """The lines of predictions.jsonl: exact match and F1 are of the question, from 0 to 1."""
    rows = []
    for index, example in enumerate(examples):
        prediction, text = predictions.questions[index], texts[example.id]
        exact, f1 = question_scores(example, text)
        rows.append(
            {
                "id": example.id,
                "question": example.question,
                "prediction": text,
                "answers": example.gold_texts,
                "score": prediction.spans[0].score,
                "no_answer_score": prediction.null_score,
                "exact": exact,
                "f1": f1,
            }
        )
    return rows


def _paths(arguments: argparse.Namespace) -> tuple[Path, Path]:
    """The files to train on and to evaluate on; with `--download` the official ones."""
    given = arguments.train, arguments.dev
    if arguments.download is None:
        if None in given:
            raise ValueError("give --train FILE and --dev FILE, or --download v1.1 or v2.0")
        return given
    if given != (None, None):
        raise ValueError("--download determines the files; leave out --train and --dev")
    train_path, dev_path = (
        squad_file(f"{part}-{arguments.download}.json", arguments.data) for part in ("train", "dev")
    )
    return train_path, dev_path


def _read(path: Path, name: str) -> Sequence[Example]:
    file = read_squad(path)
    print(f"{name}: {file.counts.summary()}")
    return file.examples


def _sample(examples: Sequence[Example], count: int | None, seed: int) -> Sequence[Example]:
    """A reproducible sample of the questions, in the order of the file; all if there are fewer."""
    if count is None or count >= len(examples):
        return examples
    chosen = random.Random(seed).sample(range(len(examples)), count)
    return [examples[index] for index in sorted(chosen)]


def parser() -> Parser:
    """The parser of the job's arguments."""
    parser = Parser(prog="python -m train.qa", description="Fine-tune an encoder on SQuAD.")
    parser.add_argument("--train", type=Path, help="SQuAD v1.1 or v2.0 file")
    parser.add_argument("--dev", type=Path, help="SQuAD file to evaluate on")
    parser.add_argument(
        "--download", choices=("v1.1", "v2.0"), help="use the official files; downloaded if missing"
    )
    parser.add_argument("--data", type=Path, default=Path("data"), help="where these are stored")
    parser.add_argument("--stride", type=positive, default=128, help="tokens that windows share")
    parser.add_argument(
        "--max-question-length",
        type=positive,
        default=64,
        help="tokens; longer questions are truncated",
    )
    parser.add_argument("--max-answer-tokens", type=positive, default=30, help="longest answer")
    parser.add_argument("--eval-batch-size", type=positive, default=32, help="windows per batch")
    parser.add_argument(
        "--dev-questions",
        type=positive,
        help="evaluate on a sample of this size; by default on all",
    )
    parser.add_argument(
        "--curve-questions", type=positive, default=300, help="questions evaluated while training"
    )
    add_finetuning_arguments(parser, batch_size=16, max_length=384)
    return parser


if __name__ == "__main__":
    sys.exit(main())
