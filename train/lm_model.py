"""The model and the tokenizer of `train.lm`: new ones, or pretrained ones."""

import argparse
from collections.abc import Sequence
from typing import Any

import torch

from minitransformer.arguments import Parser, positive
from minitransformer.models.gpt2 import GPT2Config, GPT2LMHeadModel
from minitransformer.tasks.running import check_vocabularies, load_tokenizer
from minitransformer.tokenization import Tokenizer
from train.lm_text import train_tokenizer

# What a new model is made by, and its help; a pretrained one has its own.
_SIZES = {
    "vocab_size": (2000, "of a new tokenizer"),
    "hidden_size": (256, "of a new model"),
    "num_hidden_layers": (4, "of a new model"),
    "num_attention_heads": (4, "of a new model"),
}


def add_model_arguments(parser: Parser) -> None:
    """Add what says which model is trained."""
    parser.add_argument("--model", help="a GPT-2 to go on from: a directory, or a hub name")
    parser.add_argument("--tokenizer", help="directory of one; trained on the text if not given")
    for name, (default, text) in _SIZES.items():
        # No default in the namespace: what was not asked for cannot contradict --model.
        option, text = f"--{name.replace('_', '-')}", f"{text} (default: {default})"
        parser.add_argument(option, type=positive, default=argparse.SUPPRESS, help=text)
    parser.add_argument("--dropout", type=float, default=0.1, help="outside the attention maps")
    parser.add_argument(
        "--attention-dropout",
        type=float,
        default=0.0,
        help="of attention weights; above 0 attention takes about twice as long on the CPU",
    )
    parser.add_argument("--seed", type=int, default=0, help="of weights, order, dropout, samples")


def model_settings(arguments: argparse.Namespace) -> dict[str, Any]:
    """What must be the same when a run is resumed, beside the model's config.

    Raises:
        ValueError: an option has no meaning, or none beside another one.
    """
    if arguments.seed < 0:
        raise ValueError(f"seed={arguments.seed} must not be negative")
    given = [name for name in _SIZES if hasattr(arguments, name)]
    if arguments.model is not None and given:
        raise _no_effect(given[0], "--model")
    if arguments.tokenizer is not None and "vocab_size" in given:
        raise _no_effect("vocab_size", "--tokenizer")
    sizes = {name: getattr(arguments, name, default) for name, (default, _) in _SIZES.items()}
    return {"pretrained": arguments.model, "tokenizer": arguments.tokenizer, **sizes}


def model_and_tokenizer(
    arguments: argparse.Namespace, documents: Sequence[str], is_new: bool
) -> tuple[GPT2LMHeadModel, Tokenizer]:
    """What is to be trained, and the tokenizer that belongs to it.

    Args:
        arguments: of the job.
        documents: the text that a new tokenizer learns from.
        is_new: False where the output has the tokenizer that the run was begun with.

    Raises:
        CheckpointError: a checkpoint cannot be loaded.
        ValueError: the tokenizer does not fit the model or is none to write with, the model does
            not take rows of that length, or a size has no meaning.
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
        model = GPT2LMHeadModel.from_pretrained(
            arguments.model, attention=arguments.attention, **dropouts
        )
        tokenizer = load_tokenizer(arguments.tokenizer or arguments.model, model)
    check_vocabularies(model, tokenizer)
    _check_ends_open(tokenizer)
    longest = model.config.max_sequence_length
    if arguments.max_length > longest:
        raise ValueError(
            f"--max-length {arguments.max_length}: the model takes {longest} tokens at most"
        )
    tokenizer.model_max_length = longest
    torch.manual_seed(arguments.seed)  # dropout draws the same, whatever was drawn for the model
    return model, tokenizer


def _new_tokenizer(
    arguments: argparse.Namespace, documents: Sequence[str], is_new: bool
) -> Tokenizer:
    """The given one, the one that this run was begun with, or a new one."""
    if arguments.tokenizer is not None:
        return Tokenizer.from_pretrained(arguments.tokenizer)
    if not is_new:
        return Tokenizer.from_pretrained(arguments.output)
    return train_tokenizer(documents, model_settings(arguments)["vocab_size"])


def _new_config(
    arguments: argparse.Namespace, tokenizer: Tokenizer, dropouts: dict[str, Any]
) -> GPT2Config:
    sizes = model_settings(arguments)
    return GPT2Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=sizes["hidden_size"],
        num_hidden_layers=sizes["num_hidden_layers"],
        num_attention_heads=sizes["num_attention_heads"],
        max_position_embeddings=arguments.max_length,
        # One token ends a text and begins the next, as in GPT-2.
        bos_token_id=tokenizer.eos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **dropouts,
    )


def _check_ends_open(tokenizer: Tokenizer) -> None:
    """A prompt that ends in `</s>` or `[SEP]` is no beginning of anything."""
    framed = tokenizer("a")["input_ids"]
    if framed[-1] in tokenizer.special_ids:
        raise ValueError(
            f"{tokenizer.source} puts {tokenizer.id_to_token(framed[-1])} behind every text, where "
            "a model is to go on; take a tokenizer arranged as GPT-2's, or leave --tokenizer out "
            "to train one"
        )


def _no_effect(name: str, beside: str) -> ValueError:
    return ValueError(
        f"--{name.replace('_', '-')} has no effect beside {beside}, which brings its own; leave "
        "one of the two out"
    )
