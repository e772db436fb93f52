"""Train a GPT-2 on plain text: `python -m train.lm --text FILE... --output DIR`.

:func:`run` reads a text and holds out a part of it, makes or loads a model and its tokenizer,
tokenizes the text, and trains. Two baselines, which only count tokens, are evaluated too, and each
evaluation generates a sample. The defaults are for a megabyte of text, two cores and a few minutes.

Letters: B batch, T tokens, N tokens of a text, V vocabulary.
"""

import argparse
import math
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from minitransformer.arguments import Parser, positive
from minitransformer.files import write_json
from minitransformer.generation import generate
from minitransformer.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minitransformer.tokenization import Tokenizer
from train.arguments import add_training_arguments, run_job, training_config
from train.config import TrainingConfig
from train.lm_text import TextBatches, hold_out_tail, read_documents, tokenize, train_tokenizer
from train.loop import Progress, Record, last_checkpoint, optimize_unless_plain, train
from train.metrics import draw_curve, try_to_draw
from train.pretrained import defaults_with_model, first_evaluation, load_to_train, parse_job
from train.text import text_files

# The options that a given tokenizer and a given model determine.
_NEW_TOKENIZER = ("vocab_size",)
_NEW_MODEL = ("hidden_size", "num_hidden_layers", "num_attention_heads")
# The defaults with --model: gentle steps, with little text in each.
_PRETRAINED = {"max_length": None, "batch_size": 8, "epochs": 3, "learning_rate": 5e-5}
_LONGEST_SAMPLE = 100  # tokens; the default


def main(argv: Sequence[str] | None = None) -> int:
    """Run the job; returns the exit status, 128 + the signal's number if one stopped it."""
    return run_job(lambda: run(_parse(argv)))


def run(arguments: argparse.Namespace) -> int:
    """Run the job, step by step."""
    config = training_config(arguments)
    if arguments.seed < 0:
        raise ValueError(f"seed={arguments.seed} must not be negative")
    # Comes first, because it raises if --output contains another run.
    is_new = last_checkpoint(config) is None
    documents, held_out_documents = _documents(arguments)
    model, tokenizer = model_and_tokenizer(arguments, documents, is_new)
    optimize_unless_plain(model, config, plain=arguments.plain)
    sampler = sampler_of(arguments, model, tokenizer)

    ids, held_out_ids = tokenize(documents, tokenizer), tokenize(held_out_documents, tokenizer)
    _check_length(ids, arguments.max_length)
    batching = {name: getattr(arguments, name) for name in ("max_length", "batch_size", "seed")}
    batches = TextBatches(ids, **batching)
    held_out = TextBatches(held_out_ids, **batching, shuffle=False)
    characters = sum(map(len, held_out_documents))
    if is_new:
        tokenizer.save_pretrained(config.output)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    print(
        f"{len(ids):,} tokens to train on; {len(held_out_ids):,} held out, {characters:,} "
        f"characters; a vocabulary of {tokenizer.vocab_size:,}; {num_parameters:,} parameters"
    )
    losses = {"unigram baseline": unigram_loss, "bigram baseline": bigram_loss}
    baselines = {
        name: metrics_of(loss(ids, held_out_ids, tokenizer.vocab_size), held_out, characters)
        for name, loss in losses.items()
    }
    _print_results(baselines)

    def measure(should_stop: Callable[[], bool] = lambda: False) -> Record | None:
        loss = evaluate(model, held_out, config, should_stop)
        return None if loss is None else metrics_of(loss, held_out, characters)

    def measure_and_sample(should_stop: Callable[[], bool]) -> Record | None:
        measured = measure(should_stop)
        return None if measured is None else measured | {"sample": sampler.sample(model)}

    progress = train(
        model,
        batches,
        config,
        evaluate=measure_and_sample,
        evaluate_first=arguments.model is not None,
        callbacks=[_print_evaluation],
        tokenizer=tokenizer,
        fingerprint={
            "pretrained": arguments.model,
            **{n: getattr(arguments, n) for n in ("tokenizer", *_NEW_TOKENIZER)},
            **batching,
            "model": model.config.__dict__,
            "text": batches.checksum(),
            "held_out": held_out.checksum(),
        },
    )
    if progress.stop_signal is not None:
        print(f"stopped after step {progress.step}; continue with the same command and --resume")
        return 128 + progress.stop_signal

    model.cpu().save_pretrained(config.output)
    baseline_losses = {name: metrics["loss"] for name, metrics in baselines.items()}
    try_to_draw(
        draw_curve, config.output / "metrics.jsonl", config.output / "loss.png", baseline_losses
    )
    model.to(config.device)
    before = {} if arguments.model is None else {"before training": first_evaluation(config)}
    final = {"this model": measure(), **before, **baselines}
    report = {"steps": progress.step, "parameters": num_parameters, "held_out": final}
    write_json(config.output / "report.json", report)
    print()
    _print_results(final)
    print(f"\nthe model, its tokenizer, loss.png, metrics.jsonl, report.json: {config.output}")
    half = max(1, min(100, model.config.max_sequence_length // 2))  # the rest is for the prompt
    options = f"--sample --max-new-tokens {half}"
    print(f'try it: minitransformer generate {shlex.quote(str(config.output))} "..." {options}')
    return 0


def evaluate(
    model: GPT2LMHeadModel,
    batches: TextBatches,
    config: TrainingConfig,
    should_stop: Callable[[], bool] = lambda: False,
) -> float | None:
    """The mean loss in nats per token; None if `should_stop` returned True.

    Each token but the first is predicted from the tokens before it in its sequence. At the
    beginning of a sequence these are few, so in a longer context the model is somewhat better.
    """
    model.eval()
    total, count = 0.0, 0
    device = next(model.parameters()).device
    for index in tqdm(range(batches.num_batches), desc="evaluating", leave=False, unit="batch"):
        if should_stop():
            return None
        batch = {name: tensor.to(device) for name, tensor in batches.batch(0, index).items()}
        with torch.inference_mode(), config.autocast():
            loss, predicted = model.loss_sum(**batch)
        total += float(loss)
        count += int(predicted)
    return total / count


def metrics_of(loss: float, batches: TextBatches, characters: int) -> Record:
    """The metrics that follow from a loss on a text.

    Args:
        loss: in nats per token.
        batches: of the text.
        characters: the number of characters of the text.

    Returns:
        `loss`; `perplexity`; `bits_per_character`, by which models with different tokenizers can be
        compared; and `tokens`, the number of predicted tokens.
    """
    tokens = len(batches.ids) - 1
    return {
        "loss": loss,
        "perplexity": math.exp(min(loss, 700.0)),
        "bits_per_character": loss * tokens / math.log(2) / characters,
        "tokens": tokens,
    }


# ---- the model and its tokenizer ----


def model_and_tokenizer(
    arguments: argparse.Namespace, documents: Sequence[str], is_new: bool
) -> tuple[GPT2LMHeadModel, Tokenizer]:
    """Make or load the model to train and its tokenizer.

    Args:
        arguments: of the job.
        documents: the text that a new tokenizer is trained on.
        is_new: False if the run is resumed, so that the output contains its tokenizer.

    Raises:
        CheckpointError: a checkpoint cannot be loaded.
        ValueError: the tokenizer does not fit the model or adds a token to the end of every text,
            `--max-length` is more than the model takes, or a size is invalid.
    """
    torch.manual_seed(arguments.seed)
    dropouts: dict[str, Any] = {
        "embedding_dropout_prob": arguments.dropout,
        "hidden_dropout_prob": arguments.dropout,
        "attention_probs_dropout_prob": arguments.attention_dropout,
    }
    if arguments.model is None:
        tokenizer = _new_tokenizer(arguments, documents, is_new)
        model = GPT2LMHeadModel(
            _new_config(arguments, tokenizer, dropouts), attention=arguments.attention
        )
    else:
        model, tokenizer = load_to_train(GPT2LMHeadModel, arguments, **dropouts)
    _check_no_end_token(tokenizer)
    tokenizer.model_max_length = model.config.max_sequence_length
    # Again, so that dropout does not depend on how the model was made.
    torch.manual_seed(arguments.seed)
    return model, tokenizer


def _new_tokenizer(
    arguments: argparse.Namespace, documents: Sequence[str], is_new: bool
) -> Tokenizer:
    """The tokenizer that was given, that of the resumed run, or a new one."""
    if arguments.tokenizer is not None:
        return Tokenizer.from_pretrained(arguments.tokenizer)
    if not is_new:
        return Tokenizer.from_pretrained(arguments.output)
    return train_tokenizer(documents, arguments.vocab_size)


def _new_config(
    arguments: argparse.Namespace, tokenizer: Tokenizer, dropouts: dict[str, Any]
) -> GPT2Config:
    return GPT2Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=arguments.hidden_size,
        num_hidden_layers=arguments.num_hidden_layers,
        num_attention_heads=arguments.num_attention_heads,
        max_position_embeddings=arguments.max_length,
        # One token ends a text and begins the next, as in GPT-2.
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **dropouts,
    )


def _check_no_end_token(tokenizer: Tokenizer) -> None:
    """Check that the tokenizer adds no token such as `</s>` or `[SEP]` to the end of a prompt."""
    ids = tokenizer("a")["input_ids"]
    if ids[-1] in tokenizer.special_ids:
        raise ValueError(
            f"{tokenizer.source} adds {tokenizer.id_to_token(ids[-1])} to the end of every text, "
            "so a model cannot continue it; use a tokenizer like GPT-2's, or leave --tokenizer "
            "out to train one"
        )


# ---- samples ----


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Generates a continuation of a prompt, with the same seed each time, to show progress."""

    tokenizer: Tokenizer
    prompt: list[int]
    num_tokens: int  # to generate
    temperature: float
    seed: int

    def sample(self, model: GPT2LMHeadModel) -> str:
        """The prompt and its continuation by the model, which must be in evaluation mode."""
        output = generate(
            model,
            torch.tensor([self.prompt], device=next(model.parameters()).device),
            max_new_tokens=self.num_tokens,
            do_sample=True,
            temperature=self.temperature,
            seed=self.seed,
        )
        return self.tokenizer.decode(output.sequences[0].tolist(), skip_special_tokens=True)


def sampler_of(
    arguments: argparse.Namespace, model: GPT2LMHeadModel, tokenizer: Tokenizer
) -> Sampler:
    """The sampler that the arguments describe.

    Raises:
        ValueError: the prompt is empty or too long for the model, or the temperature is not
            positive.
    """
    text = "\n" if arguments.sample_prompt is None else arguments.sample_prompt
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not prompt:
        raise ValueError("--sample-prompt has no token; give a text to continue")
    longest = model.config.max_sequence_length
    most = longest - len(prompt)
    num_tokens = arguments.sample_tokens or max(1, min(most, _LONGEST_SAMPLE))
    if num_tokens > most:
        raise ValueError(
            f"--sample-prompt has {len(prompt)} tokens and the sample {num_tokens} more, which is "
            f"{len(prompt) + num_tokens}, but the model takes at most {longest}; give a shorter "
            "prompt" + " or fewer --sample-tokens" * (most > 0)
        )
    if not 0 < arguments.temperature < math.inf:
        raise ValueError(f"temperature={arguments.temperature} must be positive and finite")
    return Sampler(
        tokenizer=tokenizer,
        prompt=prompt,
        num_tokens=num_tokens,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )


# ---- baselines: the losses of models that count the tokens of the training text ----


def unigram_loss(ids: np.ndarray, held_out: np.ndarray, vocab_size: int) -> float:
    """The loss, in nats per token, of predicting each token by its frequency in the training text.

    The probability of a token is proportional to its count plus one.

    Args:
        ids: (N,), the training text.
        held_out: (N',), of which all tokens but the first are predicted.
        vocab_size: V.
    """
    return float(-np.log(_unigram(ids, vocab_size)[held_out[1:]]).mean())


def bigram_loss(ids: np.ndarray, held_out: np.ndarray, vocab_size: int) -> float:
    """The loss, in nats per token, of predicting each token by its frequency after the one before.

    Smoothed as in Witten and Bell (1991): after a token v that occurred n(v) times with t(v)
    different successors, the probability of a new successor is t(v) / (n(v) + t(v)), and it is
    distributed by the unigram probabilities. So

        p(w | v) = (count(v, w) + t(v) p(w)) / (n(v) + t(v)),

    and no pair has probability zero. On small texts this is as good as more complex methods, and
    much better than adding one to every count.

    Args:
        ids, held_out, vocab_size: as in :func:`unigram_loss`.
    """
    pairs, counts = np.unique(_pairs(ids, vocab_size), return_counts=True)
    occurred = np.bincount(ids[:-1], minlength=vocab_size)  # (V,) n
    successors = np.bincount(pairs // vocab_size, minlength=vocab_size)  # (V,) t

    following = _pairs(held_out, vocab_size)  # (N' - 1,)
    nearest = np.searchsorted(pairs, following).clip(max=len(pairs) - 1)
    seen = np.where(pairs[nearest] == following, counts[nearest], 0)  # (N' - 1,)
    before, after = held_out[:-1], held_out[1:]
    unigram = _unigram(ids, vocab_size)[after]
    total = occurred[before] + successors[before]
    # After a token that never had a successor, the unigram probability is used.
    probability = np.where(
        total > 0, (seen + successors[before] * unigram) / np.maximum(total, 1), unigram
    )
    return float(-np.log(probability).mean())


def _unigram(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """(V,) probabilities."""
    counts = np.bincount(ids, minlength=vocab_size) + 1
    return counts / counts.sum()


def _pairs(ids: np.ndarray, vocab_size: int) -> np.ndarray:
    """(N - 1,): one number for each pair of a token and the next one."""
    return ids[:-1].astype(np.int64) * vocab_size + ids[1:]


# ---- input, output and arguments ----


def _documents(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    """The text to train on, and the held-out text."""
    documents = read_documents(text_files(arguments.text))
    if arguments.dev is not None:
        return documents, read_documents(text_files(arguments.dev))
    return hold_out_tail(documents, arguments.held_out)


def _check_length(ids: np.ndarray, max_length: int) -> None:
    if len(ids) < max_length:
        raise ValueError(
            f"the text has {len(ids)} tokens, fewer than a sequence of --max-length {max_length}; "
            "give more text or a smaller --max-length"
        )


def _print_evaluation(progress: Progress, record: Record) -> None:
    if "eval_loss" not in record:
        return
    measured = {name.removeprefix("eval_"): value for name, value in record.items()}
    sample = measured["sample"].replace("\n", "\n  | ")
    tqdm.write(f"{_line(f'step {progress.step}', measured)}\n  | {sample}")


def _print_results(results: dict[str, Any]) -> None:
    print(f"{'held-out text':24}{'nats per token':>15}{'perplexity':>12}{'bits per character':>20}")
    for name, measured in results.items():
        print(_line(name, measured))


def _line(name: str, measured: Record) -> str:
    return (
        f"{name:24}{measured['loss']:>15.3f}{measured['perplexity']:>12,.1f}"
        f"{measured['bits_per_character']:>20.3f}"
    )


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
        prog="python -m train.lm",
        description="Train a GPT-2 on plain text: a new one, or a pretrained one.",
        epilog=defaults_with_model(_PRETRAINED),
    )
    parser.add_argument(
        "--text",
        type=Path,
        nargs="+",
        required=True,
        help="UTF-8 text files, or directories of .txt files",
    )
    held_out = parser.add_mutually_exclusive_group()
    held_out.add_argument(
        "--held-out",
        type=float,
        default=0.1,
        help="fraction of the text that is held out, at its end",
    )
    held_out.add_argument(
        "--dev", type=Path, nargs="+", help="UTF-8 text files to hold out instead"
    )
    parser.add_argument("--max-length", type=positive, default=128, help="tokens per sequence")
    parser.add_argument("--batch-size", type=positive, default=16, help="sequences per batch")
    parser.add_argument(
        "--model",
        help="a pretrained GPT-2 to train further: a directory, a run, or a name on the hub",
    )
    parser.add_argument(
        "--tokenizer", help="directory of a tokenizer; by default trained on the text"
    )
    parser.add_argument("--vocab-size", type=positive, default=2000, help="of a new tokenizer")
    parser.add_argument("--hidden-size", type=positive, default=256, help="of a new model")
    parser.add_argument("--num-hidden-layers", type=positive, default=4, help="of a new model")
    parser.add_argument("--num-attention-heads", type=positive, default=4, help="of a new model")
    parser.add_argument("--dropout", type=float, default=0.1, help="outside of attention weights")
    parser.add_argument(
        "--attention-dropout",
        type=float,
        default=0.0,
        help="of attention weights; above 0, attention is half as fast on a CPU",
    )
    parser.add_argument("--seed", type=int, default=0, help="for weights, order, dropout, samples")
    parser.add_argument(
        "--sample-prompt", metavar="TEXT", help="the beginning of samples; by default a line break"
    )
    parser.add_argument(
        "--sample-tokens",
        type=positive,
        metavar="N",
        help=f"length of a sample; by default at most {_LONGEST_SAMPLE}",
    )
    parser.add_argument("--temperature", type=float, default=0.8, help="of samples")
    add_training_arguments(parser, epochs=5, learning_rate=2e-3, evaluate_every=200, save_every=200)
    return parser


if __name__ == "__main__":
    sys.exit(main())
