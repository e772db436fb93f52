"""How fast is an encoder, beside transformers with default settings and with best settings?

    python -m benchmarks.inference --text FILE... --squad FILE --out DIR

All sides run the same weights over the same text: short sentences and whole paragraphs mixed, 32 a
batch, encoded or classified, and one sentence at a time. The sides are transformers, our model as
it is loaded (plain) and `optimize(model)`; benchmarks/encoders.py says which batches each gets.
Before the clock starts, their results must agree. Each side works in a process of its own; they
take turns. Without --text and --squad the text is made up; the file says so. A table goes to the
terminal; DIR gets inference_DTYPE.csv, and inference.png of all dtypes that are there. A run can be
stopped: the same command with --resume goes on after the last case that was measured.

B batch, T tokens of the longest sequence in it.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.batches import (
    Batch,
    Sequences,
    lengths_of,
    made_up_full,
    made_up_mixture,
    mixed_sequences,
)
from benchmarks.encoders import OPTIMIZED, EncoderCase, add_options, check_options, run_cases
from benchmarks.formulas import Sizes
from benchmarks.measuring import DTYPES
from benchmarks.runs import benchmark_parser
from minitransformer import from_pretrained
from minitransformer.arguments import Parser
from train.arguments import run_job

RAGGED = "ragged"
LONGEST = 512  # tokens of a sequence
NUM_LABELS = 2  # transformers' default
# How far results may differ: the norm of the difference, relative to that of the results.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}


@dataclass(frozen=True, kw_only=True)
class InferenceCase(EncoderCase):
    """BERT without gradients.

    Attributes:
        kind: of its sequences, RAGGED or their length.
        classify: give classes, instead of a vector for each token.
    """

    kind: str
    classify: bool = False

    @property
    def name(self) -> str:
        """For people."""
        if self.is_ragged:
            return f"{'classify' if self.classify else 'encode'}, ragged sequences"
        return f"encode one sequence of {self.length} tokens"

    @property
    def is_ragged(self) -> bool:
        """Whether sequences differ in length."""
        return self.kind == RAGGED

    def load(self) -> tuple[nn.Module, Any]:
        """Both models, in eval() and in the dtype of the case."""
        import transformers

        torch.manual_seed(self.seed)
        config = transformers.BertConfig(
            vocab_size=self.vocab_size,
            hidden_size=self.sizes.hidden_size,
            num_hidden_layers=self.sizes.num_hidden_layers,
            num_attention_heads=self.sizes.num_attention_heads,
            intermediate_size=self.sizes.intermediate_size,
            max_position_embeddings=LONGEST,
            pad_token_id=self.pad_token_id,
            initializer_range=self.sizes.hidden_size**-0.5,  # wide, so that every weight matters
        )
        name = "BertForSequenceClassification" if self.classify else "BertModel"
        their_class = getattr(transformers, name)
        how: dict[str, Any] = {"dtype": DTYPES[self.dtype]}
        with tempfile.TemporaryDirectory() as directory:
            their_class(config).save_pretrained(directory)
            theirs = their_class.from_pretrained(directory, **how).to(self.device)
            how |= {"attention": self.attention, "device": self.device}
            return theirs.eval(), from_pretrained(directory, **how).eval()

    def work(self, model: Any, implementation: str) -> Callable[[Batch], Tensor]:
        """A batch to hidden states, (B, T, E), or to the scores of the classes."""

        @torch.inference_mode()
        def work(batch: Batch) -> Tensor:
            output = model(**batch)
            return output.logits if self.classify else output.last_hidden_state

        return work

    def check(self, theirs: Any, others: Mapping[str, Any], batch: Batch) -> None:
        """Compare results at real tokens."""
        expected = self.work(theirs, "")(batch).float()
        for name, model in others.items():
            found = self.work(model, name)(batch).float()
            if found.shape != expected.shape:
                raise ValueError(
                    f"{self.name}: {name} gives {tuple(found.shape)}, transformers "
                    f"{tuple(expected.shape)}; speeds of different computations cannot be compared"
                )
            real: Any = ...
            if found.dim() == 3 and "attention_mask" in batch:
                real = batch["attention_mask"].bool()  # (B, T)
            share = float((found - expected)[real].norm() / expected[real].norm())
            if not share <= TOLERANCES[self.dtype]:
                raise ValueError(
                    f"{self.name}: the results of {name} and transformers differ by {share:.2g} of "
                    "their norm; speeds of different computations cannot be compared"
                )

    def necessary_flops(self, batch: Batch) -> int:
        """What the results of a batch depend on; to classify, the last layer at one token."""
        lengths = lengths_of(batch)
        queries = np.ones_like(lengths) if self.classify else lengths
        return self.sizes.encoder(lengths, queries) + self._head(batch)

    def executed_flops(self, batch: Batch, implementation: str) -> int:
        """Optimized: what is necessary; else everything at every position, padding or not."""
        if implementation == OPTIMIZED:
            return self.necessary_flops(batch)
        return self.sizes.encoder(np.full(*batch["input_ids"].shape)) + self._head(batch)

    def _head(self, batch: Batch) -> int:
        """The pooler, and the scores of the classes."""
        return self.sizes.head(len(batch["input_ids"]), NUM_LABELS * self.classify)


_RAGGED: dict[str, Any] = {"kind": RAGGED, "length": LONGEST, "batch_size": 32, "num_batches": 8}
CASES = {
    "encode": InferenceCase(**_RAGGED, targets=(1.8, 1.1)),
    "classify": InferenceCase(**_RAGGED, classify=True),
    "one-16": InferenceCase(kind="16", length=16, batch_size=1, num_batches=8),
    "one-128": InferenceCase(kind="128", length=128, batch_size=1, num_batches=4),
}
QUICK_CASES = {
    name: replace(
        case,
        sizes=Sizes(64, 2, 4, 256),
        vocab_size=2000,
        batch_size=min(8, case.batch_size),
        num_batches=2,
        targets=(None, None),  # they are for the full sizes
    )
    for name, case in CASES.items()
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    arguments = parser().parse_args(argv)
    return run_job(lambda: run(arguments))


def parser() -> Parser:
    """The options."""
    made = benchmark_parser("inference", str(__doc__).split("\n")[0])
    made.add_argument(
        "--text", type=Path, nargs="+", help="UTF-8, a sentence a line; a tab ends it"
    )
    add_options(made, CASES)
    return made


def run(arguments: argparse.Namespace) -> int:
    """The benchmark, top to bottom."""
    check_options(arguments)
    cases = QUICK_CASES if arguments.quick else CASES
    cases = {name: cases[name] for name in arguments.cases}
    run_cases(
        "inference",
        arguments,
        3 if arguments.quick else 5,
        partial(read_sequences, arguments, cases),
        [(name, case.kind, case) for name, case in cases.items()],
    )
    return 0


def read_sequences(
    arguments: argparse.Namespace, cases: Mapping[str, InferenceCase]
) -> dict[str, Sequences]:
    """What the batches of the cases are made of, by their kind."""
    made = {}
    for case in cases.values():
        size = case.vocab_size, case.length
        if not case.is_ragged:
            made[case.kind] = made_up_full(*size, arguments.seed)
        elif arguments.text is None and arguments.squad is None:
            made[case.kind] = made_up_mixture(*size, arguments.seed)
        elif case.kind not in made:
            text = arguments.text or []
            made[case.kind] = mixed_sequences(text, arguments.squad, *size, arguments.seed)
    return made


if __name__ == "__main__":
    sys.exit(main())
