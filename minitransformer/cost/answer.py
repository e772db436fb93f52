"""The answer of `minitransformer cost`: time, peak memory, what dominates, and what would fit.

B sequences, T tokens of each.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from minitransformer.cost.machine import Machine, calibrate, environment
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
        rows: (T, seconds, bytes, share of attention) for each of :data:`LENGTHS` and T itself.
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
    rows: list[tuple[int, float, float, float]]
    crossover: float | None
    longest: int


def answer(question: Question, machine: Machine) -> Answer:
    """Count the question's operations at several lengths, and predict what they cost."""
    from tqdm import tqdm

    works = {
        length: question.work(length)
        for length in tqdm(sorted({*LENGTHS, question.length}), "counting", leave=False)
    }
    rows = []
    for length, work in works.items():
        parts = machine.seconds_by_part(work)
        seconds = sum(parts.values())
        share = parts.get("attention", 0) / seconds
        rows.append((length, seconds, memory_of(work), share))
    lengths, work = list(works), works[question.length]
    seconds = machine.seconds(work)
    done = question.batch * (1 if question.task == "decode" else question.length)
    return Answer(
        seconds=seconds,
        tokens_per_second=done / seconds,
        peak_bytes=memory_of(work),
        memory=machine.memory,
        parameters=question.num_parameters(),
        parts=machine.seconds_by_part(work),
        kinds=machine.seconds_by_kind(work),
        flops=work.flops,
        rows=rows,
        crossover=crossover(lengths, [row[3] for row in rows]),
        longest=longest_that_fits(lengths, [row[2] for row in rows], machine.memory),
    )


def memory_of(work: Work) -> float:
    """Bytes at the highest: what is held, AdamW's two averages if it runs, and all results."""
    averages = sum(
        2 * one.amount * getattr(torch, one.dtype).itemsize
        for one in work.operations
        if one.kind == "adamw"
    )
    return work.held_bytes + averages + work.peak_bytes


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
        f"{length:>10,} {_time(seconds):>10} {size / 1e9:>7,.2f} GB {share:>10.0%}"
        + "   does not fit" * (size > found.memory)
        for length, seconds, size, share in found.rows
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
        return f"takes less time than all the rest up to {found.rows[-1][0]:,} tokens"
    if found.crossover == found.rows[0][0]:
        return "takes longer than all the rest at every length below"
    return f"takes longer than all the rest from about {found.crossover:,.0f} tokens on"


def config_of(name: str) -> Config:
    """The config of a well-known name, of a directory, or of a name on the hub.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    if name in KNOWN and not Path(name).exists():
        return KNOWN[name]()
    return Config.from_pretrained(name)


def crossover(lengths: Sequence[int], shares: Sequence[float]) -> float | None:
    """The length from which on attention takes more than half; None: beyond the last."""
    above = [share > 0.5 for share in shares]
    if not above[-1]:
        return None
    first = len(above) - above[::-1].index(False) if False in above else 0
    if not first:
        return float(lengths[0])
    near = slice(first - 1, first + 1)
    return float(np.exp(np.interp(0.5, shares[near], np.log(lengths[near]))))


def longest_that_fits(lengths: Sequence[int], sizes: Sequence[float], memory: float) -> int:
    """The largest length whose bytes are at most `memory`, to three digits.

    Memory is a polynomial of the length, of the second degree where a mask or the weights of
    attention are kept. The three greatest lengths determine it.
    """
    bytes_of = np.poly1d(np.polyfit(lengths[-3:], [float(size) for size in sizes[-3:]], 2))
    longest = bisect_right(range(1, _LONGEST), memory, key=bytes_of)
    digits = 10 ** max(0, len(str(longest)) - 3)
    return longest // digits * digits


def machine_file(threads: int) -> Path:
    """Where the rates of this machine are kept, for a number of threads."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    name = f"machine-{torch.backends.cpu.get_cpu_capability().lower()}-{threads}-threads.json"
    return cache / "minitransformer" / name


def load_or_calibrate(
    path: Path, threads: int, dtypes: Sequence[str], *, again: bool = False, passes: int = 5
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
