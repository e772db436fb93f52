"""Where does the time of a whole model go as the text grows?

    python -m benchmarks.time_by_part --out DIR

A training step, and a forward pass without gradients, of an encoder, a decoder and an
encoder-decoder, plain and optimized, over texts of 64, 128, 256, ... tokens. The clock is read
wherever one part of a model hands over to another, forward and backward, so that every moment
belongs to one part; see :class:`Stopwatch`. Steps that are watched take turns with steps that are
not, so that the file says how far the sum of the parts is from the whole. What `minitransformer.
cost` predicts stands beside it; the machine's rates are read from --machine,
and measured in a minute where there is no such file. A table goes to the terminal; DIR gets
time_by_part_DTYPE.csv, and a picture each of training and inference.

What belongs to a part, forward and backward:

- embeddings: the tables of tokens and positions, with their norm and dropout; masks
- projections: the maps to queries, keys and values, and the one that merges the heads
- attention: what lies between them, with the position bias of T5
- feed-forward: both maps, the activation and the dropout between them
- norms: all other norms and dropout, and the residual sums
- head: the scores of the vocabulary
- loss: the cross-entropy, and the choice of the tokens that have a label
- optimizer: AdamW and zero_grad

B batch, T tokens.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import product
from pathlib import Path
from time import perf_counter
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import nn

from benchmarks.batches import FIRST_WORD, Batch, masked_batch
from benchmarks.measuring import DTYPES, LocalWorker, spread, take_turns
from benchmarks.report import cells, machine, printed
from benchmarks.runs import Case, Row, Run, benchmark_parser, fill_in, rates, read, start
from minitransformer import cost, optimize
from minitransformer.arguments import Parser, positive
from minitransformer.cost.operations import part_of, tensors_in
from minitransformer.fast import restore
from minitransformer.models.base import Seq2SeqLM
from minitransformer.models.gpt2 import GPT2LMHeadModel
from minitransformer.models.roberta import RobertaForMaskedLM
from minitransformer.models.t5 import T5ForConditionalGeneration
from train.metrics import new_figure
from train.optimizer import build_optimizer

Boundary = Callable[..., None]

PARTS = {  # from the bottom of a picture to its top, with their colours
    "attention": "tab:red",
    "projections": "lightskyblue",
    "feed-forward": "tab:blue",
    "norms": "lightgray",
    "embeddings": "tab:brown",
    "head": "gold",
    "loss": "darkorange",
    "optimizer": "tab:green",
}
DARK = ("attention", "feed-forward", "embeddings", "optimizer")  # their names are white
WHOLE = "whole step"
MODES = TRAINING, INFERENCE = "training", "inference"
IMPLEMENTATIONS = PLAIN, OPTIMIZED = "plain", "optimized"


class Shape(NamedTuple):
    """A model, and what its config says other than by default, with --quick too."""

    label: str  # for people
    model_class: Any
    sizes: dict[str, Any]
    quick_sizes: dict[str, Any]


HALF = {"num_hidden_layers": 6}  # of the base models' layers
QUICK_SIZES = {
    "vocab_size": 2048,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
}
QUICK_GPT2 = QUICK_SIZES | {"bos_token_id": 0, "eos_token_id": 0}
QUICK_T5 = QUICK_SIZES | {"num_decoder_layers": 2, "head_size": 16}
SHAPES = {
    "encoder": Shape("encoder: RoBERTa, 6 layers", RobertaForMaskedLM, HALF, QUICK_SIZES),
    "decoder": Shape("decoder: GPT-2, 6 layers", GPT2LMHeadModel, HALF, QUICK_GPT2),
    "encoder-decoder": Shape(
        "encoder-decoder: T5, 6 + 6 layers", T5ForConditionalGeneration, {}, QUICK_T5
    ),
}
LEARNING_RATE = 5e-5

LONGEST_CASE = 40.0  # seconds of a case's rounds: the slower a step, the fewer; at least one
GROWTH = 4  # twice the length makes no step more than 4 times as slow
# What is measured unless the command line says otherwise, usually and with --quick.
USUAL: dict[str, Any] = {"shortest": 64, "longest": 4096, "rounds": 3, "budget": 30.0}
QUICK: dict[str, Any] = {"shortest": 64, "longest": 256, "rounds": 2, "budget": 0.6}
ROOM_FOR_NAME = 0.06  # of a panel's height


class Stopwatch:
    """Gives every moment of a step to one part.

    The clock is read at boundaries: at the start and the end of a module's forward, and in the
    backward pass at each node of the autograd graph. The time since the last boundary belongs to
    the part that worked until now. At each boundary, the nodes behind the tensors that pass it and
    that have no part yet get the part that just worked. The sum of two gradients belongs to the
    part that computed the later one. What the stopwatch itself takes belongs to none.

    All this holds where one thread runs one operation after the other, as on a CPU; on a GPU every
    boundary waits until it is idle.

    Attributes:
        part: the one that works.
        seconds: of each part so far.

    Args:
        device: of the model.
        clock: gives seconds.
    """

    def __init__(self, device: str = "cpu", clock: Callable[[], float] = perf_counter) -> None:
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self._device = device
        self._clock = clock
        self._nodes: set[Any] = set()  # those that have a part

    def start(self, part: str) -> None:
        """A step begins, with this part."""
        self.part = part
        self._since = self._now()

    def boundary(self, part: str, passing: Any = None) -> None:
        """From now on another part works.

        Args:
            part: its name.
            passing: what it gets from the one before; may contain tensors.
        """
        self.seconds[self.part] += self._now() - self._since
        waiting = [tensor.grad_fn for tensor in tensors_in(passing)]
        while waiting:
            node = waiting.pop()
            # A leaf, which has no node before it, adds its gradient up within the time of another.
            if node is not None and node.next_functions and node not in self._nodes:
                self._nodes.add(node)
                node.register_prehook(partial(self._begin_node, self.part))
                waiting += [earlier for earlier, _ in node.next_functions]
        self.start(part)

    def _begin_node(self, part: str, _gradients: Any) -> None:
        self.boundary(part)

    def watching(self, function: Callable[..., Any], part: str) -> Callable[..., Any]:
        """The function with a boundary before it and one after it."""

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = self.part
            self.boundary(part, (args, kwargs))
            result = function(*args, **kwargs)
            self.boundary(before, result)
            return result

        watched.computes_the_same = True  # type: ignore[attr-defined]  # an optimized model asks
        return watched

    def _now(self) -> float:
        if self._device != "cpu":
            torch.cuda.synchronize(self._device)
        return self._clock()


@contextmanager
def watched(model: Any, stopwatch: Stopwatch) -> Iterator[None]:
    """Within the block, a model whose parts are those of the stopwatch."""
    boundaries = [(module, "forward", part) for module, part in parts_inside(model)]
    # What has a name of its own: a head that is no module, an encoder that selects its outputs.
    boundaries += [(model, "logits", "head"), (model.backbone, "run", "embeddings")]
    boundaries = [boundary for boundary in boundaries if hasattr(boundary[0], boundary[1])]
    for module, name, part in boundaries:
        setattr(module, name, stopwatch.watching(getattr(module, name), part))
    try:
        yield
    finally:
        for module, name, _ in boundaries:
            delattr(module, name)


def parts_inside(module: nn.Module, *around: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The modules inside one, which is inside others, that are of another part than that one."""
    path = (*around, module)
    for child in module.children():
        part = part_of([*path, child])
        if not isinstance(child, nn.ModuleList) and (not around or part != part_of(path)):
            yield child, part
        yield from parts_inside(child, *path)


@dataclass(frozen=True)
class Step:
    """What is timed.

    Attributes:
        length: T, of one text; of an encoder-decoder, of source and target.
        model: of :data:`SHAPES`.
        mode, implementation: of :data:`MODES` and :data:`IMPLEMENTATIONS`.
    """

    length: int
    model: str
    mode: str
    implementation: str


class Runner:
    """Builds every model once and times its steps; takes the command line."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device = arguments.device
        self.dtype = DTYPES[arguments.dtype]
        self.quick = arguments.quick
        self.rounds = arguments.rounds
        self.machine = rates(arguments)
        self.built = lru_cache(maxsize=len(SHAPES) * len(MODES))(self.build)

    def build(self, name: str, mode: str, positions: int) -> tuple[Any, Any]:
        """A model with random weights, and its optimizer."""
        _, model_class, sizes, quick_sizes = SHAPES[name]
        sizes = quick_sizes if self.quick else sizes
        if hasattr(model_class.config_class, "max_position_embeddings"):  # T5 has no table
            sizes = sizes | {"max_position_embeddings": positions}
        dtype = torch.float32 if mode == TRAINING else self.dtype  # training has autocast
        model = model_class(model_class.config_class(**sizes)).to(self.device, dtype)
        model.train(mode == TRAINING)
        return model, build_optimizer(model, LEARNING_RATE, weight_decay=0.0)

    def measure(self, step: Step) -> list[Row]:
        """A row for each part, and one for the whole step without the stopwatch."""
        positions = max(1024, step.length) + 2  # two rows of RoBERTa's table belong to no token
        model, optimizer = self.built(step.model, step.mode, positions)
        (optimize if step.implementation == OPTIMIZED else restore)(model)
        batch = make_batch(model, step.length, step.mode == TRAINING)
        batch = {name: tensor.to(self.device) for name, tensor in batch.items()}
        call: Callable[[Boundary], None] = partial(infer, model, batch)
        if step.mode == TRAINING:
            call = partial(train, model, optimizer, batch, self.dtype)
        found: list[dict[str, float]] = []

        def watch() -> None:
            stopwatch = Stopwatch(self.device)
            with watched(model, stopwatch):
                stopwatch.start("loss" if step.mode == TRAINING else "head")
                call(stopwatch.boundary)
            found.append(stopwatch.seconds)

        workers = [
            LocalWorker(partial(call, no_boundary), self.device),
            LocalWorker(watch, self.device),
        ]
        first = workers[0].seconds()
        rounds = max(1, min(self.rounds, int(LONGEST_CASE / 2 / first)))
        whole, _ = take_turns(workers, rounds)
        return rows_of(whole, found, self.predict(step, model))

    def predict(self, step: Step, model: Any) -> dict[str, float]:
        """The seconds of each part by the rates of the machine; none where it does not predict."""
        under_autocast = step.mode == TRAINING and self.dtype != torch.float32
        if self.machine is None or under_autocast:
            return {}
        work = cost.model(
            model.config,
            batch=1,
            length=step.length,
            train=step.mode == TRAINING,
            dtype=str(self.dtype).removeprefix("torch."),
            implementation="optimized" if step.implementation == OPTIMIZED else "sdpa",
        )
        return self.machine.seconds_by_part(work)


def train(model: Any, optimizer: Any, batch: Batch, dtype: torch.dtype, boundary: Boundary) -> None:
    """A step of training: forward, backward, AdamW and zero_grad."""
    autocast: AbstractContextManager[Any] = nullcontext()
    if dtype != torch.float32:
        autocast = torch.autocast(batch["input_ids"].device.type, dtype)
    with autocast:
        loss = model.loss(**batch)
    boundary("loss", loss)
    loss.backward()
    boundary("optimizer")
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    boundary("optimizer")


@torch.inference_mode()
def infer(model: Any, batch: Batch, boundary: Boundary) -> None:
    """A forward pass, which scores the vocabulary at every token."""
    model(**batch)
    boundary("head")


def no_boundary(part: str, passing: Any = None) -> None:
    """A boundary at which no clock is read."""


def make_batch(model: Any, length: int, with_labels: bool) -> Batch:
    """A text of random tokens, and what is to be predicted: (1, T) each."""
    vocab_size = model.config.vocab_size
    ids = torch.randint(FIRST_WORD, vocab_size, (1, length))  # (1, T)
    if isinstance(model, RobertaForMaskedLM):
        return masked_batch({"input_ids": ids}, vocab_size) if with_labels else {"input_ids": ids}
    target = "labels" if with_labels else "decoder_input_ids"
    needs_target = with_labels or isinstance(model, Seq2SeqLM)
    return {"input_ids": ids} | ({target: ids} if needs_target else {})


def rows_of(
    whole: Sequence[float], found: Sequence[dict[str, float]], predicted: Mapping[str, float]
) -> list[Row]:
    """The rows of a step.

    Args:
        whole: its seconds, round by round.
        found: those of its parts.
        predicted: what was expected of the parts; empty if nothing was.
    """
    sums = [sum(parts.values()) for parts in found]
    worked = [part for part in PARTS if any(parts[part] for parts in found)]  # inference: no loss
    row: Row = {"part": WHOLE, **spread("milliseconds", [1e3 * second for second in whole])}
    row |= spread("sum_of_parts", [a / b for a, b in zip(sums, whole, strict=True)])
    if predicted:
        row["predicted_milliseconds"] = 1e3 * sum(predicted.get(part, 0.0) for part in worked)
    rows = [row]
    for part in worked:
        mine = [parts[part] for parts in found]
        row = {"part": part, **spread("milliseconds", [1e3 * second for second in mine])}
        row |= spread("share", [a / b for a, b in zip(mine, sums, strict=True)])
        if predicted:
            row["predicted_milliseconds"] = 1e3 * predicted.get(part, 0.0)
        rows.append(row)
    return rows


def parser() -> Parser:
    """The options."""
    made = benchmark_parser("time_by_part", str(__doc__).split("\n")[0], predicts=True)
    add = made.add_argument
    add("--models", nargs="+", choices=SHAPES, default=list(SHAPES), help="of all")
    add("--shortest", type=positive, help="length to begin with, which is doubled again and again")
    add("--longest", type=positive, help="length to end with, unless the budget does before")
    add("--rounds", type=positive, help="at most; fewer of slow steps")
    add("--budget", type=float, help="minutes of measuring")
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    return start(parser(), argv, run)


def run(arguments: argparse.Namespace) -> None:
    """The benchmark, top to bottom."""
    fill_in(arguments, USUAL, QUICK)
    if arguments.shortest > arguments.longest:
        raise ValueError(f"--shortest {arguments.shortest} is above --longest {arguments.longest}")
    name = f"time_by_part{'_quick' * arguments.quick}_{arguments.dtype}"
    run = Run(arguments, name, {"dtype": arguments.dtype, "rounds": arguments.rounds})
    run.measure(cases(arguments, Runner(arguments), run.rows), table, draw)


def cases(plan: argparse.Namespace, runner: Runner, rows: Sequence[Row]) -> Iterator[Case]:
    """From short to long; what may not end within the budget is left out, at greater lengths too.

    Args:
        plan: the command line.
        runner: times a step.
        rows: of the cases before, those of a resumed run as well.
    """
    end, length = perf_counter() + 60 * plan.budget, plan.shortest
    while length <= plan.longest:
        for what in product(plan.models, MODES, IMPLEMENTATIONS):
            step = Step(length, *what)
            shorter = {**vars(step), "length": length // 2, "part": WHOLE}.items()
            last = [row["milliseconds"] / 1e3 for row in rows if shorter <= row.items()]
            may_take = GROWTH * sum(last) * (1 + 2 * plan.rounds)
            if (last or length == plan.shortest) and perf_counter() + may_take < end:
                yield Case(vars(step), partial(runner.measure, step))
        length *= 2


def table(frame: pd.DataFrame) -> str:
    """By length: shares of the parts, their sum, time of the whole, error of its prediction."""
    whole = frame[frame["part"] == WHOLE]
    predicted = whole[errors(whole).notna()]
    lines = [
        frame.drop(whole.index).assign(cell=lambda rows: rows["share"].map("{:.0%}".format)),
        whole.assign(part="sum / whole", cell=whole["sum_of_parts"].map("{:.1%}".format)),
        whole.assign(cell=cells(whole, "milliseconds", "{:,.0f}") + " ms"),
        predicted.assign(part="predicted", cell=errors(predicted).map("{:+.0%}".format)),
    ]
    curve = ["mode", "model", "implementation", "part"]
    sorted_lines = pd.concat(lines).sort_values(curve[:-1], kind="stable")
    order = pd.MultiIndex.from_frame(sorted_lines[curve].drop_duplicates())
    by_length = sorted_lines.pivot(index=curve, columns="length", values="cell").reindex(order)
    return printed(frame, dict(by_length.reset_index().items()))


def errors(rows: pd.DataFrame) -> pd.Series:
    """How far predictions are from what was measured, as a share; NaN where there are none."""
    return rows.get("predicted_milliseconds", math.nan) / rows["milliseconds"] - 1


def draw(directory: Path, name: str) -> None:
    """Draw NAME_training.png and NAME_inference.png from NAME.csv.

    A column a model, a row an implementation; in a panel the parts, one on the other, as shares of
    the time, over the length. Under each length stands the time of the whole, and how far from it
    the prediction is, where there is one.
    """
    frame = read(directory / f"{name}.csv")
    for mode, mine in frame.groupby("mode", sort=False):
        models, sides = list(mine["model"].unique()), list(mine["implementation"].unique())
        figure = new_figure(height=1.3 + 3.4 * len(sides))
        figure.set_figwidth(1 + 4.2 * len(models))
        panels = figure.subplots(len(sides), len(models), sharey=True, squeeze=False)
        for (down, side), (across, model) in product(enumerate(sides), enumerate(models)):
            axes = panels[down][across]
            axes.set_title(f"{SHAPES[model].label}, {side}", fontsize=10)
            draw_shares(axes, mine[(mine["model"] == model) & (mine["implementation"] == side)])
        for axes in panels[:, 0]:
            axes.set_ylabel("share of the time")
        figure.supxlabel(
            "tokens of the text; time of the whole; error of the prediction (dashed: its parts)",
            fontsize=10,
        )
        kind = "a training step" if mode == TRAINING else "a forward pass"
        figure.suptitle(
            f"Where the time of {kind} goes as the text grows, {mine['dtype'].iloc[0]}\n"
            f"{machine(mine.iloc[0])}",
            fontsize=11,
        )
        figure.savefig(directory / f"{name}_{mode}.png")


def draw_shares(axes: Any, rows: pd.DataFrame) -> None:
    """A band for each part, with its name where it is widest; dashed, the predicted boundaries."""
    parts = rows[rows["part"] != WHOLE].set_index(["part", "length"])
    tops = stacked(parts["milliseconds"])
    lengths, bottom = tops.columns.to_numpy(), 0 * tops.iloc[0]
    axes.set_xscale("log", base=2)
    for part, top in tops.iterrows():
        axes.fill_between(lengths, bottom, top, color=PARTS[str(part)], linewidth=0)
        axes.plot(lengths, top, color="white", linewidth=0.8)
        width, at = (top - bottom).max(), int((top - bottom).argmax())
        if width > ROOM_FOR_NAME:
            place = (lengths[at], (top + bottom).iloc[at] / 2)
            side = {0: "left", len(lengths) - 1: "right"}.get(at, "center")
            colour = "white" if str(part) in DARK else "black"
            axes.annotate(f" {part} ", place, ha=side, va="center", fontsize=9, color=colour)
        bottom = top
    whole = rows[rows["part"] == WHOLE].set_index("length").sort_index()
    ticks = [f"{length:,}\n{duration(time)}" for length, time in whole["milliseconds"].items()]
    if errors(whole).notna().all():
        for _, top in stacked(parts["predicted_milliseconds"]).iterrows():
            axes.plot(lengths, top, "--", color="black", linewidth=0.9)
        far = errors(whole).map("{:+.0%}".format)
        ticks = [f"{tick}\n{error}" for tick, error in zip(ticks, far, strict=True)]
    axes.set_xticks(lengths, ticks, fontsize=8)
    axes.minorticks_off()
    axes.set_xlim(lengths[0], lengths[-1])
    axes.set_ylim(0, 1)
    axes.yaxis.set_major_formatter("{x:.0%}")


def stacked(milliseconds: pd.Series) -> pd.DataFrame:
    """The upper boundaries of the bands: a line a part, a column a length, the highest 1."""
    table = milliseconds.unstack("length")
    table = table.reindex([part for part in PARTS if part in table.index])
    return (table / table.sum()).cumsum()


def duration(milliseconds: float) -> str:
    """Two digits, for a picture."""
    if milliseconds < 1000:
        return f"{milliseconds:.2g} ms" if milliseconds < 100 else f"{milliseconds:.0f} ms"
    return f"{milliseconds / 1e3:.1f} s"


if __name__ == "__main__":
    sys.exit(main())
