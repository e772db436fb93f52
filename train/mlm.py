"""Train a masked language model on text files: `python -m train.mlm --text FILE... --output DIR`.

:func:`run` trains a tokenizer, tokenizes the text, makes a RoBERTa, trains it, and compares it with
two baselines. The defaults are for a few megabytes of text and two cores. Short sequences matter
most: a model stays close to the unigram baseline until it has learnt to use the neighbours of a
token, and with fewer positions it learns that sooner.

With `--model` a pretrained BERT, RoBERTa or DistilBERT is trained further instead, with its own
tokenizer (Gururangan et al. 2020 show what that is good for).

Letters: B batch, T tokens, N masked tokens, V vocabulary.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from minitransformer.arguments import Parser, positive
from minitransformer.files import write_json
from minitransformer.models.bert import BertForMaskedLM
from minitransformer.models.losses import IGNORED_LABEL
from minitransformer.models.roberta import RobertaConfig, RobertaForMaskedLM
from minitransformer.tokenization import Tokenizer
from train.arguments import add_training_arguments, run_job, training_config
from train.config import TrainingConfig
from train.loop import Progress, Record, last_checkpoint, optimize_unless_plain, train
from train.masking import MaskedBatches
from train.metrics import draw_curve, try_to_draw
from train.pretrained import defaults_with_model, first_evaluation, load_to_train, parse_job
from train.text import TokenSequences, read_lines, text_files, tokenize_sequences

# The options that a given tokenizer and a given model determine.
_NEW_TOKENIZER = ("vocab_size", "algorithm")
_NEW_MODEL = (
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "initializer_range",
)
# The defaults with --model: gentle steps, on longer sequences.
_PRETRAINED: dict[str, Any] = {
    "max_length": None,  # see fit_lengths
    "batch_size": 32,
    "epochs": 3,
    "learning_rate": 5e-5,
    "dropout": None,  # the checkpoint's
}


def main(
    argv: Sequence[str] | None = None, *, resume_with: str = "the same command and --resume"
) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it.

    `resume_with` tells the user how to resume it.
    """
    return run_job(lambda: run(_parse(argv), resume_with))


def run(arguments: argparse.Namespace, resume_with: str) -> int:
    """Run the job, step by step."""
    config = training_config(arguments)
    if arguments.seed < 0:
        raise ValueError(f"seed={arguments.seed} must not be negative")
    # Comes first, because it raises if --output contains another run.
    is_new = last_checkpoint(config) is None
    arguments.text = text_files(arguments.text)
    torch.manual_seed(arguments.seed)
    model, tokenizer = model_and_tokenizer(arguments, is_new)
    with tqdm(read_lines(arguments.text), desc="tokenizing", unit="line") as lines:
        sequences, held_out_sequences = tokenize_sequences(
            lines,
            tokenizer,
            max_length=arguments.max_length,
            pack=not arguments.line_by_line,
            held_out_every=arguments.held_out_every,
        )
    if not len(held_out_sequences):
        raise ValueError(
            f"the text has fewer than {arguments.held_out_every} lines, so no line is held out; "
            "give more text or a smaller --held-out-every"
        )
    settings: dict[str, Any] = {
        "batch_size": arguments.batch_size,
        "probability": arguments.mask_probability,
        "whole_words": arguments.whole_words,
        "seed": arguments.seed,
    }
    batches = MaskedBatches(sequences, tokenizer, **settings)
    held_out = MaskedBatches(held_out_sequences, tokenizer, **settings, shuffle=False)

    optimize_unless_plain(model, config, plain=arguments.plain)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{len(sequences):,} sequences with {len(sequences.ids):,} tokens to train on, "
        f"{len(held_out_sequences):,} held out; a vocabulary of {tokenizer.vocab_size:,}; "
        f"{num_parameters:,} parameters"
    )

    progress = train(
        model,
        batches,
        config,
        evaluate=lambda should_stop: evaluate(model, held_out, config, should_stop),
        evaluate_first=True,
        callbacks=[_print_evaluation],
        tokenizer=tokenizer,
        fingerprint={
            **settings,
            "pretrained": arguments.model,
            "model": model.config.__dict__,
            "text": sequences.checksum(),
            "held_out": held_out_sequences.checksum(),
            **{n: getattr(arguments, n) for n in ("tokenizer", *_NEW_TOKENIZER)},
        },
    )
    if progress.stop_signal is not None:
        print(f"stopped after step {progress.step}; continue with {resume_with}")
        return 128 + progress.stop_signal

    model.cpu().save_pretrained(config.output)
    try_to_draw(draw_curve, config.output / "metrics.jsonl", config.output / "loss.png")
    results = {
        "this model": evaluate(model.to(config.device), held_out, config),
        "unigram guess": unigram_baseline(sequences, held_out),
        "before training": first_evaluation(config),
    }
    report = {"steps": progress.step, "parameters": num_parameters, "held_out": results}
    write_json(config.output / "report.json", report)
    _print_results(results, config.output, tokenizer)
    return 0


def evaluate(
    model: BertForMaskedLM,
    batches: MaskedBatches,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> Record | None:
    """Predict the masked tokens of all batches.

    Returns:
        `loss` (nats per token), `perplexity`, `accuracy` (fraction of tokens predicted correctly)
        and `tokens`, the number of predicted tokens; or None if `should_stop` returned True.
    """
    model.eval()
    total, correct, count = 0.0, 0, 0
    device = next(model.parameters()).device
    for index in tqdm(range(batches.num_batches), desc="evaluating", leave=False, unit="batch"):
        if should_stop():
            return None
        batch = {name: tensor.to(device) for name, tensor in batches.batch(0, index).items()}
        labels = batch.pop("labels")
        positions = labels != IGNORED_LABEL
        with torch.inference_mode(), config.autocast():
            logits = model.logits_at(positions, **batch).float()  # (N, V)
        targets = labels[positions]  # (N,)
        total += float(torch.nn.functional.cross_entropy(logits, targets, reduction="sum"))
        correct += int((logits.argmax(dim=-1) == targets).sum())
        count += len(targets)
    if not count:
        raise ValueError(
            "no token of the held-out lines is masked; hold out more lines: lower --held-out-every"
        )
    loss = total / count
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "accuracy": correct / count,
        "tokens": count,
    }


def unigram_baseline(sequences: TokenSequences, batches: MaskedBatches) -> Record:
    """The metrics of predicting tokens by their frequency, without looking at the sentence.

    It always predicts the most frequent token; probabilities are proportional to counts plus one.
    """
    counts = np.bincount(sequences.ids, minlength=batches.ordinary_ids.max() + 1)[
        batches.ordinary_ids
    ]
    log_probabilities = np.full(batches.ordinary_ids.max() + 1, -np.inf)
    log_probabilities[batches.ordinary_ids] = np.log((counts + 1) / (counts + 1).sum())
    labels = np.concatenate(
        [batches.batch(0, index)["labels"].numpy().ravel() for index in range(batches.num_batches)]
    )
    labels = labels[labels != IGNORED_LABEL]
    loss = float(-log_probabilities[labels].mean())
    return {
        "loss": loss,
        "perplexity": math.exp(loss),
        "accuracy": float((labels == log_probabilities.argmax()).mean()),
        "tokens": len(labels),
    }


def model_and_tokenizer(
    arguments: argparse.Namespace, is_new: bool
) -> tuple[BertForMaskedLM, Tokenizer]:
    """Make or load the model to train and its tokenizer.

    Args:
        arguments: of the job.
        is_new: False if the run is resumed, so that the output contains its tokenizer.

    Raises:
        CheckpointError: a checkpoint cannot be loaded.
        ValueError: the tokenizer does not fit the model, or a size is invalid.
    """
    model: BertForMaskedLM
    if arguments.model is not None:
        changes: dict[str, Any] = {}
        if arguments.dropout is not None:
            names = ("hidden_dropout_prob", "attention_probs_dropout_prob")
            changes = dict.fromkeys(names, arguments.dropout)
        model, tokenizer = load_to_train(BertForMaskedLM, arguments, **changes)
        # Again, so that dropout does not depend on whether the head is new.
        torch.manual_seed(arguments.seed)
    else:
        tokenizer = _new_tokenizer(arguments, is_new)
        tokenizer.model_max_length = arguments.max_length
        model = RobertaForMaskedLM(
            _model_config(arguments, tokenizer), attention=arguments.attention
        )
    if is_new:
        tokenizer.save_pretrained(arguments.output)
    return model, tokenizer


def _new_tokenizer(arguments: argparse.Namespace, is_new: bool) -> Tokenizer:
    """The tokenizer that was given, that of the resumed run, or a new one."""
    if arguments.tokenizer is not None:
        return Tokenizer.from_pretrained(arguments.tokenizer)
    if not is_new:
        return Tokenizer.from_pretrained(arguments.output)
    return Tokenizer.train(
        arguments.text, vocab_size=arguments.vocab_size, algorithm=arguments.algorithm
    )


def _model_config(arguments: argparse.Namespace, tokenizer: Tokenizer) -> RobertaConfig:
    return RobertaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        intermediate_size=arguments.intermediate_size or 4 * arguments.hidden_size,
        hidden_dropout_prob=arguments.dropout,
        attention_probs_dropout_prob=arguments.dropout,
        initializer_range=arguments.initializer_range,
        max_position_embeddings=arguments.max_length + tokenizer.pad_token_id + 1,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.cls_token_id,
        eos_token_id=tokenizer.sep_token_id,
    )


def _print_evaluation(progress: Progress, record: Record) -> None:
    if "eval_loss" in record:
        tqdm.write(
            f"step {progress.step}: loss {record['eval_loss']:.4f}, perplexity "
            f"{record['eval_perplexity']:,.1f}, accuracy {record['eval_accuracy']:.1%} on the "
            "held-out lines"
        )


def _print_results(results: dict[str, Any], output: Path, tokenizer: Tokenizer) -> None:
    print(f"\nmasked tokens of the held-out lines        {'accuracy':>10}{'perplexity':>13}")
    for name, metrics in results.items():
        print(f"{name:43}{metrics['accuracy']:>10.1%}{metrics['perplexity']:>13,.1f}")
    print(f"\nthe model, its tokenizer, loss.png, metrics.jsonl, report.json: {output}")
    mask = tokenizer.id_to_token(tokenizer.mask_token_id)
    path = shlex.quote(str(output))
    print(f'try it: minitransformer fill-mask {path} "..." with {mask} in the text')


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    return parse_job(
        parser(),
        argv,
        pretrained=_PRETRAINED,
        new_model=_NEW_MODEL,
        new_tokenizer=_NEW_TOKENIZER,
    )


def parser() -> Parser:
    """The options of the job."""
    parser = Parser(
        prog="python -m train.mlm",
        description="Train a masked language model: a new RoBERTa, or a pretrained model.",
        epilog=defaults_with_model(_PRETRAINED),
    )
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        required=True,
        help="UTF-8 text files, or directories of .txt files",
    )
    parser.add_argument(
        "--model",
        help="a pretrained BERT, RoBERTa or DistilBERT to train further: a directory, a run, or a "
        "name on the hub",
    )
    parser.add_argument(
        "--tokenizer", help="directory of a tokenizer; by default trained on the text"
    )
    parser.add_argument("--vocab-size", type=positive, default=4000, help="of a new tokenizer")
    parser.add_argument(
        "--algorithm", default="bpe", help="of a new tokenizer: bpe, wordpiece, unigram"
    )
    parser.add_argument("--max-length", type=positive, default=32, help="tokens per sequence")
    parser.add_argument(
        "--line-by-line", action="store_true", help="begin a new sequence with each line"
    )
    parser.add_argument(
        "--held-out-every", type=positive, default=50, help="hold out one of this many lines"
    )
    parser.add_argument("--mask-probability", type=float, default=0.15, help="of a token or word")
    parser.add_argument(
        "--whole-words", action="store_true", help="mask whole words, not single tokens"
    )
    parser.add_argument("--batch-size", type=positive, default=128, help="sequences per batch")
    parser.add_argument("--hidden-size", type=positive, default=128, help="of the model")
    parser.add_argument("--num-hidden-layers", type=positive, default=4, help="of the model")
    parser.add_argument("--num-attention-heads", type=positive, default=4, help="of the model")
    parser.add_argument(
        "--intermediate-size", type=positive, help="by default 4 times the hidden size"
    )
    parser.add_argument(
        "--initializer-range", type=float, default=0.02, help="standard deviation of new weights"
    )
    parser.add_argument("--dropout", type=float, default=0.0, help="everywhere in a new model")
    parser.add_argument("--seed", type=int, default=0, help="for weights, order, masks, dropout")
    add_training_arguments(parser, epochs=10, learning_rate=2e-3)
    return parser


if __name__ == "__main__":
    sys.exit(main())
