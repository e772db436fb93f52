"""How fast is text generated, beside transformers?

    python -m benchmarks.generation --out DIR

GPT-2 continues prompts, T5 and Marian translate with four beams. All sides have the same weights,
get the same prompts and generate the same number of tokens, in turns in one process: transformers,
our model as it is loaded (plain), and `optimize(model)`, which is measured in bfloat16 too. Before
the clock starts, all must have generated the same tokens in float32; in bfloat16 the table says how
many were the same. With --compile-theirs transformers takes part a second time where it decodes
greedily: with a static cache and its forward compiled, which it does not do in beam search. A table
goes to the terminal; DIR gets generation.csv and generation.png.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.formulas import bytes_per_step
from benchmarks.measuring import (
    DTYPES,
    LocalWorker,
    memory_bandwidth,
    ratios,
    spread,
    take_turns,
)
from benchmarks.pictures import draw_generation
from benchmarks.report import generation_table
from benchmarks.runs import Case, Row, Run, benchmark_parser, start
from minitransformer import from_pretrained, generate, optimize
from minitransformer.models.base import LanguageModel, Seq2SeqLM

draw, table = draw_generation, generation_table  # by which benchmarks.report shows a file
THEIRS, COMPILED = "transformers", "transformers compiled"
PLAIN, OPTIMIZED = "plain", "optimized"

# Which class, and what transformers' config says other than by default: GPT-2 with 6 of its 12
# layers, t5-small, and the translators of OPUS-MT.
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2LMHeadModel", {"n_layer": 6, "pad_token_id": 50_256}),
    "t5": ("T5ForConditionalGeneration", {"decoder_start_token_id": 0}),
    "marian": (
        "MarianMTModel",
        {
            "vocab_size": 58_101,
            "d_model": 512,
            "encoder_layers": 6,
            "decoder_layers": 6,
            "encoder_attention_heads": 8,
            "decoder_attention_heads": 8,
            "encoder_ffn_dim": 2048,
            "decoder_ffn_dim": 2048,
            "max_position_embeddings": 512,
            "activation_function": "swish",
            "scale_embedding": True,
            "pad_token_id": 58_100,
            "decoder_start_token_id": 58_100,
            "eos_token_id": 0,
            "forced_eos_token_id": None,
        },
    ),
}


@dataclass(frozen=True)
class Text:
    """What is generated: greedily from prompts, or by beam search from sources."""

    name: str
    family: str  # of SHAPES
    rows: int
    beams: int = 1
    prompt: int = 32  # tokens of a prompt or source
    new: int = 64  # tokens that are generated
    rounds: int = 5


CASES = {
    "gpt2-1": Text("GPT-2, 1 prompt", "gpt2", rows=1, new=128),
    "gpt2-8": Text("GPT-2, 8 prompts", "gpt2", rows=8, new=128),
    "t5-1": Text("T5, 1 source, 4 beams", "t5", rows=1, beams=4),
    "t5-8": Text("T5, 8 sources, 4 beams", "t5", rows=8, beams=4),
    "marian-1": Text("Marian, 1 source, 4 beams", "marian", rows=1, beams=4),
    "marian-8": Text("Marian, 8 sources, 4 beams", "marian", rows=8, beams=4),
}
QUICK_CASES = {
    name: replace(case, rounds=3, new=16)
    for name, case in CASES.items()
    if name in ("gpt2-1", "gpt2-8", "t5-1", "marian-1")
}


@dataclass(frozen=True)
class Side:
    """An implementation with a model in one dtype.

    `generate` takes ids, tokens to generate and beams; it gives sequences.
    """

    implementation: str
    dtype: str
    generate: Callable[[Tensor, int, int], Tensor]

    @property
    def what(self) -> Row:
        """The columns that tell its rows from those of other sides."""
        return {"implementation": self.implementation, "dtype": self.dtype}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    parser = benchmark_parser("generation", str(__doc__).split("\n")[0])
    names = list(CASES)
    parser.add_argument("--cases", nargs="+", choices=names, help="what is measured (default: all)")
    help = "measure transformers with a static cache, compiled, too"
    parser.add_argument("--compile-theirs", action="store_true", help=help)
    return start(parser, argv, run)


def run(arguments: argparse.Namespace) -> None:
    """The benchmark, top to bottom."""
    cases = CASES | QUICK_CASES if arguments.quick else CASES
    name = f"generation{'_quick' * arguments.quick}"
    settings = {"command_dtype": arguments.dtype, "compile_theirs": arguments.compile_theirs}
    run = Run(arguments, name, settings)
    sides = partial(load, dtype=arguments.dtype, device=arguments.device)
    load_once = lru_cache(maxsize=1)(partial(sides, compile_theirs=arguments.compile_theirs))
    names = arguments.cases or (QUICK_CASES if arguments.quick else CASES)
    steps = [
        Case({"case": cases[name].name}, partial(measure, cases[name], load_once)) for name in names
    ]
    run.measure(steps, generation_table, draw_generation)


def load(
    family: str, dtype: str, device: str, compile_theirs: bool
) -> tuple[list[Side], LanguageModel]:
    """Every side with the same weights, theirs first, and one of our models."""
    import transformers

    class_name, sizes = SHAPES[family]
    their_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        their_class(transformers.AutoConfig.for_model(family, **sizes)).save_pretrained(directory)
        theirs = their_class.from_pretrained(directory, dtype=DTYPES[dtype]).to(device).eval()
        ours: Any = partial(from_pretrained, directory, device=device)
        plain = ours(dtype=DTYPES[dtype])
        sides = [
            Side(THEIRS, dtype, partial(their_generate, theirs)),
            Side(PLAIN, dtype, partial(our_generate, plain)),
        ]
        if compile_theirs:
            options = {"cache_implementation": "static", "compile_config": compile_config(device)}
            sides.insert(1, Side(COMPILED, dtype, partial(their_generate, theirs, **options)))
        for name in dict.fromkeys((dtype, "bfloat16")):
            optimized = optimize(ours(dtype=DTYPES[name]))
            sides.append(Side(OPTIMIZED, name, partial(our_generate, optimized)))
    return sides, plain


def compile_config(device: str) -> Any:
    """How transformers compiles the forward of a static cache: as it does by itself on a GPU."""
    import transformers

    config: Any = transformers.CompileConfig()
    config._compile_all_devices = device == "cpu"  # where it would run uncompiled
    return config


def their_generate(model: Any, ids: Tensor, new: int, beams: int, **options: Any) -> Tensor:
    """transformers' `generate`, with nothing but what is asked for, and options for more speed."""
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        num_beams=beams,
        do_sample=False,
        **options,
    )


def our_generate(model: Any, ids: Tensor, new: int, beams: int) -> Tensor:
    """Ours, asked for the same."""
    return generate(
        model,
        ids,
        torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        num_beams=beams,
    ).sequences


def measure(
    text: Text, load_family: Callable[[str], tuple[list[Side], LanguageModel]]
) -> list[Row]:
    """The rows of a case, one a side."""
    sides, model = load_family(text.family)
    sides = [side for side in sides if text.beams == 1 or side.implementation != COMPILED]
    config: Any = model.config
    generator = torch.Generator().manual_seed(text.rows)
    # Random ids that have no role.
    shape, highest = (text.rows, text.prompt), min(config.vocab_size - 2, 30_000)
    ids = torch.randint(2, highest, shape, generator=generator)
    ids = ids.to(next(model.parameters()).device)
    return compare(text, sides, model, ids)


def check_same(text: Text, sides: Sequence[Side], ids: Tensor) -> list[float]:
    """Let every side generate once, and compare the tokens with those of the first.

    In bfloat16 two tokens are often equally likely, and rounding chooses between them.

    Returns:
        Which share of the tokens is that of the first side, of each side.

    Raises:
        ValueError: ours generated other tokens, both being in float32; or another number of them.
    """
    generated = [side.generate(ids, text.new, text.beams) for side in sides]
    shares = []
    for side, tokens in zip(sides, generated, strict=True):
        same_shape = tokens.shape == generated[0].shape
        equal = (tokens == generated[0])[:, -text.new :] if same_shape else torch.zeros(1)
        shares.append(equal.float().mean().item())
        both_exact = side.dtype == sides[0].dtype == "float32"
        if not same_shape or (both_exact and shares[-1] < 1):
            raise ValueError(
                f"{text.name}: {side.implementation} generated {tuple(tokens.shape)} tokens, and "
                f"{shares[-1]:.1%} of those of {sides[0].implementation}; speeds of different "
                "texts cannot be compared"
            )
    return shares


def compare(text: Text, sides: Sequence[Side], model: LanguageModel, ids: Tensor) -> list[Row]:
    """Time every side in turns, and between them the reading of memory."""
    shares = check_same(text, sides, ids)
    readings: list[float] = []
    calls = [partial(side.generate, ids, text.new, text.beams) for side in sides]
    seconds = take_turns(
        [LocalWorker(call, ids.device) for call in calls],
        text.rounds,
        before_round=lambda: readings.append(memory_bandwidth(ids.device)),
    )
    seq2seq = isinstance(model, Seq2SeqLM)
    context = text.new / 2 + (0 if seq2seq else text.prompt)  # halfway
    names = [side.implementation for side in sides]
    compiled = [mine for name, mine in zip(names, seconds, strict=True) if name == COMPILED]
    rows = []
    for side, mine, same in zip(sides, seconds, shares, strict=True):
        needed = bytes_per_step(
            model,
            DTYPES[side.dtype].itemsize,
            tokens=text.rows * text.beams * context,
            source=text.rows * text.prompt if seq2seq else 0,
        )
        row = side.what
        row |= spread("tokens_per_second", [text.rows * text.new / second for second in mine])
        row |= spread("times_faster", ratios(seconds[0], mine))
        if compiled:
            row |= spread("times_compiled", ratios(compiled[0], mine))
        # Of the same round, for the speed of memory is not the same at all times.
        floors = [needed / reading * text.new for reading in readings]
        rows.append(row | spread("share_of_floor", ratios(floors, mine)) | {"same_tokens": same})
    return rows


if __name__ == "__main__":
    sys.exit(main())
