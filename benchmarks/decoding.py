"""What does a decoded token cost, against the tokens in the cache?

    python -m benchmarks.decoding --out DIR

A decoder of GPT-2's shape with 6 layers decodes one token after the other. Its cache is filled with
random keys and values instead of the text's, so that 32,768 tokens need not be decoded first. The
sides have the same weights, keys and values, and take turns in one process: transformers with its
cache that grows and its static one, our model as it is loaded (plain), whose cache grows, and
`optimize(model)`, with a static cache and as `generate` runs it on a CPU, with prepacked weights.
Measured are the time and the bytes of a token for 1, 8 and 32 sequences, and how long the first
token takes after a prompt of that many tokens. Before the clock starts, all scores must agree.

What `minitransformer.cost` predicts for our sides stands beside what was measured; the machine's
rates are read from --machine, and measured in a minute where there is no such file.

The floor is what cannot be less: every weight, key and value is read once, at the rate at which
memory is read. A table goes to the terminal; DIR gets decoding_DTYPE.csv and .png. A run can be
stopped: the same command with --resume goes on after the last case that was measured.

B sequences, S tokens in the cache, T tokens of a prompt, H heads, D head size, V vocabulary.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import pandas as pd
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.formulas import bytes_per_step
from benchmarks.measuring import (
    DTYPES,
    LocalWorker,
    available_memory,
    memory_bandwidth,
    ratios,
    spread,
    take_turns,
    timed,
)
from benchmarks.pictures import annotate, draw_line, quartiles
from benchmarks.report import cells, machine, printed
from benchmarks.runs import Case, Row, Run, benchmark_parser, fill_in, rates, read, records, start
from minitransformer import cost, from_pretrained, optimize
from minitransformer.arguments import positive
from minitransformer.cost.workloads import build_model
from minitransformer.fast.static_kv_cache import StaticKVCache
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import LanguageModel
from train.metrics import new_figure

THEIRS, PLAIN, OPTIMIZED = "transformers", "plain", "optimized"
GROWING, STATIC, PREPACKED = "growing", "static", "prepacked"
NEXT, FIRST = "next token", "first token"

SIZES = {"n_layer": 6, "n_embd": 768, "n_head": 12, "vocab_size": 50_257}
QUICK_SIZES = {"n_layer": 2, "n_embd": 128, "n_head": 2, "vocab_size": 2000}
SHORTEST = 64  # tokens in the cache, or of a prompt
NEW = 64  # tokens for which a session is opened, as if so many were wanted
STEPS = 4  # tokens of a turn, fewer where they take longer than this:
LONGEST_TURN = 0.4  # seconds
UNTIMED_STEPS = 3  # to check scores, to count bytes, and to learn how long one takes
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}  # of the norm of the scores
CACHES = 7  # as large as the filled one, in the memory of all sides together

# What is measured unless the command line says otherwise, usually and with --quick.
USUAL: dict[str, Any] = {"longest": 32_768, "growth": 2, "rounds": 5, "patience": 10}
QUICK: dict[str, Any] = {"longest": 32_768, "growth": 8, "rounds": 3, "patience": 1}

Read = Callable[[Tensor], Tensor]  # the next token of each sequence, (B, 1), to scores, (B, V)


@dataclass(frozen=True)
class Theirs:
    """transformers' model with one of its caches."""

    model: Any
    cache: str
    implementation = THEIRS
    reads_prompts = True

    def first(self, prompt: Tensor) -> Tensor:
        """The scores of the first new token: (B, T) to (B, V)."""
        return self._read(prompt, self._new_cache(prompt.shape[1] + NEW))

    def continued(self, keys: Tensor, values: Tensor, num_steps: int) -> Read:
        """Reads what comes after tokens with these keys and values in each layer, (B, H, S, D)."""
        cache = self._new_cache(keys.shape[2] + num_steps)
        for layer in range(self.model.config.n_layer):
            cache.update(keys, values, layer)  # copies them
        return partial(self._read, cache=cache)

    def _new_cache(self, num_positions: int) -> Any:
        import transformers

        if self.cache == GROWING:
            return transformers.DynamicCache(config=self.model.config)
        return transformers.StaticCache(self.model.config, max_cache_len=num_positions)

    def _read(self, ids: Tensor, cache: Any) -> Tensor:
        output = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return output.logits[:, -1]


@dataclass(frozen=True)
class Ours:
    """Our model, plain or optimized, with one of its caches."""

    model: LanguageModel
    implementation: str
    cache: str

    @property
    def reads_prompts(self) -> bool:
        """Whether its first token is another one's: a static cache is made after the prompt."""
        return self.cache != STATIC

    def first(self, prompt: Tensor) -> Tensor:
        """The scores of the first new token: (B, T) to (B, V)."""
        session = self._session(prompt)
        scores = session.start()
        session.close()
        return scores

    def continued(self, keys: Tensor, values: Tensor, num_steps: int) -> Read:
        """Reads what comes after tokens with these keys and values in each layer, (B, H, S, D)."""
        tokens = torch.zeros(len(keys), keys.shape[2], dtype=torch.int64, device=keys.device)
        session = self._session(tokens)
        inner = getattr(session, "session", session)  # the one that holds the cache
        inner.cache.extend(torch.ones_like(tokens, dtype=torch.bool))
        for layer in inner.cache.layers:
            layer.self_attention.update(keys.clone(), values.clone())
        if self.cache != STATIC:
            return session.step
        inner.cache = static = StaticKVCache(inner.cache, len(tokens[0]) + num_steps)

        def read(ids: Tensor) -> Tensor:
            static.advance()
            return inner.step(ids)

        return read

    def _session(self, prompt: Tensor) -> Any:
        config = GenerationConfig(max_new_tokens=NEW)
        return self.model.decoding_session(prompt, config=config, read_every_step=False)


Side = Theirs | Ours


class Text:
    """One token after the other; the likeliest comes next.

    Args:
        read: a token of each sequence, (B, 1), to the scores of the next, (B, V).
        tokens: (B, 1), the first that it reads.
    """

    def __init__(self, read: Read, tokens: Tensor) -> None:
        self.read = read
        self.tokens = tokens

    def __call__(self) -> Tensor:
        """Decode a token; gives its scores, (B, V)."""
        scores = self.read(self.tokens)
        self.tokens = scores.argmax(dim=-1, keepdim=True)  # (B, 1)
        return scores


class ByteCounter(TorchDispatchMode):
    """Counts the bytes of what PyTorch's operations read and write, each operand once.

    What is read from a processor's cache instead of its memory counts as well. Optimized models
    take the plain products here, because they are observed: a prepacked weight has as many bytes.
    """

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, and count its bytes."""
        result = func(*args, **(kwargs or {}))
        name = func.overloadpacket.__name__
        if name in ("embedding", "index_select", "index"):  # of a table, as much as comes out
            self.bytes += 2 * result.nbytes
        elif name == "index_copy_":  # of its target, as much as is copied
            self.bytes += 2 * args[3].nbytes
        elif not func.is_view and "empty" not in name:  # nor is anything read or written there
            leaves = tree_leaves([args, kwargs, result])
            operands = {(x.data_ptr(), x.shape): x for x in leaves if isinstance(x, Tensor)}
            self.bytes += sum(map(_memory, operands.values()))
        return result


def _memory(tensor: Tensor) -> int:
    """Bytes of the memory of a tensor; what is repeated without a copy counts once."""
    sizes = zip(tensor.shape, tensor.stride(), strict=True)
    count = tensor.element_size()
    for size, stride in sizes:
        count *= size if stride else 1
    return count


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    parser = benchmark_parser("decoding", str(__doc__).split("\n")[0], predicts=True)
    add: Any = parser.add_argument
    add("--batches", type=positive, nargs="+", default=[1, 8, 32], help="sequences")
    add("--longest", type=positive, help="tokens in the cache, of all sequences together")
    add("--rounds", type=positive, help="turns of each side")
    help = "seconds; prompts end where reading one may take longer"
    add("--patience", type=positive, help=help)
    return start(parser, argv, run)


def run(arguments: argparse.Namespace) -> None:
    """The benchmark, top to bottom."""
    fill_in(arguments, USUAL, QUICK)
    sizes = QUICK_SIZES if arguments.quick else SIZES
    settings: Row = {"dtype": arguments.dtype, **sizes, "rounds": arguments.rounds}
    name = f"decoding{'_quick' * arguments.quick}_{arguments.dtype}"
    run = Run(arguments, name, settings)
    longest = arguments.longest + UNTIMED_STEPS + arguments.rounds * STEPS
    sides = load(sizes | {"n_positions": longest + NEW}, arguments.dtype, arguments.device)
    machine = rates(arguments)
    run.measure(cases(arguments, sides, machine, run.rows), table, draw)


def load(sizes: Mapping[str, Any], dtype: str, device: str) -> list[Side]:
    """Every side with the same weights, theirs first."""
    import transformers

    torch.manual_seed(0)
    # Wider weights than by default, so that each of them matters to the scores.
    config = transformers.GPT2Config(
        **sizes, bos_token_id=0, eos_token_id=1, initializer_range=sizes["n_embd"] ** -0.5
    )
    with tempfile.TemporaryDirectory() as directory:
        transformers.GPT2LMHeadModel(config).save_pretrained(directory)
        theirs: Any = transformers.GPT2LMHeadModel.from_pretrained(directory, dtype=DTYPES[dtype])
        theirs = theirs.to(device).eval()
        ours: Any = partial(from_pretrained, directory, dtype=DTYPES[dtype], device=device)
        plain, optimized = ours(), optimize(ours())
    return [
        Theirs(theirs, GROWING),
        Theirs(theirs, STATIC),
        Ours(plain, PLAIN, GROWING),
        Ours(optimized, OPTIMIZED, STATIC),
        Ours(optimized, OPTIMIZED, PREPACKED),
    ]


def cases(
    plan: argparse.Namespace,
    sides: Sequence[Side],
    machine: cost.Machine | None,
    rows: list[Row],
) -> Iterator[Case]:
    """The next token for each number of sequences and of tokens; then the first, after prompts."""
    for batch in plan.batches:
        context = SHORTEST
        while batch * context <= plan.longest:
            what: Row = {"case": NEXT, "batch": batch, "context": context}
            yield Case(what, partial(measure_next, what, sides, machine, plan.rounds))
            context *= plan.growth
    context = SHORTEST
    while context <= plan.longest:
        what = {"case": FIRST, "batch": 1, "context": context}
        measure = partial(measure_first, what, sides, machine, plan.rounds, plan.patience)
        yield Case(what, measure)
        taken = [row["milliseconds"] for row in rows if what.items() <= row.items()]
        context *= plan.growth
        if max(taken) * plan.growth**2 > 1e3 * plan.patience:  # attention grows by the square
            return


@torch.no_grad()
def measure_next(
    what: Row, sides: Sequence[Side], machine: cost.Machine | None, rounds: int
) -> list[Row]:
    """Time and bytes of the next token, a row a side; or one row that says why not."""
    batch, context, model = what["batch"], what["context"], our_model(sides)
    config: Any = model.config
    weight = next(model.parameters())
    size, heads = weight.element_size(), config.num_attention_heads
    shape = batch, heads, context, config.hidden_size // heads  # (B, H, S, D)
    needed = CACHES * 2 * config.num_hidden_layers * batch * context * config.hidden_size * size
    free = available_memory(weight.device)
    if free is not None and needed > free:
        return [{"reason": f"needs {needed / 1e9:.1f} GB of memory, {free / 1e9:.1f} are free"}]
    generator = torch.Generator().manual_seed(context)
    keys, values = (torch.randn(shape, generator=generator).to(weight) for _ in range(2))
    tokens = torch.randint(2, config.vocab_size, (batch, 1), generator=generator)
    num_steps = UNTIMED_STEPS + rounds * STEPS
    texts = [
        Text(side.continued(keys, values, num_steps), tokens.to(weight.device)) for side in sides
    ]
    check_same(what, sides, [text() for text in texts])
    counted = [count_bytes(text) for text in texts]
    slowest = max(timed(text, weight.device) for text in texts)
    steps = max(1, min(STEPS, int(LONGEST_TURN / slowest)))
    readings: list[float] = []
    seconds = take_turns(
        [LocalWorker(text, weight.device, steps) for text in texts],
        rounds,
        before_round=lambda: readings.append(memory_bandwidth(weight.device)),
    )
    middle = context + UNTIMED_STEPS + rounds * steps / 2  # tokens that were there
    floor = bytes_per_step(model, size, tokens=batch * middle)
    rows = compared(what, sides, machine, seconds)
    for row, mine, bytes_moved in zip(rows, seconds, counted, strict=True):
        row |= spread("tokens_per_second", [batch / second for second in mine])
        # Of the same round, for the speed of memory is not the same at all times.
        floors = [floor / reading for reading in readings]
        row |= spread("share_of_floor", ratios(floors, mine))
        row |= {"floor_milliseconds": 1e3 * median(floors)}
        row |= {"megabytes": bytes_moved / 1e6, "floor_megabytes": floor / 1e6}
    return rows


@torch.no_grad()
def measure_first(
    what: Row, sides: Sequence[Side], machine: cost.Machine | None, rounds: int, patience: float
) -> list[Row]:
    """The time of the first token after a prompt, a row a side that reads prompts."""
    readers = [side for side in sides if side.reads_prompts]
    model = our_model(sides)
    device, config = next(model.parameters()).device, model.config
    generator = torch.Generator().manual_seed(what["context"])
    shape = what["batch"], what["context"]
    prompt = torch.randint(2, config.vocab_size, shape, generator=generator).to(device)  # (B, T)
    scores: list[Tensor] = []
    calls = [partial(side.first, prompt) for side in readers]

    def keep(call: Callable[[], Tensor]) -> None:
        scores.append(call())

    slowest = max(timed(partial(keep, call), device) for call in calls)
    check_same(what, readers, scores)
    rounds = max(1, min(rounds, int(patience / slowest)))
    seconds = take_turns([LocalWorker(call, device) for call in calls], rounds)
    return compared(what, readers, machine, seconds)


def our_model(sides: Sequence[Side]) -> LanguageModel:
    """One of our models, for its sizes."""
    return next(side.model for side in sides if isinstance(side, Ours))


def count_bytes(call: Callable[[], object]) -> int:
    """The bytes that the operations of a call read and write."""
    with ByteCounter() as counter:
        call()
    return counter.bytes


def check_same(what: Row, sides: Sequence[Side], scores: Sequence[Tensor]) -> None:
    """Compare scores, (B, V) each, with those of the first side.

    Raises:
        ValueError: they differ by more than the dtype explains.
    """
    expected = scores[0].float()
    allowed = TOLERANCES[str(scores[0].dtype).removeprefix("torch.")]
    for side, found in zip(sides, scores, strict=True):
        share = float((found.float() - expected).norm() / expected.norm())
        if not share <= allowed:  # nor is it where something is NaN
            raise ValueError(
                f"{what}: the scores of {side.implementation} with its {side.cache} cache and of "
                f"transformers differ by {share:.2g} of their norm; speeds of different "
                "computations cannot be compared"
            )


def compared(
    what: Row,
    sides: Sequence[Side],
    machine: cost.Machine | None,
    seconds: Sequence[Sequence[float]],
) -> list[Row]:
    """A row a side: its time, measured and predicted, and how many times faster than transformers.

    The default is transformers with the cache that grows; the best is its faster one.
    """
    theirs = [mine for side, mine in zip(sides, seconds, strict=True) if isinstance(side, Theirs)]
    best = min(theirs, key=median)
    rows = []
    for side, mine in zip(sides, seconds, strict=True):
        row: Row = {"implementation": side.implementation, "cache": side.cache}
        row |= spread("milliseconds", [1e3 * second for second in mine])
        if machine and isinstance(side, Ours):
            work = traced(what, side)
            row |= {"predicted_milliseconds": 1e3 * machine.seconds(work)}
            row |= {"predicted_megabytes": work.bytes / 1e6} if what["case"] == NEXT else {}
        row |= spread("times_default", ratios(theirs[0], mine))
        rows.append(row | spread("times_best", ratios(best, mine)))
    return rows


def traced(what: Row, side: Ours) -> cost.Work:
    """The operations of a case; those of an optimized prompt are a plain one's."""
    config: Any = side.model.config
    batch, context = what["batch"], what["context"]
    weight = next(side.model.parameters())
    dtype = str(weight.dtype).removeprefix("torch.")
    if what["case"] == NEXT and side.cache != STATIC:
        implementation = "optimized" if side.cache == PREPACKED else "sdpa"
        sizes = {"batch": batch, "context": context}
        return cost.token(config, **sizes, dtype=dtype, implementation=implementation)

    def build() -> Callable[[], object]:
        model: Any = build_model(config, context + 1, dtype, "sdpa")
        plain = Ours(model, PLAIN, side.cache)
        if what["case"] == FIRST:
            return torch.no_grad()(partial(plain.first, torch.zeros(batch, context).long()))
        heads = config.num_attention_heads
        shape = batch, heads, context, config.hidden_size // heads  # (B, H, S, D)
        keys = torch.zeros(shape, dtype=weight.dtype)
        read = plain.continued(keys, keys, num_steps=1)
        return torch.no_grad()(Text(read, torch.zeros(batch, 1).long()))

    return cost.trace(build)


def table(frame: pd.DataFrame) -> str:
    """A line for each side of each case."""
    columns = {
        "case": frame["case"],
        "batch": frame["batch"],
        "tokens before": frame["context"],
        "side": frame["implementation"],
        "cache": frame["cache"],
        "ms": cells(frame, "milliseconds", "{:.1f}"),
        "predicted": cells(frame, "predicted_milliseconds", "{:.1f}"),
        "tokens/s": cells(frame, "tokens_per_second", "{:.1f}"),
        "of floor": cells(frame, "share_of_floor", "{:.0%}"),
        "MB": cells(frame, "megabytes", "{:,.0f}"),
        "predicted MB": cells(frame, "predicted_megabytes", "{:,.0f}"),
        "floor MB": cells(frame, "floor_megabytes", "{:,.0f}"),
        "x default": cells(frame, "times_default"),
        "x best": cells(frame, "times_best"),
    }
    ends = frame[frame["reason"].notna()] if "reason" in frame else frame[:0]
    reasons = [f"{e.case}, batch {e.batch}, {e.context}: {e.reason}" for e in ends.itertuples()]
    return "\n".join([printed(frame, columns), *reasons])


COLOURS = {
    (THEIRS, GROWING): "tab:gray",
    (THEIRS, STATIC): "black",
    (PLAIN, GROWING): "tab:red",
    (OPTIMIZED, STATIC): "tab:green",
    (OPTIMIZED, PREPACKED): "tab:blue",
}
Curves = Sequence[tuple[tuple[str, str], pd.DataFrame]]


def draw(directory: Path, name: str) -> None:
    """Draw NAME.png.

    Time and bytes of the next token of one sequence, tokens a second of several, and the time of
    the first token.
    """
    frame = read(directory / f"{name}.csv")
    frame = frame[frame["milliseconds"].notna()]
    one = frame.iloc[0]
    figure = new_figure()
    figure.set_size_inches(13, 10)
    figure.suptitle(
        f"What a decoded token costs: GPT-2 with {one['n_layer']:.0f} layers, hidden size "
        f"{one['n_embd']:.0f}, {one['vocab_size']:,.0f} tokens of the vocabulary, {one['dtype']}\n"
        f"{machine(one)}; medians and quartiles",
        fontsize=10,
    )
    (times, sizes), (speeds, firsts) = figure.subplots(2, 2)
    following = frame[frame["case"] == NEXT]
    alone = following[following["batch"] == following["batch"].min()]
    _draw_times(times, _curves(alone))
    _draw_bytes(sizes, _curves(alone))
    _draw_speeds(speeds, following)
    if len(prompts := frame[frame["case"] == FIRST]):
        _draw_first(firsts, _curves(prompts))
    else:
        firsts.set_axis_off()
    handles, labels = times.get_legend_handles_labels()
    if any(line.get_linestyle() == "--" for line in times.lines):
        handles += times.plot([], [], "--", color="black", linewidth=1)
        labels.append("predicted")
    figure.legend(handles, labels, loc="outside lower center", ncols=4, fontsize=9)
    figure.savefig(directory / f"{name}.png")


def _curves(rows: pd.DataFrame) -> Curves:
    """The rows of each side, by length."""
    sides = rows.sort_values("context").groupby(["implementation", "cache"], sort=False)
    return [(side, curve) for side, curve in sides]


def _label(side: tuple[str, str]) -> str:
    return f"{side[0]}, {side[1]} {'weights' if side[1] == PREPACKED else 'cache'}"


def _draw_times(axes: Any, curves: Curves) -> None:
    """Milliseconds of the next token, and below it what no program can reach."""
    axes.set_title("time of the next token, one sequence", fontsize=10)
    axes.set_ylabel("milliseconds (log scale)")
    axes.set_yscale("log")
    for side, curve in curves:
        draw_line(axes, curve, "context", "milliseconds", color=COLOURS[side], label=_label(side))
    _draw_predicted(axes, curves)
    floor = curves[-1][1]
    axes.fill_between(floor["context"], floor["floor_milliseconds"], color="gold", alpha=0.35)
    axes.plot(
        floor["context"],
        floor["floor_milliseconds"],
        color="goldenrod",
        label="floor: every weight, key and value is read once",
    )
    axes.set_ylim(bottom=floor["floor_milliseconds"].min() / 2)
    rate = (floor["floor_megabytes"] / floor["floor_milliseconds"]).median()  # GB/s
    text = f"no program can be below the floor: memory is read at {rate:.0f} GB a second"
    place = (floor["context"].iloc[0], axes.get_ylim()[0])
    annotate(axes, text, place, (12, 10), color="saddlebrown")
    _over_lengths(axes, floor, "tokens in the cache")


def _draw_bytes(axes: Any, curves: Curves) -> None:
    """Megabytes of the next token: what must be read, stacked, and what each side moves."""
    axes.set_title("bytes of the next token, one sequence", fontsize=10)
    axes.set_ylabel("megabytes read and written")
    floor = curves[-1][1]
    across, needed = floor["context"], floor["floor_megabytes"]
    # Keys and values grow with the length; what is left at length 0 is the weights.
    slope = (needed.iloc[-1] - needed.iloc[0]) / (across.iloc[-1] - across.iloc[0])
    weights = needed.iloc[0] - slope * across.iloc[0]
    axes.fill_between(across, weights, color="gold", alpha=0.5)
    axes.fill_between(across, weights, needed, color="orange", alpha=0.5)
    for side, curve in curves:
        axes.plot(curve["context"], curve["megabytes"], color=COLOURS[side], marker="o", ms=3)
    middle = across.iloc[len(across) // 3]
    annotate(axes, f"weights: {weights:,.0f} MB", (middle, weights / 2), (0, 0), va="center")
    equal = weights / slope
    if equal < across.iloc[-1]:
        height = 0.55 * max(curve["megabytes"].max() for _, curve in curves)  # above all curves
        axes.plot([equal] * 2, [0, height], ":", color="black", linewidth=1)
        text = f"from {equal:,.0f} tokens on, keys and\nvalues are more than the weights"
        annotate(axes, text, (equal, height), (-6, 0), ha="right", va="top")
    growing = next(curve for side, curve in curves if side[1] == GROWING)
    text = "a growing cache is copied for\neach token: keys and values\nare moved three times"
    place = (growing["context"].iloc[-1], growing["megabytes"].iloc[-1])
    annotate(axes, text, place, (-28, -4), ha="right", va="top")
    axes.set_ylim(bottom=0)
    _over_lengths(axes, floor, "tokens in the cache")


def _draw_speeds(axes: Any, rows: pd.DataFrame) -> None:
    """Tokens a second of several sequences, all with caches of the same length."""
    from matplotlib.ticker import LogLocator

    batches = sorted(rows["batch"].unique().tolist())
    context = rows[rows["batch"] == batches[-1]]["context"].max()
    axes.set_title(
        f"tokens a second, all sequences together, {context:,.0f} tokens in the cache of each",
        fontsize=10,
    )
    axes.set_ylabel("tokens a second (log scale)")
    axes.set_yscale("log")
    sides = list(COLOURS)
    for row in records(rows[rows["context"] == context]):
        side, speed = (row["implementation"], row["cache"]), row["tokens_per_second"]
        place = batches.index(row["batch"]) + (sides.index(side) - (len(sides) - 1) / 2) * 0.15
        limit = speed / row["share_of_floor"]
        axes.plot([place] * 2, [speed, limit], ":", color=COLOURS[side], linewidth=1)
        axes.plot(place, limit, "_", ms=18, mew=3, color="goldenrod")
        errors = quartiles(row, "tokens_per_second")
        axes.errorbar(place, speed, errors, fmt="o", capsize=3, color=COLOURS[side])
        share, low = f"{row['share_of_floor']:.0%}", row["tokens_per_second_low"]
        annotate(axes, share, (place, min(speed, low)), (0, -8), ha="center", va="top")
    axes.set_xticks(range(len(batches)), [f"{n} sequence{'s' * (n > 1)}" for n in batches])
    axes.set_xlim(-0.5, len(batches) - 0.5)
    axes.set_xlabel("yellow: the floor; in percent: the share of it that is reached")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()
    axes.margins(y=0.12)
    axes.grid(axis="y", alpha=0.25)


def _draw_first(axes: Any, curves: Curves) -> None:
    """Milliseconds from a prompt to the first token."""
    axes.set_title("time of the first token, one prompt", fontsize=10)
    axes.set_ylabel("milliseconds (log scale)")
    axes.set_yscale("log")
    for side, curve in curves:
        draw_line(axes, curve, "context", "milliseconds", color=COLOURS[side])
    _draw_predicted(axes, curves)
    _over_lengths(axes, curves[0][1], "tokens of the prompt, all of which are read at once")


def _draw_predicted(axes: Any, curves: Curves) -> None:
    """What was predicted, dashed; it is the same for both optimized sides."""
    for side, curve in curves:
        if "predicted_milliseconds" in curve and side[0] != THEIRS and side[1] != STATIC:
            predicted = curve["predicted_milliseconds"]
            axes.plot(curve["context"], predicted, "--", color=COLOURS[side], linewidth=1)


def _over_lengths(axes: Any, curve: pd.DataFrame, label: str) -> None:
    """A logarithmic axis with a tick for each length."""
    axes.set_xscale("log", base=2)
    axes.set_xticks(curve["context"], [f"{length:,.0f}" for length in curve["context"]])
    axes.tick_params(axis="x", labelsize=8)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.set_xlabel(label)
    axes.grid(alpha=0.25)


if __name__ == "__main__":
    sys.exit(main())
