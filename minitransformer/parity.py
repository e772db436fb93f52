"""Are two models the same function? Compare them module by module and name the first that differs.

The pairs of modules come from the weight tables of :mod:`minitransformer.hf`: whatever has weights
is compared by what it puts out, in the order in which it runs. Then come hidden states, attention
maps, logits, loss, and the gradient of every parameter.

B batch, T tokens.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.hf.config import family_of_model
from minitransformer.hf.loading import from_pretrained
from minitransformer.hf.names import stored_names
from minitransformer.models.base import Model, TaskModel
from minitransformer.models.classification import SequenceClassification, TokenClassification
from minitransformer.models.distilbert import DistilBertConfig
from minitransformer.models.inputs import IGNORED_LABEL
from minitransformer.models.question_answering import QuestionAnswering

# dtype to the absolute and relative difference that rounding explains.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}

Batch = dict[str, Tensor]


@dataclass(frozen=True)
class Comparison:
    """One pair of tensors: "OK", "DIFF" (numbers), "SHAPE", or "MISSING" on one side."""

    name: str
    status: str
    difference: float = 0.0  # the largest absolute one
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """The comparisons in the order in which the model computes."""

    rows: tuple[Comparison, ...]

    @property
    def equal(self) -> bool:
        """Whether every pair is within the tolerance."""
        return all(row.status == "OK" for row in self.rows)

    @property
    def first_difference(self) -> Comparison | None:
        """The first pair that is not."""
        return next((row for row in self.rows if row.status != "OK"), None)

    def table(self) -> str:
        """One line a pair, and a last one that says which differs first."""
        width = max(len(row.name) for row in self.rows)
        lines = [
            f"{row.status:8}{row.name:{width}}  {row.difference:9.2e}  {row.shape or ''}"
            for row in self.rows
        ]
        first = self.first_difference
        return "\n".join([*lines, "all equal" if first is None else f"first differs: {first.name}"])


def compare(ours: Model, theirs: nn.Module, batch: Batch) -> Report:
    """Run both models on one batch, backward too if it is labelled, and compare what they did.

    Only real tokens count: what a model computes at padding is nobody's business.

    Args:
        ours: a model of this library, in evaluation mode.
        theirs: its namesake of transformers, of the same dtype, with eager attention.
        batch: `input_ids`, `attention_mask`, and maybe `token_type_ids`, (B, T) each, and labels.
    """
    modules = _module_pairs(ours)
    with _outputs_of(ours, list(modules)) as our_outputs:
        our_result = ours(**batch, output_hidden_states=True, output_attentions=True)
    their_batch = _their_inputs(ours, batch)
    with _outputs_of(theirs, list(modules.values())) as their_outputs:
        their_result = theirs(**their_batch, output_hidden_states=True, output_attentions=True)
    real = batch["attention_mask"].bool(), their_batch["attention_mask"].bool()
    order = [*our_outputs, *(name for name in modules if name not in our_outputs)]
    pairs = [(name, our_outputs.get(name), their_outputs.get(modules[name])) for name in order]
    pairs += _result_pairs(our_result, their_result)
    rows = [_compare_tensors(name, a, b, real) for name, a, b in pairs]
    our_loss = getattr(our_result, "loss", None)
    if our_loss is not None:
        their_loss = _their_loss(ours, their_result, their_batch)
        rows.append(_compare_tensors("loss", our_loss, their_loss))
        rows += _compare_gradients(ours, theirs, our_loss, their_loss)
    return Report(tuple(rows))


def check_checkpoint(
    path: str | Path,
    *,
    length: int = 32,
    device: str | torch.device = "cpu",
    say: Callable[[str], None] = print,
) -> bool:
    """Load a checkpoint here and in transformers, and say whether they are the same function.

    A difference in float32 is looked at again in float64: rounding shrinks with it, a bug stays.

    Args:
        path: a directory, or a name on the hub.
        length: tokens a row of the random batch (less where fewer fit): one row full, one padded
            on the left, one on the right.
        device: to run both on.
        say: gets the lines of the report.

    Returns:
        Whether they are the same, up to rounding.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ImportError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("parity needs transformers: pip install transformers") from error

    ours = from_pretrained(path, attention="eager")
    their_class = getattr(transformers, type(ours).__name__)
    theirs = their_class.from_pretrained(
        path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    batch = {name: tensor.to(device) for name, tensor in random_batch(ours, length).items()}
    for dtype in (torch.float32, torch.float64):
        report = compare(ours.to(device, dtype), theirs.to(device, dtype), batch)
        say(f"{type(ours).__name__}, {dtype}, tolerance {TOLERANCE[dtype]:g}")
        say(report.table())
        if report.equal:
            noise = " (the differences in float32 are rounding)" * (dtype == torch.float64)
            say(f"the same function{noise}")
            return True
    say("not the same function: the difference is still there in float64")
    return False


def random_batch(model: Model, length: int = 32, seed: int = 0) -> Batch:
    """Three rows of random ids, one padded on the left and one on the right, with labels.

    Every third real token is labelled where tokens have labels.
    """
    generator = torch.Generator().manual_seed(seed)
    config = model.config
    length = min(length, getattr(config, "max_sequence_length", length))
    ids = torch.randint(config.vocab_size - 1, (3, length), generator=generator)
    ids += ids >= config.pad_token_id  # every id but the padding token's
    real = torch.ones(3, length, dtype=torch.bool)
    real[1, : length // 3] = False
    real[2, length - length // 4 :] = False
    ids[~real] = config.pad_token_id
    batch = {"input_ids": ids, "attention_mask": real.long()}
    if not isinstance(config, DistilBertConfig):
        types = getattr(config, "type_vocab_size", 1)
        batch["token_type_ids"] = torch.randint(types, ids.shape, generator=generator)
    if isinstance(model, TaskModel):
        batch |= _random_labels(model, ids, real, generator)
    return batch


def _random_labels(
    model: TaskModel, ids: Tensor, real: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    num_rows, length = ids.shape
    num_labels = getattr(model.config, "num_labels", 0)
    if isinstance(model, QuestionAnswering):
        first, count = real.int().argmax(dim=1), real.sum(dim=1)  # (B,) twice
        return {"start_positions": first + (count > 1), "end_positions": first + count - 1}
    if isinstance(model, SequenceClassification):
        if model.problem_type == "single_label_classification":
            return {"labels": torch.randint(num_labels, (num_rows,), generator=generator)}
        dtype = next(model.parameters()).dtype
        return {"labels": torch.rand(num_rows, num_labels, generator=generator).to(dtype)}
    labels = ids.roll(1, dims=1)
    if isinstance(model, TokenClassification):
        labels = labels % num_labels
    labels[~real | (torch.arange(length) % 3 > 0)] = IGNORED_LABEL
    return {"labels": labels}


def _their_inputs(ours: Model, batch: Batch) -> Batch:
    """What the other side must be given to mean the same.

    Hugging Face's BERT numbers places, not tokens, so padding on the left moves the text, and
    whatever takes the first token takes place 0. Such a model gets every row padded on the right.
    """
    takes_first = isinstance(ours, SequenceClassification) or getattr(ours, "pooler", None)
    if not (family_of_model(ours).numbers_places or takes_first):
        return batch
    real = batch["attention_mask"].bool()
    order = real.byte().argsort(dim=1, descending=True, stable=True)  # (B, T), padding last
    moved = dict(batch)
    for name, values in batch.items():
        if values.shape == real.shape and values.dim() == 2:
            moved[name] = values.gather(1, order)
        if name in ("start_positions", "end_positions"):
            moved[name] = values - real.int().argmax(dim=1)
    return moved


def _their_loss(ours: Model, their_result: Any, their_batch: Batch) -> Tensor:
    """Their loss; of question answering the one without padding among the choices."""
    if not isinstance(ours, QuestionAnswering):
        return their_result.loss
    padding = their_batch["attention_mask"] == 0
    start, end = (
        torch.nn.functional.cross_entropy(
            getattr(their_result, f"{edge}_logits").masked_fill(padding, -math.inf),
            their_batch[f"{edge}_positions"],
        )
        for edge in ("start", "end")
    )
    return (start + end) / 2


def _module_pairs(ours: Model) -> dict[str, str]:
    """The modules with weights, our name to theirs."""
    pairs = {
        our_name.rpartition(".")[0]: their_name.rpartition(".")[0]
        for our_name, their_name in stored_names(family_of_model(ours), ours).items()
    }
    # A head that keeps a bias of its own is no leaf; its output is the logits, compared anyway.
    return {n: there for n, there in pairs.items() if not any(ours.get_submodule(n).children())}


@contextmanager
def _outputs_of(model: nn.Module, names: list[str]) -> Iterator[dict[str, Tensor]]:
    """Collect what the named modules put out, in the order in which they run."""
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: nn.Module, _arguments: Any, output: Tensor) -> None:
            outputs[name] = output.detach()

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _result_pairs(ours: Any, theirs: Any) -> list[tuple[str, Tensor | None, Tensor | None]]:
    """The fields of two outputs, tuples taken apart."""
    pairs: list[tuple[str, Tensor | None, Tensor | None]] = []
    for name in ("hidden_states", "attentions"):
        their_tensors = getattr(theirs, name) or ()
        for i, tensor in enumerate(getattr(ours, name)):
            other = their_tensors[i] if i < len(their_tensors) else None
            pairs.append((f"{name}[{i}]", tensor, other))
    for name in ("last_hidden_state", "pooler_output", "logits"):
        tensor = getattr(ours, name, None)
        if tensor is not None:
            pairs.append((name, tensor, getattr(theirs, name, None)))
    for name in ("start_logits", "end_logits"):  # (B, T), to be told from a vector a row
        if hasattr(ours, name):
            pairs.append((name, getattr(ours, name)[..., None], getattr(theirs, name)[..., None]))
    return pairs


def _compare_gradients(
    ours: Model, theirs: nn.Module, our_loss: Tensor, their_loss: Tensor
) -> list[Comparison]:
    """The gradient of every parameter of the loss, by our names."""
    names = stored_names(family_of_model(ours), ours)
    our_parameters = dict(ours.named_parameters())
    their_parameters = dict(theirs.named_parameters())
    our_gradients = torch.autograd.grad(our_loss, [*our_parameters.values()], allow_unused=True)
    their_gradients = torch.autograd.grad(
        their_loss, [their_parameters[names[name]] for name in our_parameters], allow_unused=True
    )
    return [
        _compare_tensors(f"gradient of {name}", our_gradient, their_gradient)
        for name, our_gradient, their_gradient in zip(
            our_parameters, our_gradients, their_gradients, strict=True
        )
    ]


def _compare_tensors(
    name: str,
    ours: Tensor | None,
    theirs: Tensor | None,
    real: tuple[Tensor, Tensor] | None = None,
) -> Comparison:
    """Compare a pair; `real`, (B, T) bool twice, says where its tokens stand on either side."""
    if ours is None or theirs is None:
        return Comparison(name, "OK" if ours is theirs else "MISSING")
    ours, theirs, shape = ours.detach(), theirs.detach(), tuple(ours.shape)
    if real is not None:
        ours, theirs = _at_real_tokens(ours, real[0]), _at_real_tokens(theirs, real[1])
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return Comparison(name, "SHAPE", shape=shape)
    if ours.dtype not in TOLERANCE:
        raise ValueError(f"{name} is {ours.dtype}; only float32 and float64 can be compared")
    tolerance = TOLERANCE[ours.dtype]
    close = torch.allclose(ours, theirs, atol=tolerance, rtol=tolerance)  # False for any NaN
    difference = float((ours - theirs).abs().max()) if ours.numel() else 0.0
    return Comparison(name, "OK" if close else "DIFF", difference, shape)


def _at_real_tokens(tensor: Tensor, real: Tensor) -> Tensor:
    """Leave out padding: its places, and its rows and columns of an attention map."""
    if tensor.dim() == 4:  # (B, H, T, S)
        pairs = real[:, :, None] & real[:, None, :]  # (B, T, S)
        return tensor.permute(0, 2, 3, 1)[pairs]
    if tensor.dim() < 3:  # one vector a row, such as what is pooled
        return tensor
    return tensor.expand(len(real), *tensor.shape[1:])[real]  # positions may come as (1, T, E)
