"""The demo: an encoder-decoder learns to translate a small Italian in minutes, on two cores.

`make translation-demo`, or `python -m train.demos.translation`. The grammar of
:mod:`train.demos.italian_english` writes the pairs; the job is :func:`train.seq2seq.main`, which
users run on pairs of their own. The picture shows where the decoder attends in the Italian as it
generates each English token.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from minitransformer.arguments import Parser, device, positive
from minitransformer.attention_maps import AttentionMaps, attention_maps
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.tasks import pipeline
from minitransformer.tokenization import Tokenizer
from train import seq2seq
from train.arguments import run_job
from train.demos.italian_english import sentence_pairs, write_pairs
from train.metrics import new_figure, try_to_draw

JOB = {
    "--architecture": "MarianMTModel",
    "--vocab-size": 4000,
    "--max-length": 48,
    "--hidden-size": 128,
    "--num-hidden-layers": 2,
    "--num-attention-heads": 4,
    "--dropout": 0.0,
    "--batch-size": 64,
    "--learning-rate": 1.5e-3,
    "--evaluate-every": 500,
    "--eval-batch-size": 100,
    "--curve-pairs": 100,
}
# Held out: no lesson is interesting in the training text. Half of it stands elsewhere in English.
DRAWN = "ogni mattina i cugini di Luca ascoltano una lezione interessante."


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pairs, train, show what was learnt; go on where an earlier demo was stopped."""
    parser = Parser(
        prog="python -m train.demos.translation", description="Train a small translator of Italian."
    )
    parser.add_argument("--output", type=Path, default=Path("runs/translation"), help="directory")
    parser.add_argument("--pairs", type=positive, default=60_000, help="pairs to train on")
    parser.add_argument("--max-steps", type=positive, default=1800, help="training steps")
    parser.add_argument(
        "--questions", type=positive, default=1000, help="held-out sentences to translate"
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    arguments = parser.parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """The demo, top to bottom."""
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    train_file, dev_file = output / "train.tsv", output / "held_out.tsv"
    # Written again only where there is no run yet, so that a run that is refused keeps its own.
    for file, count, held_out in (
        (train_file, arguments.pairs, False),
        (dev_file, arguments.questions, True),
    ):
        if not file.exists():
            write_pairs(file, count, seed=int(held_out), held_out=held_out)
        elif sum(1 for _ in file.open(encoding="utf-8")) != count:
            raise ValueError(f"{file} has not {count} pairs: it is of another run; remove {output}")
    print(
        f"{arguments.pairs:,} Italian sentences with their English, made by a grammar: {train_file}"
        f"\n{arguments.questions:,} more, each with a combination of words held out: {dev_file}"
    )
    options = {
        **JOB,
        "--train": train_file,
        "--dev": dev_file,
        "--output": output,
        "--max-steps": arguments.max_steps,
        "--save-every": arguments.max_steps,
        "--device": arguments.device,
    }
    job = [str(word) for option in options.items() for word in option]
    status = seq2seq.main([*job, "--resume"], resume_with="the same command")
    if status:
        return status

    translate = pipeline("translation", output, device=arguments.device)
    examples = [pair.italian for pair in sentence_pairs(5, seed=2, held_out=True)]
    print("\nmore held-out sentences:")
    for italian, answer in zip(examples, translate(examples), strict=True):
        print(f"  {italian}\n  {answer['translation_text']}\n")

    maps = attention_maps(from_pretrained(output), Tokenizer.from_pretrained(output), DRAWN)
    try_to_draw(draw_cross_attention, maps, output / "attention.png")
    exact = json.loads((output / "report.json").read_text())["dev"]["this model"]["exact"]
    print(
        f"{exact:.1%} of {arguments.questions:,} held-out sentences are translated word for word "
        f"as they should be.\nThe model is in {output}; look at attention.png and loss.png there. "
        "Next:\n"
        f"  .venv/bin/minitransformer attention {output} 'ciao, Laura, come stai?' --out map.png\n"
        "  .venv/bin/python -m train.seq2seq --train PAIRS.tsv --dev MORE.tsv --output runs/mine"
    )
    return 0


def draw_cross_attention(maps: AttentionMaps, picture: Path) -> None:
    """Draw where the decoder attends while it generates each token, to a PNG.

    What is drawn is the mean of the heads of the last layer, none of which is left out.

    Args:
        maps: (L, H, T, S), T tokens that are generated and S of the source.
        picture: to write.

    Raises:
        ImportError: matplotlib is not installed.
    """
    weights = maps.maps[-1].mean(dim=0)  # (T, S)
    generated, source = (
        [name.strip("·") for name in side.tokens] for side in (maps.queries, maps.keys)
    )
    figure = new_figure(height=1.5 + 0.36 * len(generated))
    axes = figure.add_subplot()
    image = axes.imshow(weights.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto")
    axes.xaxis.tick_top()
    axes.xaxis.set_label_position("top")
    axes.set_xticks(range(len(source)), source, rotation=45, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(generated)), generated)
    axes.set_xlabel("Italian, as it is read")
    axes.set_ylabel("English, as it is generated")
    heads = maps.maps.shape[1]
    figure.colorbar(
        image, ax=axes, label=f"cross-attention of the last layer, mean of {heads} heads"
    )
    figure.savefig(picture)


if __name__ == "__main__":
    sys.exit(main())
