"""How fast is an encoder, beside transformers with default settings and with best settings?

    python -m benchmarks.inference --text FILE... --squad FILE --out DIR

All sides run the same weights over the same text: short sentences and whole paragraphs mixed, 32 a
batch, encoded or classified, one sentence at a time, and long inputs: 8 texts of 512 tokens, and a
prompt of 1,024 tokens up to the scores of the first new one, which GPT-2 computes before it
generates. The sides are transformers, our model as
it is loaded (plain) and `optimize(model)`; benchmarks/encoders.py says which batches each gets.
Before the clock starts, their results must agree. Each side works in a process of its own; they
take turns. Without --text and --squad the text is made up; the file says so. A table goes to the
terminal; DIR gets inference_DTYPE.csv, and inference.png of all dtypes that are there. A run can be
stopped: the same command with --resume goes on after the last case that was measured.

B batch, T tokens of the longest sequence in it, E hidden size, V vocabulary.
"""

import argparse
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.batches import RAGGED, Batch, Sequences, made_up, mixed_sequences
from benchmarks.encoders import OURS, EncoderCase, encoder_parser, run_cases
from benchmarks.measuring import DTYPES
from benchmarks.pictures import draw_ratios
from benchmarks.report import encoder_table
from benchmarks.runs import start

draw, table = draw_ratios, encoder_table  # by which benchmarks.report shows a file
LONGEST = 512  # tokens of a sequence
# How far results may differ: the norm of the difference, relative to that of the results.
TOLERANCES = {"float32": 1e-4, "bfloat16": 5e-2}


@dataclass(frozen=True, kw_only=True)
class InferenceCase(EncoderCase):
    """BERT without gradients; `classify` gives classes, instead of a vector for each token."""

    classify: bool = False

    @property
    def name(self) -> str:
        """For people."""
        if self.is_ragged:
            return f"{'classify' if self.classify else 'encode'}, ragged sequences"
        sequences = "one sequence" if self.batch_size == 1 else f"{self.batch_size} sequences"
        return f"encode {sequences} of {self.length} tokens"

    @property
    def is_ragged(self) -> bool:
        """Whether sequences differ in length."""
        return self.kind == RAGGED

    def load(self) -> tuple[nn.Module, Any]:
        """Both models, in eval() and in the dtype of the case."""
        import transformers

        config = transformers.BertConfig(
            **self.sizes,
            vocab_size=self.vocab_size,
            max_position_embeddings=LONGEST,
            pad_token_id=self.pad_token_id,
        )
        name = "BertForSequenceClassification" if self.classify else "BertModel"
        theirs, ours = self.load_both(name, config, DTYPES[self.dtype])
        return theirs.eval(), ours.eval()

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


@dataclass(frozen=True, kw_only=True)
class PromptCase(InferenceCase):
    """GPT-2 reads a prompt: the scores of the next token, and the keys and values of all."""

    vocab_size: int = 50_257

    @property
    def name(self) -> str:
        """For people."""
        return f"read one prompt of {self.length:,} tokens"

    def load(self) -> tuple[nn.Module, Any]:
        """Both models, in eval() and in the dtype of the case."""
        import transformers

        config = transformers.GPT2Config(
            n_embd=self.sizes["hidden_size"],
            n_layer=self.sizes["num_hidden_layers"],
            n_head=self.sizes["num_attention_heads"],
            n_inner=self.sizes["intermediate_size"],
            vocab_size=self.vocab_size,
            n_positions=self.length,
            bos_token_id=None,
            eos_token_id=None,
        )
        theirs, ours = self.load_both("GPT2LMHeadModel", config, DTYPES[self.dtype])
        return theirs.eval(), ours.eval()

    def work(self, model: Any, implementation: str) -> Callable[[Batch], Tensor]:
        """A batch to the scores of the next token, (B, V)."""

        @torch.inference_mode()
        def work(batch: Batch) -> Tensor:
            if implementation in OURS:
                return model.next_token_logits(**batch, cache=model.new_cache())
            return model(**batch, use_cache=True, logits_to_keep=1).logits[:, -1]

        return work


_RAGGED: dict[str, Any] = {"kind": RAGGED, "length": LONGEST, "batch_size": 32, "num_batches": 8}
CASES = {
    "encode": InferenceCase(**_RAGGED, targets=(1.8, 1.1)),
    "classify": InferenceCase(**_RAGGED, classify=True),
    "one-16": InferenceCase(kind="16", length=16, batch_size=1, num_batches=8),
    "one-128": InferenceCase(kind="128", length=128, batch_size=1, num_batches=4),
    "encode-8x512": InferenceCase(
        kind="512", length=LONGEST, batch_size=8, num_batches=1, targets=(1.2, 1.2)
    ),
    "gpt2-prompt-1024": PromptCase(
        kind="1024", length=1024, batch_size=1, num_batches=1, targets=(1.2, 1.2)
    ),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    return start(encoder_parser("inference", str(__doc__).split("\n")[0], CASES), argv, run)


def run(arguments: argparse.Namespace) -> None:
    """The benchmark, top to bottom."""
    cases = [
        (name, replace(case, vocab_size=2000, batch_size=min(8, case.batch_size)))
        if arguments.quick
        else (name, case)
        for name, case in CASES.items()
    ]
    run_cases("inference", arguments, 3 if arguments.quick else 5, cases, read_sequences)


def read_sequences(
    arguments: argparse.Namespace, cases: Sequence[EncoderCase]
) -> dict[str, Sequences]:
    """What the batches of the cases are made of, by their kind."""
    files, made = (arguments.text, arguments.squad), {}
    for case in cases:
        size = case.vocab_size, case.length
        real = case.is_ragged and any(files)
        if case.kind not in made:
            made[case.kind] = mixed_sequences(*files, *size) if real else made_up(case.kind, *size)
    return made


if __name__ == "__main__":
    sys.exit(main())
