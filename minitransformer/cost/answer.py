"""The answer of `minitransformer cost`: time, peak memory, what dominates, and what would fit.

B sequences, T tokens of each.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from minitransformer.cost.machine import PASSES, Machine, calibrate, environment
from minitransformer.cost.operations import Work
from minitransformer.cost.workloads import build_model, model, token
from minitransformer.models.bart import BartConfig
from minitransformer.models.bert import BertConfig
from minitransformer.models.config import Config
from minitransformer.models.distilbert import DistilBertConfig
from minitransformer.models.gpt2 import GPT2Config
from minitransformer.models.roberta import RobertaConfig
from minitransformer.models.t5 import T5Config

_LARGE_SIZES: dict[str, Any] = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
# The sizes of well-known checkpoints, whose cost can be asked for without downloading them.
KNOWN: dict[str, Callable[[], Config]] = {
    "bert-base-uncased": BertConfig,
    "bert-large-uncased": lambda: BertConfig(**_LARGE_SIZES),
    "roberta-base": RobertaConfig,
    "roberta-large": lambda: RobertaConfig(**_LARGE_SIZES),
    "distilbert-base-uncased": DistilBertConfig,
    "gpt2": GPT2Config,
    "gpt2-medium": lambda: GPT2Config(
        hidden_size=1024, num_hidden_layers=24, num_attention_heads=16
    ),
    "t5-small": T5Config,
    "facebook/bart-large": BartConfig,
}
LENGTHS = (128, 512, 2048, 8192, 32_768)
_LONGEST = 2**30  # tokens; nothing longer is looked for
_FEWEST = 3  # lengths, which determine how memory grows


@dataclass(frozen=True, kw_only=True)
class Question:
    """What is asked.

    Attributes:
        config: of the model.
        batch, length: B and T; T tokens are in the cache where a token is decoded.
        task: "train" (a step), "decode" (a token) or "read" (a forward pass).
        dtype: "float32" or "bfloat16".
        attention: "eager", "sdpa", or "optimized".

    Raises:
        ValueError: there are more tokens than can be counted.
    """

    config: Config
    batch: int = 1
    length: int
    task: str = "read"
    dtype: str = "float32"
    attention: str = "sdpa"

    def __post_init__(self) -> None:
        for name, limit in (("batch", 2**20), ("length", 2**18)):
            if (value := getattr(self, name)) > limit:
                raise ValueError(f"{name}={value:,} is too large; at most {limit:,} are counted")

    def work(self, length: int) -> Work:
        """Its operations for another length."""
        settings: dict[str, Any] = {
            "dtype": self.dtype,
            "implementation": self.attention,
            "batch": self.batch,
        }
        if self.task == "decode":
            return token(self.config, context=length, **settings)
        return model(self.config, length=length, train=self.task == "train", **settings)

    def num_parameters(self) -> int:
        """How many parameters the model has."""
        from torch._subclasses.fake_tensor import FakeTensorMode

        with FakeTensorMode():
            built = build_model(self.config, self.length, self.dtype, self.attention)
            return sum(parameter.numel() for parameter in built.parameters())


class Row(NamedTuple):
    """What a length costs: seconds, bytes, and attention's share of the seconds."""

    length: int
    seconds: float
    bytes: float
    attention: float


@dataclass(frozen=True)
class Answer:
    """What a question costs on a machine.

    Attributes:
        seconds: of the whole.
        tokens_per_second: of all sequences.
        peak_bytes: largest memory at a time: parameters, AdamW's averages, cache and all results.
        memory: that the machine has.
        parameters: number of the model's parameters.
        parts: seconds of each part of the model.
        kinds: seconds of each kind of operation, the longest first.
        flops: of matrix products and attention kernels.
        rows: of T itself, of each of :data:`LENGTHS` that fits, and of the longest that does.
        crossover: the T from which on attention takes longer than all the rest; None: beyond the
            longest of the rows.
        longest: the largest T whose memory the machine has, to three digits.
    """

    seconds: float
    tokens_per_second: float
    peak_bytes: float
    memory: int
    parameters: int
    parts: dict[str, float]
    kinds: dict[str, float]
    flops: float
    rows: list[Row]
    crossover: float | None
    longest: int


def answer(question: Question, machine: Machine) -> Answer:
    """Count the question's operations at several lengths, and predict what they cost."""
    from tqdm import tqdm

    works: dict[int, Work] = {}
    longest = 0
    for length in tqdm(sorted({*LENGTHS, question.length}), "counting", leave=False):
        if length > question.length and len(works) >= _FEWEST and longest < length:
            if longest > max(works):
                works[longest] = question.work(longest)
            break  # what does not fit takes longest to count
        works[length] = question.work(length)
        if len(works) >= _FEWEST:
            sizes = [memory_of(work) for work in works.values()]
            longest = longest_that_fits(list(works), sizes, machine.memory)
    parts = [machine.seconds_by_part(work) for work in works.values()]
    attention = [found.get("attention", 0.0) for found in parts]
    rest = [sum(found.values()) - mine for found, mine in zip(parts, attention, strict=True)]
    rows = [
        Row(length, mine + other, memory_of(work), mine / (mine + other))
        for (length, work), mine, other in zip(works.items(), attention, rest, strict=True)
    ]
    here = list(works).index(question.length)
    overtakes = crossing(list(works), attention, rest)
    if overtakes is None and attention[-1] > rest[-1]:  # at every length
        overtakes = rows[0].length, attention[0]
    done = question.batch * (1 if question.task == "decode" else question.length)
    return Answer(
        seconds=rows[here].seconds,
        tokens_per_second=done / rows[here].seconds,
        peak_bytes=rows[here].bytes,
        memory=machine.memory,
        parameters=question.num_parameters(),
        parts=parts[here],
        kinds=machine.seconds_by_kind(works[question.length]),
        flops=works[question.length].flops,
        rows=rows,
        crossover=None if overtakes is None else overtakes[0],
        longest=longest,
    )


def memory_of(work: Work) -> float:
    """Bytes at the highest: what is held, AdamW's two averages if it runs, and all results."""
    averages = sum(
        2 * one.amount * getattr(torch, one.dtype).itemsize
        for one in work.operations
        if one.kind == "adamw"
    )
    return work.held_bytes + averages + work.temporary_bytes


def describe(question: Question, found: Answer, machine: Machine) -> str:
    """The answer in words."""
    tasks = {"train": "a training step", "decode": "a decoded token", "read": "a forward pass"}
    where = "in the cache" if question.task == "decode" else "each"
    sequences = f"{question.batch} sequence{'s' * (question.batch > 1)}"
    about = machine.about
    threads = f"{about['threads']} thread{'s' * (about['threads'] > 1)}"
    longest = f"about {found.longest:,} tokens fit" if found.longest else "no length fits"
    lines = [
        f"{tasks[question.task]} of {type(question.config).__name__.removesuffix('Config')}, "
        f"{found.parameters / 1e6:,.0f} million parameters: {sequences}, {question.length:,} "
        f"tokens {where}, {question.dtype}, attention={question.attention}",
        f"on {about['processor']}, {threads}, measured on {about['date']}",
        "",
        f"time           {_time(found.seconds)}, {found.tokens_per_second:,.0f} tokens a second",
        f"peak memory    {found.peak_bytes / 1e9:,.2f} GB of the {found.memory / 1e9:,.1f} GB here",
        f"longest        {longest}",
        f"attention      {_crossover(found)}",
        f"by part        {_shares(found.parts)}",
        f"by operation   {_shares(found.kinds)}",
        f"FLOPs          {found.flops / 1e9:,.1f} GFLOP, {found.flops / found.seconds / 1e9:,.0f} "
        "GFLOP/s over the whole time",
        "",
        f"{'tokens':>10} {'time':>10} {'memory':>10} {'attention':>10}",
    ]
    lines += [
        f"{row.length:>10,} {_time(row.seconds):>10} {row.bytes / 1e9:>7,.2f} GB "
        f"{row.attention:>10.0%}" + "   does not fit" * (row.bytes > found.memory)
        for row in found.rows
    ]
    limit = getattr(question.config, "max_sequence_length", None)
    if limit is not None and question.length > limit:
        lines.append(
            f"\nnote: the model has positions for {limit:,} tokens; a longer table is counted"
        )
    return "\n".join(lines)


def _time(seconds: float) -> str:
    return f"{seconds:,.2f} s" if seconds >= 1 else f"{1e3 * seconds:,.2f} ms"


def _shares(times: Mapping[str, float]) -> str:
    """Names with their share of the time, the largest first; what is below 1% is left out."""
    total = sum(times.values())
    ordered = sorted(times.items(), key=lambda item: -item[1])
    return ", ".join(f"{name} {t / total:.0%}" for name, t in ordered if t / total >= 0.01)


def _crossover(found: Answer) -> str:
    if found.crossover is None:
        return f"takes less time than all the rest up to {found.rows[-1].length:,} tokens"
    if found.crossover == found.rows[0].length:
        return "takes longer than all the rest at every length in the table"
    return f"takes longer than all the rest from about {found.crossover:,.0f} tokens on"


def config_of(name: str) -> Config:
    """The config of a well-known name, of a directory, or of a name on the hub.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    if name in KNOWN and not Path(name).exists():
        return KNOWN[name]()
    return Config.from_pretrained(name)


def crossing(
    lengths: Sequence[float], rising: Sequence[float], other: Sequence[float]
) -> tuple[float, float] | None:
    """Length and cost where one curve overtakes another for good, between points as power laws.

    None where the rising one is below at the last point, or above at every point.
    """
    across, up = np.log(lengths), np.log(rising)
    gaps = up - np.log(other)
    below = np.flatnonzero(gaps < 0)
    if not len(below) or below[-1] == len(gaps) - 1:
        return None
    here = slice(below[-1], below[-1] + 2)
    place = np.interp(0, gaps[here], across[here])
    return float(np.exp(place)), float(np.exp(np.interp(place, across, up)))


def longest_that_fits(lengths: Sequence[int], sizes: Sequence[float], memory: float) -> int:
    """The largest length whose bytes are at most `memory`, to three digits.

    Memory is a polynomial of the length, of the second degree where a mask or the weights of
    attention are kept. The three greatest lengths determine it.
    """
    last = slice(-_FEWEST, None)
    bytes_of = np.poly1d(np.polyfit(lengths[last], [float(size) for size in sizes[last]], 2))
    longest = bisect_right(range(1, _LONGEST), memory, key=bytes_of)
    digits = 10 ** max(0, len(str(longest)) - 3)
    return longest // digits * digits


def machine_file(threads: int) -> Path:
    """Where the rates of this machine are kept, for a number of threads."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"machine-{torch.backends.cpu.get_cpu_capability().lower()}-{threads}-threads.json"
    return cache / "minitransformer" / name


def load_or_calibrate(
    path: Path, threads: int, dtypes: Sequence[str], *, again: bool = False, passes: int = PASSES
) -> Machine:
    """The rates in a file; those of this machine that it lacks are measured and written to it.

    Args:
        path: of the file.
        threads: of the CPU.
        dtypes: whose rates are needed.
        again: whether to measure although there are rates.
        passes: of :func:`calibrate`.

    Raises:
        ValueError: the file is of something else, or of another machine, or there are not so many
            threads.
    """
    if threads > (cores := os.cpu_count() or threads):
        raise ValueError(f"threads={threads}: this machine has {cores}")
    rates = {}
    if path.exists() and not again:
        machine = Machine.load(path)
        for name, value in environment(threads).items():
            if name != "date" and machine.about[name] != value:
                raise ValueError(
                    f"{path} was measured with {name} {machine.about[name]!r:.200}, this is "
                    f"{value!r}; measure this machine with --calibrate"
                )
        rates = machine.rates
        if set(dtypes) <= set(rates):
            return machine
    path.parent.mkdir(parents=True, exist_ok=True)  # fails before a minute of measuring
    measured = calibrate(threads, [dtype for dtype in dtypes if dtype not in rates], passes)
    machine = replace(measured, rates=rates | measured.rates)
    machine.save(path)
    return machine
