"""The demo: a RoBERTa learns Italian agreement from scratch in minutes, on two cores.

`make demo`, or `python -m train.demos.agreement`. The grammar of :mod:`train.demos.italian` writes
the text; the job is :func:`train.mlm.main`, which users run on text of their own.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from minitransformer.arguments import Parser, device, positive
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.models.bert import BertForMaskedLM
from minitransformer.tasks import pipeline
from minitransformer.tokenization import Tokenizer
from train import mlm
from train.arguments import run_job
from train.demos.italian import Sentence, sentences, unigram_guess, word_counts, write_corpus
from train.metrics import new_figure, try_to_draw

JOB = {
    "--vocab-size": 4000,
    "--max-length": 48,
    "--held-out-every": 100,
    "--hidden-size": 128,
    "--num-hidden-layers": 3,
    "--num-attention-heads": 4,
    "--dropout": 0.0,
    "--batch-size": 128,
    "--mask-probability": 0.2,
    "--learning-rate": 2e-3,
    "--evaluate-every": 500,
}
EXAMPLES = (
    "ciao, come <mask>?",
    "se Laura <mask> scelto un altro giorno, avrebbe visto il mare.",
    "se noi <mask> scelto un altro giorno, avremmo visto il mare.",
    "oggi la ragazza è <mask>.",
    "forse <mask> studenti leggono un libro.",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Write the text, train, show what was learnt; go on where an earlier demo was stopped."""
    parser = Parser(
        prog="python -m train.demos.agreement", description="Train a small RoBERTa on Italian."
    )
    parser.add_argument("--output", type=Path, default=Path("runs/demo"), help="directory")
    parser.add_argument("--lines", type=positive, default=60_000, help="sentences to train on")
    parser.add_argument("--max-steps", type=positive, default=3600, help="training steps")
    parser.add_argument(
        "--questions", type=positive, default=2000, help="held-out sentences to ask"
    )
    parser.add_argument("--device", type=device, default="cpu", help="cpu or cuda")
    arguments = parser.parse_args(argv)
    return run_job(lambda: run(arguments))


def run(arguments: argparse.Namespace) -> int:
    """The demo, top to bottom."""
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    text = output / "italian.txt"
    write_corpus(text, arguments.lines, seed=0)
    print(f"{arguments.lines:,} sentences of a small Italian, made by a grammar: {text}")
    job = [str(word) for option in JOB.items() for word in option]
    job += ["--max-steps", str(arguments.max_steps), "--save-every", str(arguments.max_steps)]
    job += [
        "--text",
        str(text),
        "--output",
        str(output),
        "--device",
        arguments.device,
        "--resume",
        "--one-line-a-row",
    ]
    status = mlm.main(job, again="the same command")
    if status:
        return status

    fill = pipeline("fill-mask", output, device=arguments.device)
    for example in EXAMPLES:
        print(f"\n{example}")
        for answer in fill(example, top_k=5):
            print(f"  {answer['score']:6.1%} {answer['token_str'].strip():12} {answer['sequence']}")

    model, tokenizer = from_pretrained(output), Tokenizer.from_pretrained(output)
    assert isinstance(model, BertForMaskedLM)
    counts = word_counts(text.read_text(encoding="utf-8").splitlines())
    held_out = list(sentences(arguments.questions, seed=1, held_out=True))
    results = measure_agreement(model, tokenizer, held_out, counts)
    print_agreement(results)
    try_to_draw(draw_agreement, results, output / "agreement.png")
    print(
        f"\nThe model is in {output}; look at loss.png and agreement.png there. Next:\n"
        f'  .venv/bin/minitransformer fill-mask {output} "oggi Marco <mask> stanco."\n'
        f"  .venv/bin/python -m train.mlm --text YOUR_TEXT.txt --output runs/mine"
    )
    return 0


@torch.inference_mode()
def measure_agreement(
    model: BertForMaskedLM, tokenizer: Tokenizer, held_out: Sequence[Sentence], counts: Counter[str]
) -> dict[str, dict[str, Any]]:
    """Mask each form in question, and see whether the right one comes before its siblings.

    A question with a form of several tokens is left out, since one mask cannot stand for it; in a
    text of some tens of thousands of sentences every form has become a token.

    Returns:
        For each kind of agreement, and for "all" of them: `questions`, how many; `model` and
        `unigram`, the shares of right first choices among the forms of the word, of the model and
        of the form most frequent in the training text; `choices`, the mean number of forms.
    """
    ids_of = {
        form: _ids(tokenizer, form) for s in held_out for a in s.agreements for form in a.forms
    }
    questions = [
        (sentence, agreement)
        for sentence in held_out
        for agreement in sentence.agreements
        if all(len(ids_of[form]) == 1 for form in agreement.forms)
    ]
    results: dict[str, Counter[str]] = {}
    for start in range(0, len(questions), 64):
        part = questions[start : start + 64]
        batch = tokenizer(
            [s.text[: a.start] + tokenizer.mask_token + s.text[a.end :] for s, a in part],
            padding=True,
            return_tensors="pt",
        )
        logits = model.logits_at(batch["input_ids"] == tokenizer.mask_token_id, **batch)  # (N, V)
        for (sentence, agreement), scores in zip(part, logits, strict=True):
            ids = [ids_of[form][0] for form in agreement.forms]
            best = agreement.forms[int(scores[ids].argmax())]
            right = sentence.text[agreement.start : agreement.end]
            for kind in (agreement.kind, "all"):
                result = results.setdefault(kind, Counter())
                result["questions"] += 1
                result["choices"] += len(agreement.forms)
                result["model"] += best == right
                result["unigram"] += unigram_guess(agreement, counts) == right
    return {
        kind: {name: count / result["questions"] for name, count in result.items()}
        | {"questions": result["questions"]}
        for kind, result in sorted(results.items(), key=lambda item: (item[0] == "all", item[0]))
    }


def print_agreement(results: dict[str, dict[str, Any]]) -> None:
    """The table of :func:`measure_agreement`."""
    print("\nagreement in combinations that were never in the text: the right form comes first")
    print(f"{'':32}{'questions':>10}{'forms':>7}{'unigram guess':>15}{'this model':>12}")
    for kind, result in results.items():
        print(
            f"{kind:32}{result['questions']:>10,}{result['choices']:>7.1f}"
            f"{result['unigram']:>15.1%}{result['model']:>12.1%}"
        )


def draw_agreement(results: dict[str, dict[str, Any]], picture: Path) -> None:
    """Draw the table as bars, to a PNG.

    Raises:
        ImportError: matplotlib is not installed.
    """
    figure = new_figure(height=3.8)
    axes = figure.add_subplot()
    kinds = list(results)[::-1]
    for offset, name, label, color in (
        (0.2, "model", "this model", "tab:blue"),
        (-0.2, "unigram", "the most frequent form", "lightgray"),
    ):
        shares = [100 * results[kind][name] for kind in kinds]
        heights = [number + offset for number in range(len(kinds))]
        bars = axes.barh(heights, shares, height=0.38, label=label, color=color)
        axes.bar_label(bars, fmt="%.1f%%", padding=3)
    axes.set_yticks(range(len(kinds)), kinds)
    axes.set_xlim(0, 112)
    axes.set_xticks([0, 25, 50, 75, 100])
    axes.set_xlabel("right form ranked first, in combinations never seen (%)")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper center", bbox_to_anchor=(0.4, 1.14), ncols=2, frameon=False)
    figure.savefig(picture)


def _ids(tokenizer: Tokenizer, form: str) -> list[int]:
    """The ids of a word within a sentence, that is after a space."""
    return tokenizer(f" {form}", add_special_tokens=False)["input_ids"]


if __name__ == "__main__":
    sys.exit(main())
