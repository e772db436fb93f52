"""How fast is text written, beside transformers' `generate` as a user gets it?

    python -m benchmarks.generation --out DIR

Both sides load the same weights (random ones, in the shapes of real checkpoints; ours is optimized,
unless --plain), get the same prompts and write the same number of tokens, in turns in one run.
Before a clock starts, both must have written the same tokens in float32; in bfloat16 the report
says how many were the same. On a GPU (`--device cuda`) a third side is transformers' `generate`
with its static cache, which it compiles. A table goes to the terminal; DIR gets generation.csv,
.json and .png. benchmarks/results/README.md says what the columns mean.
"""

import argparse
import copy
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from statistics import median
from time import perf_counter
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from benchmarks.arguments import add_plain_option, benchmark_parser
from benchmarks.comparison import prepare_transformers
from benchmarks.generation_report import save, table
from benchmarks.measuring import DTYPES, memory_bandwidth, ratios, spread, take_turns, timed
from benchmarks.reporting import environment, load_average
from minitransformer import from_pretrained, generate, optimize
from minitransformer.arguments import Parser
from minitransformer.fast.prepacked_linear import forget, prepack, weights_of_a_step
from minitransformer.models.base import LanguageModel, Seq2SeqLM
from train.arguments import run_job

OURS, THEIRS, COMPILED = "minitransformer", "transformers", "transformers compiled"
STATIC = {"cache_implementation": "static"}  # which transformers compiles where it can

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
class Case:
    """What is written: greedily from prompts, or by beams from sources."""

    name: str
    family: str  # of SHAPES
    rows: int
    beams: int
    prompt: int  # tokens of a prompt or source
    new: int  # tokens that are written


CASES = [
    Case("GPT-2, 1 prompt", "gpt2", rows=1, beams=1, prompt=32, new=128),
    Case("GPT-2, 8 prompts", "gpt2", rows=8, beams=1, prompt=32, new=128),
    Case("T5, 1 source, 4 beams", "t5", rows=1, beams=4, prompt=32, new=64),
    Case("T5, 8 sources, 4 beams", "t5", rows=8, beams=4, prompt=32, new=64),
    Case("Marian, 1 source, 4 beams", "marian", rows=1, beams=4, prompt=32, new=64),
    Case("Marian, 8 sources, 4 beams", "marian", rows=8, beams=4, prompt=32, new=64),
]
# Where a GPU writes, most of the time is that of the host; these are written without beams too.
CUDA_CASES = [
    *CASES,
    Case("T5, 8 sources, greedy", "t5", rows=8, beams=1, prompt=32, new=64),
    Case("Marian, 8 sources, greedy", "marian", rows=8, beams=1, prompt=32, new=64),
]
QUICK = [replace(CASES[number], new=16) for number in (0, 1, 2, 4)]


@dataclass(frozen=True)
class Plan:
    """How much is measured."""

    cases: list[Case]
    rounds: int  # in each of which every side writes once
    curve_rows: list[int]  # prompts that are written side by side while the context grows
    curve_tokens: int  # to which it grows, from one token on
    curve_bins: int
    curve_rounds: int


FULL_PLAN = Plan(CASES, rounds=5, curve_rows=[1], curve_tokens=900, curve_bins=15, curve_rounds=3)
CUDA_PLAN = replace(FULL_PLAN, cases=CUDA_CASES)
QUICK_PLAN = Plan(QUICK, rounds=3, curve_rows=[1], curve_tokens=60, curve_bins=4, curve_rounds=1)


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
        tokens = self.moments[1:]
        return [after - before for before, after in pairwise(tokens)]


# Ids, tokens to write, beams and a streamer, or None, to the sequences.
Write = Callable[[Tensor, int, int, Any], Tensor]


@dataclass(frozen=True)
class Side:
    """One library with a model in one dtype."""

    library: str
    dtype: str
    write: Write


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments, plan_for(arguments)))


def plan_for(arguments: argparse.Namespace) -> Plan:
    """What is measured where."""
    if arguments.quick:
        return QUICK_PLAN
    return FULL_PLAN if arguments.device == "cpu" else CUDA_PLAN


def parser() -> Parser:
    """The options."""
    made = benchmark_parser(
        "generation",
        str(__doc__).split("\n")[0],
        dtype_help="of both sides; beside float32, ours is measured in bfloat16 too",
    )
    add_plain_option(made)
    return made


def run(arguments: argparse.Namespace, plan: Plan) -> int:
    """The benchmark, top to bottom."""
    prepare_transformers()
    torch.set_num_threads(arguments.threads)
    start = environment(arguments.device)
    speeds: list[dict[str, Any]] = []
    curves: list[dict[str, Any]] = []
    copying = {}
    for family in dict.fromkeys(case.family for case in plan.cases):
        sides, model = load(family, arguments.dtype, arguments.device, plain=arguments.plain)
        if not arguments.plain:
            copying[family] = seconds_to_copy(model)
        for case in plan.cases:
            if case.family == family:
                speeds += compare(case, sides, model, plan.rounds)
        if not isinstance(model, Seq2SeqLM):
            curves += grow(sides, model, plan)
    found = {
        "environment": start | {"load_at_the_end": load_average()},
        "plan": {name: getattr(arguments, name) for name in ("quick", "dtype", "plain")},
        "seconds_to_copy_weights": copying,
        "speeds": speeds,
        "curves": curves,
    }
    print(table(found))
    save(found, arguments.out)
    return 0


def load(
    family: str, dtype: str, device: str, *, plain: bool = False
) -> tuple[list[Side], LanguageModel]:
    """Every side with the same weights, theirs first, and our model in `dtype`."""
    import transformers

    class_name, sizes = SHAPES[family]
    their_class = getattr(transformers, class_name)
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as directory:
        their_class(transformers.AutoConfig.for_model(family, **sizes)).save_pretrained(directory)
        theirs = their_class.from_pretrained(directory, dtype=DTYPES[dtype]).to(device).eval()
        ours = {
            name: from_pretrained(directory, dtype=DTYPES[name], device=device)
            for name in dict.fromkeys([dtype, "bfloat16"])
        }
    if not plain:
        ours = {name: optimize(model) for name, model in ours.items()}
    sides = [Side(THEIRS, dtype, their_write(theirs))]
    if has_compiled_side(device):
        # A model of its own, for the compiled code is kept with it.
        sides.append(Side(COMPILED, dtype, their_write(copy.deepcopy(theirs), STATIC)))
    sides += [Side(OURS, name, our_write(model)) for name, model in ours.items()]
    return sides, ours[dtype]  # type: ignore[return-value]


def has_compiled_side(device: str) -> bool:
    """Whether transformers compiles its step there, if its cache is static."""
    return device != "cpu"


def their_write(model: Any, more: Mapping[str, Any] = MappingProxyType({})) -> Write:
    """transformers' `generate`, with nothing but what is asked for, or with `more`."""

    def write(ids: Tensor, new: int, beams: int, streamer: Any) -> Tensor:
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

    return write


def our_write(model: Any) -> Write:
    """Ours, asked for the same."""

    def write(ids: Tensor, new: int, beams: int, streamer: Any) -> Tensor:
        return generate(
            model,
            ids,
            torch.ones_like(ids),
            max_new_tokens=new,
            min_new_tokens=new,
            num_beams=beams,
            streamer=streamer,
        ).sequences

    return write


def prompts(rows: int, length: int, model: LanguageModel) -> Tensor:
    """Random ids that have no role: (rows, length)."""
    config: Any = model.config
    generator = torch.Generator().manual_seed(rows)
    ids = torch.randint(2, min(config.vocab_size - 2, 30_000), (rows, length), generator=generator)
    return ids.to(device_of(model))


def check_same(case: Case, sides: list[Side], ids: Tensor) -> dict[int, float]:
    """Let every side write once, and hold it against the first.

    In bfloat16 two words are often equally likely, and rounding chooses between them.

    Returns:
        Which share of the tokens is the first side's, by the number of the side.

    Raises:
        ValueError: ours wrote something else, both being in float32; or another number of tokens.
    """
    written = [side.write(ids, case.new, case.beams, None) for side in sides]
    shares = {}
    for number, (side, tokens) in enumerate(zip(sides, written, strict=True)):
        if tokens.shape != written[0].shape:
            raise ValueError(f"{case.name}: {side.library} wrote {tuple(tokens.shape)} tokens")
        new = (tokens == written[0])[:, -case.new :]
        shares[number] = new.float().mean().item()
        # What their compiler rounds otherwise is not ours to answer for; the share says it.
        both_exact = side.dtype == sides[0].dtype == "float32"
        if side.library == OURS and both_exact and shares[number] < 1:
            raise ValueError(
                f"{case.name}: {side.library} wrote {shares[number]:.1%} of the tokens of "
                f"{sides[0].library}; speeds of different texts cannot be compared"
            )
    return shares


def compare(
    case: Case, sides: list[Side], model: LanguageModel, rounds: int
) -> list[dict[str, Any]]:
    """Time every side in turns, and between them the reading of memory."""
    ids = prompts(case.rows, case.prompt, model)
    shares = check_same(case, sides, ids)
    readings: list[float] = []
    seconds = take_turns(
        [partial(side.write, ids, case.new, case.beams, None) for side in sides],
        rounds,
        ids.device,
        before_round=lambda: readings.append(memory_bandwidth(ids.device)),
        description=case.name,
    )
    compiled = next((n for n, side in enumerate(sides) if side.library == COMPILED), None)
    seq2seq = isinstance(model, Seq2SeqLM)
    context = case.new / 2 + (0 if seq2seq else case.prompt)  # halfway
    results = []
    for number, side in enumerate(sides):
        steps = [second / case.new for second in seconds[number]]
        needed = bytes_a_step(
            model,
            DTYPES[side.dtype].itemsize,
            tokens=case.rows * case.beams * context,
            source_tokens=case.rows * case.prompt if seq2seq else 0,
        )
        results.append(
            {
                "case": case.name,
                "library": side.library,
                "dtype": side.dtype,
                "tokens_per_second": spread([case.rows * case.new / s for s in seconds[number]]),
                "times_faster": spread(ratios(seconds[0], seconds[number])),
                "ms_per_step": 1e3 * median(steps),
                "megabytes_per_step": needed / 1e6,
                "gigabytes_per_second_read": spread([reading / 1e9 for reading in readings]),
                # Of the same round, for the speed of memory is not the same at all times.
                "share_of_floor": spread(
                    [needed / reading / step for reading, step in zip(readings, steps, strict=True)]
                ),
                "same_tokens": shares[number],
            }
        )
        if compiled is not None:
            against = spread(ratios(seconds[compiled], seconds[number]))
            results[-1]["times_faster_than_compiled"] = against
    return results


def seconds_to_copy(model: LanguageModel) -> float:
    """What the first text of an optimized model pays for all others: prepacked weights."""
    modules = weights_of_a_step(model)
    pack = partial(prepack, modules, num_uses=10_000, num_rows=8)
    pack()  # whether it pays here is measured once in a process, which is not what is timed
    forget(modules)
    return timed(pack, device_of(model))


def bytes_a_step(model: Any, size: int, *, tokens: float, source_tokens: float = 0) -> float:
    """What has to be read for one step, by the sizes of the model.

    Every weight of decoder and head once, however many rows are written, but not the projections of
    the source, which are done before; and the keys and values of all tokens.

    Args:
        model: ours.
        size: bytes of a number.
        tokens: that were read or written so far, of all rows together.
        source_tokens: of all sources together; the beams of one share it.
    """
    numbers = sum(p.numel() for part in weights_of_a_step(model) for p in part.parameters())
    layers: Any = getattr(model.backbone, "decoder", model.backbone).layers
    for layer in layers:
        if isinstance(model, Seq2SeqLM):
            projections = [layer.cross_attention.key, layer.cross_attention.value]
            numbers -= sum(p.numel() for part in projections for p in part.parameters())
    inner_size = layers[0].attention.output.in_features  # heads times their size
    return size * (numbers + 2 * len(layers) * inner_size * (tokens + source_tokens))


def grow(sides: list[Side], model: LanguageModel, plan: Plan) -> list[dict[str, Any]]:
    """Time each token while the context grows from one token on.

    The clock looks at each token as it comes, so a GPU repeats no recorded step here.
    """
    results = []
    for rows in plan.curve_rows:
        ids = prompts(rows, 1, model)
        for side in sides:
            side.write(ids, 20, 1, None)  # whatever is made once
        times: list[list[list[float]]] = [[] for _ in sides]
        readings = []
        for _ in tqdm(range(plan.curve_rounds), "growing context", leave=False, unit="round"):
            readings.append(memory_bandwidth(ids.device))
            for number, side in enumerate(sides):
                clock = Clock()
                side.write(ids, plan.curve_tokens, 1, clock)
                times[number].append(clock.intervals())
        for number, side in enumerate(sides):
            size = DTYPES[side.dtype].itemsize
            for low, high in bins(plan.curve_tokens - 1, plan.curve_bins):
                context = (low + high) / 2
                floor = bytes_a_step(model, size, tokens=rows * context) / median(readings)
                steps = [1e3 * median(intervals[low:high]) for intervals in times[number]]
                results.append(
                    {
                        "rows": rows,
                        "library": side.library,
                        "dtype": side.dtype,
                        "context": context,
                        "ms_per_step": spread(steps),
                        "floor_ms": 1e3 * floor,
                    }
                )
    return results


def bins(total: int, number: int) -> list[tuple[int, int]]:
    """The numbers from 0 to `total` in as many ranges of nearly equal length."""
    edges = [round(total * i / number) for i in range(number + 1)]
    return list(pairwise(edges))


def device_of(model: LanguageModel) -> torch.device:
    """Where the model is."""
    return next(model.parameters()).device


if __name__ == "__main__":
    sys.exit(main())
