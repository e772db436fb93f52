"""How fast is text generated, beside transformers' `generate` with its default settings?

    python -m benchmarks.generation --out DIR

All sides load the same weights (random ones, in the shapes of real checkpoints), get the same
prompts and generate the same number of tokens, in turns in one process: transformers, our model as
it is loaded (plain), and `optimize(model)`, which is measured in bfloat16 too. Before the clock
starts, all must have generated the same tokens in float32; in bfloat16 the table says how many were
the same. On a GPU (`--device cuda`) one more side is transformers' `generate` with its static
cache, which it compiles. A table goes to the terminal; DIR gets generation.csv and generation.png.
A run can be stopped: the same command with --resume goes on after the last case that was measured.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.formulas import bytes_per_step
from benchmarks.measuring import (
    DTYPES,
    LocalWorker,
    memory_bandwidth,
    ratios,
    spread,
    take_turns,
    timed,
)
from benchmarks.pictures import draw_generation
from benchmarks.report import generation_table
from benchmarks.runs import Case, Row, Run, benchmark_parser, prepare_transformers
from minitransformer import from_pretrained, generate, optimize
from minitransformer.arguments import Parser
from minitransformer.fast.prepacked_linear import forget, prepack, weights_of_a_step
from minitransformer.models.base import LanguageModel, Seq2SeqLM
from train.arguments import run_job
from train.metrics import try_to_draw

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
    """What is generated: greedily from prompts, or by beam search from sources.

    With `bins` the time of each token is measured while the context grows from a prompt of one
    token, and averaged over so many ranges of it.
    """

    name: str
    family: str  # of SHAPES
    rows: int
    beams: int = 1
    prompt: int = 32  # tokens of a prompt or source
    new: int = 64  # tokens that are generated
    rounds: int = 5
    bins: int = 0


CASES = {
    "gpt2-1": Text("GPT-2, 1 prompt", "gpt2", rows=1, new=128),
    "gpt2-8": Text("GPT-2, 8 prompts", "gpt2", rows=8, new=128),
    "gpt2-context": Text(
        "GPT-2, 1 prompt, growing context", "gpt2", rows=1, prompt=1, new=900, rounds=3, bins=15
    ),
    "t5-1": Text("T5, 1 source, 4 beams", "t5", rows=1, beams=4),
    "t5-8": Text("T5, 8 sources, 4 beams", "t5", rows=8, beams=4),
    "marian-1": Text("Marian, 1 source, 4 beams", "marian", rows=1, beams=4),
    "marian-8": Text("Marian, 8 sources, 4 beams", "marian", rows=8, beams=4),
    # Most of the time on a GPU is that of the host; there these are measured too.
    "t5-8-greedy": Text("T5, 8 sources, greedy", "t5", rows=8),
    "marian-8-greedy": Text("Marian, 8 sources, greedy", "marian", rows=8),
}
ON_CPU = [name for name in CASES if not name.endswith("-greedy")]
QUICK_CASES = {
    name: replace(case, rounds=1, new=60, bins=4) if case.bins else replace(case, rounds=3, new=16)
    for name, case in CASES.items()
    if name in ("gpt2-1", "gpt2-8", "gpt2-context", "t5-1", "marian-1")
}


@dataclass(frozen=True)
class Side:
    """An implementation with a model in one dtype.

    Args:
        implementation: who.
        dtype: of the weights.
        generate: ids, tokens to generate, beams and a streamer, or None, to the sequences.
    """

    implementation: str
    dtype: str
    generate: Callable[[Tensor, int, int, Any], Tensor]


class Clock:
    """A streamer that notes when each token came."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, _value: Tensor) -> None:
        """First the prompt, then each token."""
        self.moments.append(perf_counter())

    def end(self) -> None:
        """Nothing more comes."""

    def intervals(self) -> list[float]:
        """Seconds from each new token to the next."""
        return [after - before for before, after in pairwise(self.moments[1:])]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def parser() -> Parser:
    """The options."""
    made = benchmark_parser("generation", str(__doc__).split("\n")[0])
    made.add_argument(
        "--cases", nargs="+", choices=list(CASES), help="what is measured (default: all)"
    )
    return made


def run(arguments: argparse.Namespace) -> int:
    """The benchmark, top to bottom."""
    prepare_transformers()
    torch.set_num_threads(arguments.threads)
    cases = QUICK_CASES if arguments.quick else CASES
    usual = [name for name in cases if arguments.device != "cpu" or name in ON_CPU]
    name = f"generation{'_quick' * arguments.quick}"
    run = Run(arguments.out / f"{name}.csv", arguments, {"command_dtype": arguments.dtype})
    load_once = lru_cache(maxsize=1)(partial(load, dtype=arguments.dtype, device=arguments.device))
    chosen = [cases.get(case, CASES[case]) for case in arguments.cases or usual]
    steps = [Case({"case": text.name}, partial(measure, text, load_once)) for text in chosen]
    run.measure(steps, len(steps))
    print(generation_table(run.rows))
    try_to_draw(draw_generation, arguments.out, name)
    return 0


def load(family: str, dtype: str, device: str) -> tuple[list[Side], LanguageModel]:
    """Every side with the same weights, theirs first, and our optimized model in `dtype`."""
    import transformers

    class_name, sizes = SHAPES[family]
    their_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        their_class(transformers.AutoConfig.for_model(family, **sizes)).save_pretrained(directory)
        theirs = their_class.from_pretrained(directory, dtype=DTYPES[dtype]).to(device).eval()

        def ours(name: str) -> Any:
            return from_pretrained(directory, dtype=DTYPES[name], device=device)

        plain, optimized = ours(dtype), optimize(ours(dtype))
        half = optimize(ours("bfloat16")) if dtype != "bfloat16" else None
    sides = [Side(THEIRS, dtype, partial(their_generate, theirs))]
    if has_compiled_side(device):
        # A model of its own, for the compiled code is kept with it.
        compiled = partial(their_generate, copy.deepcopy(theirs), cache_implementation="static")
        sides.append(Side(COMPILED, dtype, compiled))
    sides.append(Side(PLAIN, dtype, partial(our_generate, plain)))
    sides.append(Side(OPTIMIZED, dtype, partial(our_generate, optimized)))
    if half is not None:
        sides.append(Side(OPTIMIZED, "bfloat16", partial(our_generate, half)))
    return sides, optimized


def has_compiled_side(device: str) -> bool:
    """Whether transformers compiles its step there, if its cache is static."""
    return device != "cpu"


def their_generate(
    model: Any, ids: Tensor, new: int, beams: int, streamer: Any, **more: Any
) -> Tensor:
    """transformers' `generate`, with nothing but what is asked for, and `more`."""
    return model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        num_beams=beams,
        do_sample=False,
        streamer=streamer,
        **more,
    )


def our_generate(model: Any, ids: Tensor, new: int, beams: int, streamer: Any) -> Tensor:
    """Ours, asked for the same."""
    return generate(
        model,
        ids,
        torch.ones_like(ids),
        max_new_tokens=new,
        min_new_tokens=new,
        num_beams=beams,
        streamer=streamer,
    ).sequences


def measure(
    text: Text, load_family: Callable[[str], tuple[list[Side], LanguageModel]]
) -> list[Row]:
    """The rows of a case, one a side; of a growing context one for each side and range."""
    sides, model = load_family(text.family)
    config: Any = model.config
    generator = torch.Generator().manual_seed(text.rows)
    # Random ids that have no role.
    shape, highest = (text.rows, text.prompt), min(config.vocab_size - 2, 30_000)
    ids = torch.randint(2, highest, shape, generator=generator)
    ids = ids.to(next(model.parameters()).device)
    if text.bins:
        return grow(text, sides, model, ids)
    rows = compare(text, sides, model, ids)
    for row, side in zip(rows, sides, strict=True):
        if side.implementation == OPTIMIZED and side.dtype == sides[0].dtype:
            row["prepacking_seconds"] = prepacking_seconds(model)
    return rows


def check_same(text: Text, sides: Sequence[Side], ids: Tensor) -> list[float]:
    """Let every side generate once, and compare the tokens with those of the first.

    In bfloat16 two tokens are often equally likely, and rounding chooses between them.

    Returns:
        Which share of the tokens is that of the first side, of each side.

    Raises:
        ValueError: ours generated other tokens, both being in float32; or another number of them.
    """
    generated = [side.generate(ids, text.new, text.beams, None) for side in sides]
    shares = []
    for side, tokens in zip(sides, generated, strict=True):
        if tokens.shape != generated[0].shape:
            raise ValueError(
                f"{text.name}: {side.implementation} generated {tuple(tokens.shape)} tokens"
            )
        shares.append((tokens == generated[0])[:, -text.new :].float().mean().item())
        both_exact = side.dtype == sides[0].dtype == "float32"
        # What their compiler rounds otherwise is not checked here; the share says it.
        if side.implementation in (PLAIN, OPTIMIZED) and both_exact and shares[-1] < 1:
            raise ValueError(
                f"{text.name}: {side.implementation} generated {shares[-1]:.1%} of the tokens of "
                f"{sides[0].implementation}; speeds of different texts cannot be compared"
            )
    return shares


def compare(text: Text, sides: Sequence[Side], model: LanguageModel, ids: Tensor) -> list[Row]:
    """Time every side in turns, and between them the reading of memory."""
    shares = check_same(text, sides, ids)
    readings: list[float] = []
    calls = [partial(side.generate, ids, text.new, text.beams, None) for side in sides]
    seconds = take_turns(
        [LocalWorker(call, ids.device) for call in calls],
        text.rounds,
        before_round=lambda: readings.append(memory_bandwidth(ids.device)),
        description=text.name,
    )
    seq2seq = isinstance(model, Seq2SeqLM)
    context = text.new / 2 + (0 if seq2seq else text.prompt)  # halfway
    rows = []
    for side, mine, same in zip(sides, seconds, shares, strict=True):
        steps = [second / text.new for second in mine]
        needed = bytes_per_step(
            model,
            DTYPES[side.dtype].itemsize,
            tokens=text.rows * text.beams * context,
            source=text.rows * text.prompt if seq2seq else 0,
        )
        row: Row = {"implementation": side.implementation, "dtype": side.dtype}
        row |= spread("tokens_per_second", [text.rows * text.new / second for second in mine])
        row |= spread("times_faster", ratios(seconds[0], mine))
        row |= {"ms_per_step": 1e3 * median(steps), "megabytes_per_step": needed / 1e6}
        row |= spread("gigabytes_per_second_read", [reading / 1e9 for reading in readings])
        # Of the same round, for the speed of memory is not the same at all times.
        floors = [needed / reading / step for reading, step in zip(readings, steps, strict=True)]
        row |= spread("share_of_floor", floors) | {"same_tokens": same}
        for other, theirs in zip(sides, seconds, strict=True):
            if other.implementation == COMPILED:
                row |= spread("times_faster_than_compiled", ratios(theirs, mine))
        rows.append(row)
    return rows


def prepacking_seconds(model: LanguageModel) -> float:
    """What the first text of an optimized model pays for all others: prepacked weights."""
    modules = weights_of_a_step(model)
    pack = partial(prepack, modules, num_uses=10_000, num_rows=8)
    pack()  # whether it pays here is measured once in a process, which is not what is timed
    forget(modules)
    return timed(pack, next(model.parameters()).device)


def grow(text: Text, sides: Sequence[Side], model: LanguageModel, ids: Tensor) -> list[Row]:
    """Time each token while the context grows.

    The clock looks at each token as it comes, so a GPU replays no captured step here.
    """
    for side in sides:
        side.generate(ids, 20, text.beams, None)  # whatever is made once
    times: list[list[list[float]]] = [[] for _ in sides]
    readings = []
    for _ in tqdm(range(text.rounds), text.name, leave=False, unit="round"):
        readings.append(memory_bandwidth(ids.device))
        for number, side in enumerate(sides):
            clock = Clock()
            side.generate(ids, text.new, text.beams, clock)
            times[number].append(clock.intervals())
    rows = []
    edges = [round((text.new - 1) * part / text.bins) for part in range(text.bins + 1)]
    for side, mine in zip(sides, times, strict=True):
        for low, high in pairwise(edges):
            context = (low + high) / 2
            size = DTYPES[side.dtype].itemsize
            needed = bytes_per_step(model, size, tokens=text.rows * context)
            row: Row = {"implementation": side.implementation, "dtype": side.dtype}
            row |= {"context": context, "floor_ms": 1e3 * needed / median(readings)}
            steps = [1e3 * median(intervals[low:high]) for intervals in mine]
            rows.append(row | spread("ms_per_step", steps))
    return rows


if __name__ == "__main__":
    sys.exit(main())
