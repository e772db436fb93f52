"""The two sides of a training step: models with the same weights, their steps, and what those cost.

B rows, T tokens of the longest of them.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.comparison import lengths_of
from benchmarks.flops import TRAINING, EncoderSizes
from benchmarks.rows import Batch
from minitransformer import from_pretrained, optimize
from minitransformer.models.base import TaskModel
from minitransformer.models.losses import IGNORED_LABEL
from train.optimizer import build_optimizer

LEARNING_RATE = 5e-5  # the default of transformers' Trainer
# How far losses, and lengths of gradients, may lie apart, relative to their size. In bfloat16 a
# number has three digits.
TOLERANCES = {"float32": (1e-4, 1e-3), "bfloat16": (2e-2, 1e-1)}

Step = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Case:
    """A model, the rows that it is trained on, and the ratios that ours should reach.

    Attributes:
        rows: "full", "lines" or "squad".
        vocab_size: of the model; a tokenizer's may be smaller.
        length: tokens a row at most; rows of SQuAD are padded to it where transformers is used as
            its course does.
        batch_size: rows a batch.
        batches: of a pass.
        targets: the ratio against transformers as it comes, and at its best.
    """

    rows: str
    vocab_size: int
    length: int
    batch_size: int
    batches: int
    targets: tuple[float | None, float | None]

    @property
    def name(self) -> str:
        """For people."""
        if self.is_squad:
            return f"SQuAD, windows of {self.length}"
        kind = "one line a row" if self.is_ragged else f"rows of {self.length}"
        return f"MLM, V {self.vocab_size:,}, {kind}"

    @property
    def is_squad(self) -> bool:
        """Whether answers are looked for, not words."""
        return self.rows == "squad"

    @property
    def is_ragged(self) -> bool:
        """Whether rows differ in length."""
        return self.rows != "full"


def load_models(
    case: Case,
    sizes: EncoderSizes,
    dropout: float,
    pad_token_id: int,
    device: str,
    *,
    attention: str = "sdpa",
    plain: bool = False,
) -> tuple[nn.Module, TaskModel]:
    """transformers' model with weights drawn anew, and ours with the same ones.

    `attention` is our implementation; transformers takes the one that it takes by default. Ours is
    optimized, unless it is to be `plain`.
    """
    import transformers

    class_name, config = their_config(case, sizes, dropout, pad_token_id)
    their_class = getattr(transformers, class_name)
    with tempfile.TemporaryDirectory() as directory:
        their_class(config).save_pretrained(directory)
        theirs = their_class.from_pretrained(directory, dtype=torch.float32).to(device)
        ours: Any = from_pretrained(directory, attention=attention, device=device)
    return theirs.train(), ours.train() if plain else optimize(ours.train())


def their_config(
    case: Case, sizes: EncoderSizes, dropout: float, pad_token_id: int
) -> tuple[str, Any]:
    """The class of a case's model, and transformers' config of it.

    Weights are drawn wider than by default, so that each of them matters to the loss that is
    compared: with narrow ones a new model guesses alike whatever it reads.
    """
    import transformers

    wide = sizes.hidden_size**-0.5  # keeps what a matrix is given as large as it was
    if case.is_squad:
        return "DistilBertForQuestionAnswering", transformers.DistilBertConfig(
            vocab_size=case.vocab_size,
            max_position_embeddings=max(512, case.length),
            dim=sizes.hidden_size,
            n_layers=sizes.num_hidden_layers,
            n_heads=sizes.num_attention_heads,
            hidden_dim=sizes.intermediate_size,
            dropout=dropout,
            attention_dropout=dropout,
            qa_dropout=dropout,
            pad_token_id=pad_token_id,
            initializer_range=wide,
        )
    return "RobertaForMaskedLM", transformers.RobertaConfig(
        vocab_size=case.vocab_size,
        max_position_embeddings=case.length + pad_token_id + 1,
        hidden_size=sizes.hidden_size,
        num_hidden_layers=sizes.num_hidden_layers,
        num_attention_heads=sizes.num_attention_heads,
        intermediate_size=sizes.intermediate_size,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        pad_token_id=pad_token_id,
        initializer_range=wide,
    )


def their_loss(model: Callable[..., Any]) -> Step:
    """The mean loss of a batch, as transformers' models give it when they are given labels."""
    return lambda batch: model(**batch).loss


def our_loss(model: TaskModel) -> Step:
    """The same with ours."""
    return lambda batch: model.loss(**batch)


def their_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """What transformers' Trainer takes by default."""
    return torch.optim.AdamW(model.parameters(), LEARNING_RATE, weight_decay=0.0, fused=True)


def our_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    """What our training loop takes, without decay as theirs."""
    return build_optimizer(model, LEARNING_RATE, weight_decay=0.0)


def training_step(loss_of: Step, optimizer: torch.optim.Optimizer, dtype: str) -> Step:
    """Forward, backward, AdamW, zero_grad: one step on a batch, which gives its loss."""

    def step(batch: Batch) -> Tensor:
        with autocast(batch, dtype):
            loss = loss_of(batch)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return loss.detach()

    return step


def autocast(batch: Batch, dtype: str) -> AbstractContextManager[Any]:
    """Products in bfloat16 where that is asked for."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(batch["input_ids"].device.type, torch.bfloat16)


def check_agreement(
    theirs: nn.Module, ours: TaskModel, batches: Sequence[Batch], dtype: str
) -> None:
    """Compare loss and length of the gradient on every batch.

    Both models train, for that is what is timed, and takes other paths than evaluation; but with
    dropout of probability 0, for chance is not the same in both.

    Raises:
        ValueError: they lie further apart than the dtype explains.
    """
    for batch in batches:
        pair = []
        for model, loss_of in ((theirs, their_loss(theirs)), (ours, our_loss(ours))):
            with trained_without_dropout(model):
                pair.append(loss_and_gradient(model, loss_of, batch, dtype))
        for what, limit, their_value, our_value in zip(
            ("loss", "gradient's norm"), TOLERANCES[dtype], *pair, strict=True
        ):
            if not abs(their_value - our_value) <= limit * abs(their_value):
                raise ValueError(
                    f"the {what} is {our_value:.6f} in minitransformer, {their_value:.6f} in "
                    "transformers; speeds of different computations cannot be compared"
                )


@contextmanager
def trained_without_dropout(model: nn.Module) -> Iterator[None]:
    """The model in train(), every probability of dropout being 0; and in train() afterwards.

    A module of dropout keeps the probability as `p`, attention as `dropout`.
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


def loss_and_gradient(
    model: nn.Module, loss_of: Step, batch: Batch, dtype: str
) -> tuple[float, float]:
    """A batch's loss, and the length of the gradient of all weights."""
    with autocast(batch, dtype):
        loss = loss_of(batch)
    loss.backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = float(nn.utils.get_total_norm(gradients))
    model.zero_grad(set_to_none=True)
    return float(loss.detach()), norm


def batches_to_check(case: Case, batch: Batch) -> list[Batch]:
    """Batches in which both libraries mean the same by their loss.

    In question answering theirs counts padding among the places of an answer, and ours does not. So
    the first rows are taken one at a time, without padding.
    """
    if not case.is_squad:
        return [batch]
    found = []
    for row, length in enumerate(lengths_of(batch)[:4].tolist()):
        one = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        found.append({n: t[:, :length] if t.dim() == 2 else t for n, t in one.items()})
    return found


def necessary_flops(case: Case, sizes: EncoderSizes, batch: Batch) -> int:
    """What the loss of a batch depends on, backward included."""
    return TRAINING * _necessary_forward(case, sizes, batch)


def their_flops(case: Case, sizes: EncoderSizes, batch: Batch) -> int:
    """What transformers executes: everything at every place, padding or not."""
    rows, length = batch["input_ids"].shape
    places = rows * length
    head = sizes.span_scores(places)
    if not case.is_squad:
        head = sizes.word_scores(places, case.vocab_size)
    return TRAINING * (sizes.encoder(np.full(rows, length)) + head)


def our_flops(case: Case, sizes: EncoderSizes, batch: Batch, *, optimized: bool) -> int:
    """What ours executes: plain, everything; optimized, no padding, and the head for labels."""
    if not optimized:
        return their_flops(case, sizes, batch)
    rows, length = batch["input_ids"].shape
    lengths = lengths_of(batch).cpu().numpy()
    if case.is_squad:  # the two scores are given to padding too
        return TRAINING * (sizes.encoder(lengths) + sizes.span_scores(rows * length))
    labelled = _labelled(batch)
    # Where nothing is padded, as many in every row as in that with most.
    is_padded = int(lengths.sum()) < rows * length
    wanted = labelled if is_padded else np.full(rows, max(1, labelled.max()))
    head = sizes.word_scores(int(labelled.sum()), case.vocab_size)
    return TRAINING * (sizes.encoder(lengths, wanted) + head)


def _necessary_forward(case: Case, sizes: EncoderSizes, batch: Batch) -> int:
    lengths = lengths_of(batch).cpu().numpy()
    if case.is_squad:
        return sizes.encoder(lengths) + sizes.span_scores(int(lengths.sum()))
    labelled = _labelled(batch)
    head = sizes.word_scores(int(labelled.sum()), case.vocab_size)
    return sizes.encoder(lengths, labelled) + head


def _labelled(batch: Batch) -> np.ndarray:
    """(B,) labelled tokens of each row."""
    return (batch["labels"] != IGNORED_LABEL).sum(dim=1).cpu().numpy()
