"""How fast is a training step, beside transformers with default settings and with best settings?

    python -m benchmarks.training --text FILE... --squad FILE --out DIR

All sides train the same model from the same weights on the same text: masked language modelling on
sequences of full length and on lines of text one a sequence, and question answering. The sides are
transformers, our model as it is loaded (plain) and `optimize(model)`; benchmarks/encoders.py says
which batches each gets. Before the clock starts, losses and gradients must agree. Each side trains
in a process of its own; they take turns. A step is forward, backward, AdamW and zero_grad. Without
--text or --squad the text is made up; the file says so. A table goes to the terminal; DIR gets
training_DTYPE.csv, and training.png of all dtypes that are there. A run can be stopped: the same
command with --resume goes on after the last case that was measured.

B batch, T tokens of the longest sequence in it.
"""

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.batches import (
    FULL,
    LINES,
    RANDOM,
    SQUAD,
    Batch,
    Sequences,
    lengths_of,
    made_up,
    masked_batch,
    pad_to,
    squad_sequences,
    text_sequences,
)
from benchmarks.encoders import OURS, EncoderCase, encoder_parser, run_cases
from benchmarks.pictures import draw_ratios
from benchmarks.report import encoder_table
from benchmarks.runs import Row, start
from train.optimizer import build_optimizer

draw, table = draw_ratios, encoder_table  # by which benchmarks.report shows a file
LEARNING_RATE = 5e-5  # the default of transformers' Trainer
# How far losses, and norms of gradients, may differ, relative to their size. In bfloat16 a number
# has three digits.
TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 1e-1)}


@dataclass(frozen=True, kw_only=True)
class TrainingCase(EncoderCase):
    """A training step: of RoBERTa on masked tokens, or of DistilBERT on questions.

    Attributes:
        dropout: everywhere.
    """

    dropout: float = 0.1

    @property
    def name(self) -> str:
        """For people."""
        if self.kind == SQUAD:
            return f"SQuAD, windows of {self.length}"
        rows = "one line per sequence" if self.is_ragged else f"sequences of {self.length}"
        return f"MLM, V {self.vocab_size:,}, {rows}"

    @property
    def is_ragged(self) -> bool:
        """Whether sequences differ in length."""
        return self.kind != FULL

    @property
    def what(self) -> Row:
        """Its name and the dropout."""
        return {"case": self.name, "dropout": self.dropout}

    def load(self) -> tuple[nn.Module, Any]:
        """Both models, in train()."""
        import transformers

        config: Any
        sizes = {**self.sizes, "vocab_size": self.vocab_size, "pad_token_id": self.pad_token_id}
        if self.kind == SQUAD:
            name, rates = "DistilBertForQuestionAnswering", ["dropout", "attention_dropout"]
            rates += ["qa_dropout"]
            sizes["hidden_dim"] = sizes.pop("intermediate_size")
            config = transformers.DistilBertConfig(max_position_embeddings=max(512, self.length))
        else:
            name, rates = "RobertaForMaskedLM", ["hidden_dropout_prob"]
            rates += ["attention_probs_dropout_prob"]
            config = transformers.RobertaConfig(
                max_position_embeddings=self.length + self.pad_token_id + 1,
                type_vocab_size=1,
                layer_norm_eps=1e-5,
            )
        config.update(sizes | dict.fromkeys(rates, self.dropout))
        theirs, ours = self.load_both(name, config, torch.float32)
        return theirs.train(), ours.train()

    def batches(self, sequences: Sequences, order: str) -> list[Batch]:
        """With labels; the random ones of SQuAD as transformers' course pads them."""
        made = super().batches(sequences, order)
        if self.kind != SQUAD:
            return [masked_batch(batch, self.vocab_size) for batch in made]
        return [pad_to(self.length, batch) for batch in made] if order == RANDOM else made

    def work(self, model: Any, implementation: str) -> Callable[[Batch], Tensor]:
        """A training step, with the optimizer that each library's own loop takes."""
        if implementation in OURS:
            optimizer = build_optimizer(model, LEARNING_RATE, weight_decay=0.0)
        else:  # what transformers' Trainer takes
            parameters = model.parameters()
            optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.0, fused=True)

        def step(batch: Batch) -> Tensor:
            loss = self.loss(model, batch)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            return loss.detach()

        return step

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """The mean loss; in bfloat16 with autocast."""
        autocast: AbstractContextManager[Any] = nullcontext()
        if self.dtype != "float32":
            autocast = torch.autocast(torch.device(self.device).type, torch.bfloat16)
        with autocast:
            return model.loss(**batch) if hasattr(model, "loss") else model(**batch).loss

    def check(self, theirs: Any, others: Mapping[str, Any], batch: Batch) -> None:
        """Compare loss and norm of the gradient, in train() but without dropout.

        In question answering transformers counts padding among the positions of an answer, and ours
        does not. So the first sequences are taken one at a time, without padding.
        """
        for part in self.checked(batch):
            expected = self.loss_and_norm(theirs, part)
            for side, model in others.items():
                found = self.loss_and_norm(model, part)
                limits = TOLERANCES[self.dtype]
                names = ("loss", "gradient's norm")
                for what, limit, a, b in zip(names, limits, expected, found, strict=True):
                    if not abs(a - b) <= limit * abs(a):
                        raise ValueError(
                            f"{self.name}: the {what} is {b:.6f} in {side}, {a:.6f} in "
                            "transformers; speeds of different computations cannot be compared"
                        )

    def checked(self, batch: Batch) -> list[Batch]:
        """Batches whose loss both libraries define alike."""
        if self.kind != SQUAD:
            return [batch]
        found = []
        for number, length in enumerate(lengths_of(batch)[:4].tolist()):
            one = {name: tensor[number : number + 1] for name, tensor in batch.items()}
            found.append({n: t[:, :length] if t.dim() == 2 else t for n, t in one.items()})
        return found

    def loss_and_norm(self, model: Any, batch: Batch) -> tuple[float, float]:
        """A batch's loss without dropout, and the norm of the gradient of all weights."""
        with dropout_off(model):
            loss = self.loss(model, batch)
            loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        norm = float(nn.utils.get_total_norm(gradients))
        model.zero_grad(set_to_none=True)
        return float(loss.detach()), norm


CASES = {
    name: TrainingCase(
        kind=kind,
        vocab_size=vocab_size,
        length=length,
        batch_size=batch_size,
        num_batches=num_batches,
        targets=targets,
    )
    for name, kind, vocab_size, length, batch_size, num_batches, targets in (
        ("full-30k", FULL, 30_522, 512, 8, 1, (2.0, 1.9)),
        ("full-50k", FULL, 50_265, 512, 8, 1, (2.2, 2.0)),
        ("lines-30k", LINES, 30_522, 512, 32, 2, (3.5, 2.2)),
        ("lines-50k", LINES, 50_265, 512, 32, 2, (3.5, 2.2)),
        ("squad", SQUAD, 30_522, 384, 16, 2, (2.0, 1.15)),
    )
}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print and write; returns the exit status."""
    parser = encoder_parser("training", str(__doc__).split("\n")[0], CASES)
    parser.add_argument("--dropout", type=float, nargs="+", default=[0.1, 0.0], help="everywhere")
    return start(parser, argv, run)


def run(arguments: argparse.Namespace) -> None:
    """The benchmark, top to bottom."""
    cases = []
    for name, case in CASES.items():
        if arguments.quick:
            vocab_size, length = case.vocab_size // 15, case.length // 4
            case = replace(case, batch_size=8, vocab_size=vocab_size, length=length)
        cases += [(name, replace(case, dropout=rate)) for rate in arguments.dropout]
    run_cases("training", arguments, 2 if arguments.quick else 3, cases, read_sequences)


def read_sequences(
    arguments: argparse.Namespace, cases: Sequence[EncoderCase]
) -> dict[str, Sequences]:
    """What the batches of the cases are made of, by their kind."""
    made: dict[str, Sequences] = {}
    mlm = [case for case in cases if case.kind != SQUAD]
    size = (
        min((case.vocab_size for case in mlm), default=0),
        mlm[0].length if mlm else 0,
    )  # fits all models
    if mlm and arguments.text:
        made[LINES], made[FULL] = text_sequences(arguments.text, *size)
    elif mlm:
        made = {kind: made_up(kind, *size) for kind in (LINES, FULL)}
    for case in cases:
        if case.kind == SQUAD and SQUAD not in made:
            size = case.vocab_size, case.length
            squad = arguments.squad
            made[SQUAD] = squad_sequences(squad, *size) if squad else made_up(SQUAD, *size)
    return made


@contextmanager
def dropout_off(model: nn.Module) -> Iterator[None]:
    """The model in train(), which takes other paths than eval(), with all dropout probabilities 0.

    A dropout module keeps its probability as `p`, attention as `dropout`.
    """
    probabilities = [
        (module, name, value)
        for module in model.modules()
        for name in ("p", "dropout")
        if isinstance(value := vars(module).get(name), float)
    ]
    model.train()
    for module, name, _ in probabilities:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, value in probabilities:
            setattr(module, name, value)


if __name__ == "__main__":
    sys.exit(main())
