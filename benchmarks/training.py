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
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.batches import (
    RANDOM,
    Batch,
    Sequences,
    lengths_of,
    made_up_full,
    made_up_lines,
    made_up_windows,
    masked_batch,
    pad_to,
    squad_sequences,
    text_sequences,
)
from benchmarks.encoders import (
    OPTIMIZED,
    OURS,
    EncoderCase,
    add_options,
    check_options,
    run_cases,
)
from benchmarks.formulas import BACKWARD, Sizes
from benchmarks.runs import Row, benchmark_parser
from minitransformer import from_pretrained
from minitransformer.arguments import Parser
from minitransformer.models.losses import IGNORED_LABEL
from train.arguments import run_job
from train.optimizer import build_optimizer

LEARNING_RATE = 5e-5  # the default of transformers' Trainer
# How far losses, and norms of gradients, may differ, relative to their size. In bfloat16 a number
# has three digits.
TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 1e-1)}
FULL, LINES, SQUAD = "full", "lines", "squad"


@dataclass(frozen=True, kw_only=True)
class TrainingCase(EncoderCase):
    """A training step: of RoBERTa on masked tokens, or of DistilBERT on questions.

    Attributes:
        kind: FULL, LINES or SQUAD.
        dropout: everywhere.
    """

    kind: str
    dropout: float = 0.1

    @property
    def name(self) -> str:
        """For people."""
        if self.kind == SQUAD:
            return f"SQuAD, windows of {self.length}"
        rows = "one line a sequence" if self.is_ragged else f"sequences of {self.length}"
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

        torch.manual_seed(self.seed)
        class_name, config = their_config(self)
        their_class = getattr(transformers, class_name)
        with tempfile.TemporaryDirectory() as directory:
            their_class(config).save_pretrained(directory)
            theirs = their_class.from_pretrained(directory, dtype=torch.float32).to(self.device)
            ours: Any = from_pretrained(directory, attention=self.attention, device=self.device)
        return theirs.train(), ours.train()

    def batches(self, sequences: Sequences, order: str) -> list[Batch]:
        """With labels; the random ones of SQuAD as transformers' course pads them."""
        made = super().batches(sequences, order)
        if self.kind != SQUAD:
            return [masked_batch(batch, self.vocab_size, self.seed) for batch in made]
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

    def necessary_flops(self, batch: Batch) -> int:
        """What the loss of a batch depends on, backward included."""
        lengths = lengths_of(batch)
        if self.kind == SQUAD:
            queries, head = lengths, self.sizes.head(int(lengths.sum()), 2, dense=False)
        else:
            queries = labelled(batch)
            head = self.sizes.head(int(queries.sum()), self.vocab_size)
        return BACKWARD * (self.sizes.encoder(lengths, queries) + head)

    def executed_flops(self, batch: Batch, implementation: str) -> int:
        """Optimized: no padding, and the head for the labels; else everything everywhere."""
        rows, length = batch["input_ids"].shape
        lengths = queries = np.full(rows, length)
        outputs, dense, positions = self.vocab_size, True, rows * length
        if self.kind == SQUAD:  # the two scores are given to padding too
            outputs, dense = 2, False
        if implementation == OPTIMIZED:
            lengths = queries = lengths_of(batch)
            if self.kind != SQUAD:
                queries = labelled(batch)
                positions = int(queries.sum())
                if lengths.sum() == rows * length:  # as many in each as in the one with most
                    queries = np.full(rows, max(1, queries.max()))
        head = self.sizes.head(positions, outputs, dense=dense)
        return BACKWARD * (self.sizes.encoder(lengths, queries) + head)


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
QUICK_CASES = {
    name: replace(
        case,
        sizes=Sizes(64, 2, 4, 256),
        vocab_size=case.vocab_size // 15,
        length=case.length // 4,
        batch_size=8,
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
    made = benchmark_parser("training", str(__doc__).split("\n")[0])
    made.add_argument("--text", type=Path, nargs="+", help="UTF-8 text, a sentence or so a line")
    made.add_argument("--dropout", type=float, nargs="+", default=[0.1, 0.0], help="everywhere")
    add_options(made, CASES)
    return made


def run(arguments: argparse.Namespace) -> int:
    """The benchmark, top to bottom."""
    check_options(arguments)
    cases = QUICK_CASES if arguments.quick else CASES
    cases = {name: cases[name] for name in arguments.cases}
    run_cases(
        "training",
        arguments,
        2 if arguments.quick else 3,
        partial(read_sequences, arguments, cases),
        [
            (name, case.kind, replace(case, dropout=dropout))
            for name, case in cases.items()
            for dropout in dict.fromkeys(arguments.dropout)
        ],
    )
    return 0


def read_sequences(
    arguments: argparse.Namespace, cases: Mapping[str, TrainingCase]
) -> dict[str, Sequences]:
    """What the batches of the cases are made of, by their kind."""
    made: dict[str, Sequences] = {}
    mlm = [case for case in cases.values() if case.kind != SQUAD]
    if mlm:
        size = min(case.vocab_size for case in mlm), mlm[0].length  # what fits all models
        if arguments.text is None:
            made[LINES] = made_up_lines(*size, arguments.seed)
            made[FULL] = made_up_full(*size, arguments.seed)
        else:
            made[LINES], made[FULL] = text_sequences(arguments.text, *size)
    for case in cases.values():
        if case.kind == SQUAD and arguments.squad is None:
            made[SQUAD] = made_up_windows(case.vocab_size, case.length, arguments.seed)
        elif case.kind == SQUAD:
            made[SQUAD] = squad_sequences(arguments.squad, case.vocab_size, case.length)
    return made


def their_config(case: TrainingCase) -> tuple[str, Any]:
    """The class of a case's model, and transformers' config of it.

    Weights are drawn wider than by default, so that each of them matters to the loss that is
    compared: with narrow ones a new model predicts the same whatever it reads.
    """
    import transformers

    sizes = case.sizes
    same = {
        "vocab_size": case.vocab_size,
        "pad_token_id": case.pad_token_id,
        "initializer_range": sizes.hidden_size**-0.5,  # keeps the scale of what a matrix is given
    }
    if case.kind == SQUAD:
        return "DistilBertForQuestionAnswering", transformers.DistilBertConfig(
            max_position_embeddings=max(512, case.length),
            dim=sizes.hidden_size,
            n_layers=sizes.num_hidden_layers,
            n_heads=sizes.num_attention_heads,
            hidden_dim=sizes.intermediate_size,
            dropout=case.dropout,
            attention_dropout=case.dropout,
            qa_dropout=case.dropout,
            **same,
        )
    return "RobertaForMaskedLM", transformers.RobertaConfig(
        max_position_embeddings=case.length + case.pad_token_id + 1,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
        intermediate_size=sizes.intermediate_size,
        hidden_dropout_prob=case.dropout,
        attention_probs_dropout_prob=case.dropout,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        **same,
    )


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


def labelled(batch: Batch) -> np.ndarray:
    """(B,) labelled tokens of each sequence."""
    return (batch["labels"] != IGNORED_LABEL).sum(dim=1).cpu().numpy()


if __name__ == "__main__":
    sys.exit(main())
