"""What a language model writes while it is trained, so that one sees what its loss means."""

import argparse
import math
from dataclasses import dataclass

import torch

from minitransformer.arguments import Parser, positive
from minitransformer.generation import generate
from minitransformer.models.generative import CausalLM
from minitransformer.tokenization import Tokenizer

_LONGEST = 100  # tokens, where nobody says how many


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Lets a model go on from a prompt, with the same luck each time."""

    tokenizer: Tokenizer
    prompt: list[int]
    num_tokens: int  # to be written
    temperature: float
    seed: int

    def write(self, model: CausalLM) -> str:
        """The prompt, and what the model makes of it; the mode of the model stays as it is."""
        output = generate(
            model,
            torch.tensor([self.prompt], device=next(model.parameters()).device),
            max_new_tokens=self.num_tokens,
            do_sample=True,
            temperature=self.temperature,
            seed=self.seed,
        )
        return self.tokenizer.decode(output.sequences[0].tolist(), skip_special_tokens=True)


def add_sampling_arguments(parser: Parser) -> None:
    """Add what says how a sample is written."""
    parser.add_argument(
        "--sample-prompt", metavar="TEXT", help="what samples go on from; by default a line break"
    )
    parser.add_argument(
        "--sample-tokens",
        type=positive,
        metavar="N",
        help=f"of a sample; by default what fits, at most {_LONGEST}",
    )
    parser.add_argument("--temperature", type=float, default=0.8, help="of samples")


def sampler_of(arguments: argparse.Namespace, model: CausalLM, tokenizer: Tokenizer) -> Sampler:
    """What the arguments ask for.

    Raises:
        ValueError: the prompt is empty or too long for the model, or the temperature is not
            positive.
    """
    text = "\n" if arguments.sample_prompt is None else arguments.sample_prompt
    prompt = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not prompt:
        raise ValueError("--sample-prompt has no token in it; give a text to go on from")
    longest: int = model.config.max_sequence_length  # type: ignore[attr-defined]
    room = longest - len(prompt)
    wanted = arguments.sample_tokens or max(1, min(room, _LONGEST))
    if wanted > room:
        raise ValueError(
            f"--sample-prompt has {len(prompt)} tokens, so with {wanted} more a sample has "
            f"{len(prompt) + wanted}, but the model takes {longest}; give a shorter prompt"
            + " or fewer --sample-tokens"
            * (room > 0)
        )
    if not 0 < arguments.temperature < math.inf:
        raise ValueError(f"temperature={arguments.temperature} must be positive and finite")
    return Sampler(
        tokenizer=tokenizer,
        prompt=prompt,
        num_tokens=wanted,
        temperature=arguments.temperature,
        seed=arguments.seed,
    )
