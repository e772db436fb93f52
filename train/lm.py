"""Train a GPT-2 on plain text: `python -m train.lm --text FILE... --output DIR`.

The steps, each one call in :func:`run`: a text, and what of it is held out; a model and its
tokenizer, new or pretrained; rows of tokens; the training loop. Beside the loss stand those of two
baselines that only count, and at each evaluation the model writes a sample. The defaults suit a
megabyte of text, two cores and some minutes.
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
from minitransformer.models.generative import CausalLM
from train.arguments import add_training_arguments, run_job, training_config
from train.config import TrainingConfig
from train.lm_baselines import bigram_loss, unigram_loss
from train.lm_model import add_model_arguments, model_and_tokenizer, model_settings
from train.lm_sampling import add_sampling_arguments, sampler_of
from train.lm_text import TextBatches, hold_out_tail, read_documents, tokenize
from train.loop import Progress, Record, last_checkpoint, train
from train.metrics import draw_curve, try_to_draw

_BASELINES = {"unigram baseline": unigram_loss, "bigram baseline": bigram_loss}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    arguments = _parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """The job, top to bottom."""
    config = training_config(arguments)
    settings = model_settings(arguments)
    # Before anything is written: an output that holds another run must stay as it is.
    is_new = last_checkpoint(config) is None
    documents, held_out_documents = _documents(arguments)
    model, tokenizer = model_and_tokenizer(arguments, documents, is_new)
    sampler = sampler_of(arguments, model, tokenizer)

    ids, held_out_ids = tokenize(documents, tokenizer), tokenize(held_out_documents, tokenizer)
    _check_length(ids, arguments.max_length)
    cut = {name: getattr(arguments, name) for name in ("max_length", "batch_size", "seed")}
    batches = TextBatches(ids, **cut)
    held_out = TextBatches(held_out_ids, **cut, shuffle=False)
    characters = sum(map(len, held_out_documents))
    if is_new:
        tokenizer.save_pretrained(config.output)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{len(ids):,} tokens to train on; {len(held_out_ids):,} held out, {characters:,} "
        f"characters; a vocabulary of {tokenizer.vocab_size:,}; {num_parameters:,} parameters"
    )
    baselines = {
        name: figures(loss(ids, held_out_ids, tokenizer.vocab_size), held_out, characters)
        for name, loss in _BASELINES.items()
    }
    _print_results(baselines)

    def measure(should_stop: Callable[[], bool] = lambda: False) -> Record | None:
        loss = evaluate(model, held_out, config, should_stop)
        return None if loss is None else figures(loss, held_out, characters)

    def measure_and_write(should_stop: Callable[[], bool]) -> Record | None:
        measured = measure(should_stop)
        return None if measured is None else measured | {"sample": sampler.write(model)}

    progress = train(
        model,
        batches,
        config,
        evaluate=measure_and_write,
        callbacks=[_print_evaluation],
        fingerprint={
            **settings,
            **cut,
            "model": model.config.__dict__,
            "text": batches.checksum(),
            "held_out": held_out.checksum(),
        },
    )
    if progress.stop_signal is not None:
        print(f"stopped after step {progress.step}; go on with the same command and --resume")
        return 128 + progress.stop_signal

    model.cpu().save_pretrained(config.output)
    levels = {name: measured["loss"] for name, measured in baselines.items()}
    try_to_draw(draw_curve, config.output / "metrics.jsonl", config.output / "loss.png", levels)
    model.to(config.device)
    final = {"this model": measure(), **baselines}
    report = {"steps": progress.step, "parameters": num_parameters, "held_out": final}
    write_json(config.output / "report.json", report)
    print()
    _print_results(final)
    print(f"\nthe model, its tokenizer, loss.png, metrics.jsonl, report.json: {config.output}")
    half = max(1, min(100, model.config.max_sequence_length // 2))  # the rest is for the prompt
    asked = f"--sample --max-new-tokens {half}"
    print(f'try it: minitransformer generate {shlex.quote(str(config.output))} "..." {asked}')
    return 0


def evaluate(
    model: CausalLM,
    batches: TextBatches,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """Nats a token, over all tokens but the first, each guessed from those before it in its row.

    At the beginning of a row that is little, so in the middle of a text a model is somewhat better
    than this says. None if `should_stop` said so.
    """
    model.eval()
    total, count = 0.0, 0
    device = next(model.parameters()).device
    for index in tqdm(range(batches.num_batches), desc="evaluating", leave=False, unit="batch"):
        if should_stop():
            return None
        batch = {name: tensor.to(device) for name, tensor in batches.batch(0, index).items()}
        with (
            torch.inference_mode(),
            torch.autocast(device.type, torch.bfloat16, enabled=config.bf16),
        ):
            loss, guessed = model.summed_loss(**batch)
        total += float(loss)
        count += int(guessed)
    return total / count


def figures(loss: float, batches: TextBatches, characters: int) -> Record:
    """What a loss on a text comes to.

    Args:
        loss: nats a token.
        batches: of the text.
        characters: of the text.

    Returns:
        `loss`; `perplexity`; `bits_per_character`, which models with different tokenizers can be
        compared by; and `tokens`, how many were guessed.
    """
    tokens = len(batches.ids) - 1
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_character": loss * tokens / math.log(2) / characters,
        "tokens": tokens,
    }


def _documents(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """What is trained on, and what is held out."""
    documents = read_documents(arguments.text)
    if arguments.dev is not None:
        return documents, read_documents(arguments.dev)
    return hold_out_tail(documents, arguments.held_out)


def _check_length(ids: np.ndarray, max_length: int) -> None:
    if len(ids) < max_length:
        raise ValueError(
            f"the text has {len(ids)} tokens, less than one row of --max-length {max_length}; "
            "give more text or a smaller --max-length"
        )


def _print_evaluation(progress: Progress, record: Record) -> None:
    if "eval_loss" not in record:
        return
    measured = {name.removeprefix("eval_"): value for name, value in record.items()}
    sample = measured["sample"].replace("\n", "\n  | ")
    tqdm.write(f"{_line(f'step {progress.step}', measured)}\n  | {sample}")


def _print_results(results: dict[str, Any]) -> None:
    print(f"{'held-out text':24}{'nats a token':>14}{'perplexity':>12}{'bits a character':>18}")
    for name, measured in results.items():
        print(_line(name, measured))


def _line(name: str, measured: Record) -> str:
    return (
        f"{name:24}{measured['loss']:>14.3f}{measured['perplexity']:>12,.1f}"
        f"{measured['bits_per_character']:>18.3f}"
    )


def _parser() -> Parser:
    parser = Parser(prog="python -m train.lm", description="Train a GPT-2 on plain text.")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="UTF-8 text files")
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument("--held-out", type=float, default=0.1, help="share of the text, its end")
    held_out.add_argument("--dev", type=Path, nargs="+", help="UTF-8 text files, held out instead")
    parser.add_argument("--max-length", type=positive, default=128, help="tokens a row")
    parser.add_argument("--batch-size", type=positive, default=16, help="rows")
    add_model_arguments(parser)
    add_sampling_arguments(parser)
    add_training_arguments(parser, epochs=5, learning_rate=2e-3, evaluate_every=200, save_every=200)
    return parser


if __name__ == "__main__":
    sys.exit(main())
