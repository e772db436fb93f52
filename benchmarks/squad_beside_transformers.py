"""Does fine-tuning on SQuAD come out as with transformers' own model and loss?

First `python -m train.qa ... --output OURS`, then, with the same arguments,

    python -m benchmarks.squad_beside_transformers ... --ours OURS --output THEIRS

which trains transformers' namesake of the model from the same weights, with the same batches, seed,
dropout and optimizer, scores it in the same way, and draws both loss curves over each other. The
losses are not quite the same function: theirs counts padding among the places of an answer. With
`--plain` both drop the same numbers of padded rows too, which an optimized model does not compute.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.fast import is_optimized
from minitransformer.fast.layer_twins import FastDropout
from minitransformer.hf.config import reference_class
from minitransformer.models.bert import BertForQuestionAnswering
from minitransformer.tokenization import Tokenizer
from train import qa
from train.arguments import run_job, training_config
from train.checkpoints import list_checkpoints, read_state
from train.metrics import new_figure, read_metrics, try_to_draw

_SMOOTHED = 20  # steps; over so many the noise of single batches averages out


class TheirModel(nn.Module):
    """transformers' model with the methods that the training loop calls.

    Args:
        ours: whose weights it takes over.
    """

    def __init__(self, ours: BertForQuestionAnswering) -> None:
        super().__init__()
        import transformers

        self.config, self.attention = ours.config, ours.attention
        with tempfile.TemporaryDirectory() as directory:
            ours.save_pretrained(directory)
            their_class = getattr(transformers, reference_class(ours).__name__)
            self.theirs = their_class.from_pretrained(directory, dtype=torch.float32)
        for module in self.theirs.modules():
            if is_optimized(ours) and type(module) is nn.Dropout:
                module.__class__ = FastDropout  # which draws as ours

    def forward(self, **inputs: Tensor) -> Any:
        """What transformers returns, with `start_logits` and `end_logits`, (B, T) each."""
        return self.theirs(**inputs)

    def loss_sum(self, **batch: Tensor) -> tuple[Tensor, Tensor]:
        """Their mean loss times the rows, and the rows."""
        rows = self.num_supervised_tokens(batch)
        return self.theirs(**batch).loss * rows, rows

    def num_supervised_tokens(self, batch: dict[str, Tensor]) -> Tensor:
        """Every row has a start and an end."""
        return torch.tensor(len(batch["start_positions"]))

    def save_pretrained(self, path: Path) -> None:
        """As transformers does."""
        self.theirs.save_pretrained(path)


def load(arguments: argparse.Namespace) -> tuple[TheirModel, Tokenizer]:
    """Their model with the weights, those of the new head too, that ours would begin with."""
    ours, tokenizer = qa.load(arguments)
    theirs = TheirModel(ours)
    torch.manual_seed(arguments.seed)  # as `qa.load` leaves it, so that dropout draws the same
    return theirs, tokenizer


def main(argv: Sequence[str] | None = None) -> int:
    """Train theirs and lay both beside each other; returns the exit status."""
    parser = qa.parser()
    parser.prog = "python -m benchmarks.squad_beside_transformers"
    parser.add_argument("--ours", type=Path, required=True, help="output of the finished train.qa")
    arguments = parser.parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """The comparison, top to bottom."""
    check_ours(arguments)
    status = qa.run(arguments, load)
    if status:
        return status
    print(table(arguments.ours, arguments.output))
    picture = arguments.output / "beside.png"
    try_to_draw(draw_curves, arguments.ours, arguments.output, picture)
    print(f"\nthe curves: {picture}")
    return 0


def check_ours(arguments: argparse.Namespace) -> None:
    """Find out before an hour of training whether it can be compared.

    Raises:
        ValueError: our run is not there, not finished, or was another, or the options ask for
            what this script cannot do.
    """
    if arguments.resume or arguments.patience:
        raise ValueError("--resume and --patience are for our model; transformers' runs through")
    config = training_config(arguments)
    checkpoints = list_checkpoints(arguments.ours / "checkpoints")
    if not checkpoints or not (arguments.ours / "report.json").exists():
        raise ValueError(f"--ours {arguments.ours} holds no finished run of train.qa")
    theirs = {**asdict(config), "batch_size": arguments.batch_size, "seed": arguments.seed}
    theirs["implementation"] = "plain" if arguments.plain else "optimized"
    ours = read_state(checkpoints[-1])["run"]
    # What is not in a run's identity has no influence on its weights.
    different = [name for name in theirs if name in ours and theirs[name] != ours[name]]
    if different:
        raise ValueError(
            f"--ours {arguments.ours} was trained otherwise: "
            + ", ".join(f"{n} {ours[n]!r}, not {theirs[n]!r}" for n in sorted(different))
        )


def table(ours: Path, theirs: Path) -> str:
    """Both runs' scores, and how far the losses of their steps lie apart."""
    lines = [f"\n{'':24}{'exact match':>14}{'F1':>9}{'dev loss':>11}{'start':>9}{'end':>9}"]
    for name, run in (("minitransformer", ours), ("transformers", theirs)):
        report = json.loads((run / "report.json").read_text(encoding="utf-8"))
        row = report["scores"]["all"]
        lines.append(
            f"{name:24}{row['exact']:>14.2f}{row['f1']:>9.2f}{report['dev_loss']:>11.4f}"
            f"{report['start_accuracy']:>9.2%}{report['end_accuracy']:>9.2%}"
        )
    pairs = list(zip(_losses(ours), _losses(theirs), strict=True))
    gaps = sorted(abs(a - b) for a, b in pairs)
    lines.append(
        f"\nthe losses of {len(pairs)} steps lie {gaps[len(gaps) // 2]:.4f} apart in the median, "
        f"{gaps[-1]:.4f} at most; the first step's {abs(pairs[0][0] - pairs[0][1]):.2e}"
    )
    return "\n".join(lines)


def draw_curves(ours: Path, theirs: Path, picture: Path) -> None:
    """Draw both loss curves over each other, and their difference below.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(height=6)
    above, below = figure.subplots(2, height_ratios=[3, 1], sharex=True)
    curves = {"minitransformer": _smooth(_losses(ours)), "transformers": _smooth(_losses(theirs))}
    styles: list[dict[str, Any]] = [
        {"color": "tab:orange", "linewidth": 5, "alpha": 0.45},
        {"color": "black", "linewidth": 1},
    ]
    for (name, curve), style in zip(curves.items(), styles, strict=True):
        above.plot(range(1, len(curve) + 1), curve, label=name, **style)
    above.set_ylabel(f"loss (nats a window, mean of {_SMOOTHED} steps)")
    above.set_ylim(bottom=0)
    above.legend()
    gaps = [a - b for a, b in zip(_losses(ours), _losses(theirs), strict=True)]
    below.plot(range(1, len(gaps) + 1), gaps, color="tab:blue", linewidth=0.8)
    below.axhline(0, color="black", linewidth=0.5)
    below.set_ylabel("difference\nof each step")
    below.set_xlabel("step")
    for axes in (above, below):
        axes.grid(alpha=0.3)
    figure.savefig(picture)


def _losses(run: Path) -> list[float]:
    return [record["loss"] for record in read_metrics(run / "metrics.jsonl") if "loss" in record]


def _smooth(losses: list[float]) -> list[float]:
    means = []
    for end in range(1, len(losses) + 1):
        recent = losses[max(0, end - _SMOOTHED) : end]
        means.append(sum(recent) / len(recent))
    return means


if __name__ == "__main__":
    sys.exit(main())
