"""Compare two models module by module, and name the first module that differs.

The pairs of modules come from the weight tables of :mod:`minitransformer.hf`: every module with
weights is compared by its output, in the order of execution. Hidden states, attention maps, logits,
loss and the gradient of every parameter follow. For an optimized model, which may not run every
module, only the latter are compared.

Letters: B batch, T tokens, S source tokens of an encoder-decoder.
"""

import math
import re
import types
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from minitransformer.fast import is_optimized
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.hf.config import family_of_model, reference_class
from minitransformer.hf.weight_names import is_transposed, stored_copies, stored_names
from minitransformer.hub import resolve_checkpoint
from minitransformer.layers.normalization import rms_norm
from minitransformer.layers.positional_embeddings import SinusoidalPositions
from minitransformer.models.bart import BartForSequenceClassification
from minitransformer.models.base import (
    EncoderDecoder,
    LanguageModel,
    Model,
    Seq2SeqLM,
    SequenceClassifier,
    TaskModel,
)
from minitransformer.models.bert import BertForQuestionAnswering, BertForTokenClassification
from minitransformer.models.gpt2 import GPT2ForSequenceClassification
from minitransformer.models.losses import IGNORED_LABEL

# The largest relative difference, |ours - theirs| / (1 + |theirs|), that rounding explains.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}

Batch = dict[str, Tensor]

# Suffixes for the token embedding of an encoder-decoder, which runs twice.
SOURCE, TARGET = " (source)", " (target)"
# The outputs of an encoder-decoder with a vector per source token; the others have one per target
# token.
_SOURCE_OUTPUTS = re.compile(r"encoder|\.cross_attention\.(key|value)$|\(source\)$")
# The fields of the models' outputs, in the order in which they are computed.
_RESULTS = (
    "encoder_hidden_states",
    "encoder_attentions",
    "encoder_last_hidden_state",
    "hidden_states",
    "attentions",
    "decoder_hidden_states",
    "decoder_attentions",
    "cross_attentions",
    "last_hidden_state",
    "pooler_output",
    "logits",
)


@dataclass(frozen=True)
class Comparison:
    """A pair of tensors; status "OK", "DIFF" (values), "SHAPE", or "MISSING" (on one side)."""

    name: str
    status: str
    difference: float = 0.0  # the largest |ours - theirs|
    relative: float = 0.0  # the largest |ours - theirs| / (1 + |theirs|), which decides
    shape: tuple[int, ...] = ()


@dataclass(frozen=True)
class Report:
    """The comparisons, in the order in which the model computes the tensors."""

    rows: tuple[Comparison, ...]

    @property
    def equal(self) -> bool:
        """Whether every pair is within the tolerance."""
        return all(row.status == "OK" for row in self.rows)

    @property
    def first_difference(self) -> Comparison | None:
        """The first pair that is not; None if all are."""
        return next((row for row in self.rows if row.status != "OK"), None)

    def table(self) -> str:
        """One line per pair, and a last one that names the first difference."""
        width = max(len(row.name) for row in self.rows)
        lines = [
            f"{row.status:8}{row.name:{width}}  {row.difference:9.2e}  {row.shape or ''}"
            for row in self.rows
        ]
        first = self.first_difference
        return "\n".join([*lines, "all equal" if first is None else f"first differs: {first.name}"])


@dataclass(frozen=True)
class PaddingMasks:
    """Where the real tokens of a batch are."""

    source: Tensor  # (B, S) bool
    target: Tensor  # (B, T) bool; equal to `source` for a model with a single stack of layers

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """The masks of the queries and of the keys (for attention maps) of the output `name`."""
        queries = self.source if _SOURCE_OUTPUTS.search(name) else self.target
        return queries, self.source if name.startswith("cross_attentions") else queries


def compare(ours: Model, theirs: nn.Module, batch: Batch) -> Report:
    """Run both models on a batch, backward too if it has labels, and compare the results.

    Only real tokens are compared; the values at padding are arbitrary.

    An optimized model takes the plain forward in a call that collects hidden states or runs hooks.
    So its logits, loss and gradients come from a call that does neither, and its hidden states and
    attention maps from another one.

    Args:
        ours: a model of this library, plain or optimized, in evaluation mode.
        theirs: the same model in transformers, with the same dtype and eager attention.
        batch: `input_ids`, `attention_mask`, perhaps `token_type_ids`, (B, T) each, and perhaps
            labels. An encoder-decoder with an LM head also needs `decoder_input_ids` and
            `decoder_attention_mask`, unless it is to derive them from the labels, which are then
            -100 at padding only.
    """
    collect = {"output_hidden_states": True, "output_attentions": True}
    modules = {} if is_optimized(ours) else module_pairs(ours)
    names = {name.removesuffix(SOURCE).removesuffix(TARGET) for name in modules}
    with _outputs_of(ours, names) as our_calls:
        our_result = collected = ours(**batch, **collect)
    if is_optimized(ours):
        our_result = ours(**batch)
    their_batch = their_inputs(ours, batch)
    with t5_norms_in_float64(theirs), _outputs_of(theirs, modules.values()) as their_calls:
        their_result = theirs(**their_batch, **collect)
    our_outputs, their_outputs = _name_embedding_calls(our_calls, modules), dict(their_calls)
    order = [*our_outputs, *(name for name in modules if name not in our_outputs)]
    pairs = [(name, our_outputs.get(name), their_outputs.get(modules[name])) for name in order]
    pairs += _result_pairs(our_result, collected, their_result)
    masks = padding_masks(ours, batch), padding_masks(ours, their_batch)
    rows = [compare_tensors(name, a, b, masks) for name, a, b in pairs]
    our_loss = getattr(our_result, "loss", None)
    if our_loss is not None:
        their_loss = _their_loss(ours, their_result, their_batch)
        rows.append(compare_tensors("loss", our_loss, their_loss))
        rows += _compare_gradients(ours, theirs, our_loss, their_loss)
    return Report(tuple(rows))


def check_checkpoint(
    path: str | Path,
    *,
    length: int = 32,
    device: str | torch.device = "cpu",
    write_line: Callable[[str], None] = print,
) -> bool:
    """Load a checkpoint here and in transformers, and check that both compute the same numbers.

    Args:
        path, length, device: as in :func:`checkpoint_reports`, which this prints.
        write_line: called with every line of the reports.

    Returns:
        Whether the models are equal, up to rounding.

    Raises:
        As :func:`checkpoint_reports`.
    """
    for name, dtype, report in checkpoint_reports(path, length=length, device=device):
        write_line(f"{name}, {dtype}, tolerance {TOLERANCE[dtype]:g}")
        write_line(report.table())
    if report.equal:
        rounding = " (the differences in float32 are rounding)" * (dtype == torch.float64)
        write_line(f"the same function{rounding}")
    else:
        write_line("not the same function: they still differ in float64")
    return report.equal


def checkpoint_reports(
    path: str | Path, *, length: int = 32, device: str | torch.device = "cpu"
) -> Iterator[tuple[str, torch.dtype, Report]]:
    """Load a checkpoint here and in transformers, and compare the two models.

    If they differ in float32, they are compared again in float64, where rounding errors are far
    smaller, while a bug stays as it is.

    Args:
        path: the checkpoint: a directory, or a name on the hub.
        length: the number of tokens of the random batch, or as many as the model allows. One of its
            sequences is full, one is padded on the left, one on the right.
        device: the device that both run on.

    Yields:
        The name of the class, the dtype, and the report: one, or two if the first one is not equal.

    Raises:
        CheckpointError: the checkpoint cannot be loaded.
        ImportError: transformers is not installed.
    """
    try:
        import transformers
    except ImportError as error:
        raise ImportError("parity needs transformers: pip install transformers") from error

    ours = from_pretrained(path, attention="eager")
    their_class = getattr(transformers, reference_class(ours).__name__)
    directory = resolve_checkpoint(path, ("config.json", "*.safetensors"))  # as ours found it
    theirs = their_class.from_pretrained(
        directory, attn_implementation="eager", dtype=torch.float32
    ).eval()
    batch = {name: tensor.to(device) for name, tensor in random_batch(ours, length).items()}
    for dtype in (torch.float32, torch.float64):
        report = compare(ours.to(device, dtype), theirs.to(device, dtype), batch)
        yield reference_class(ours).__name__, dtype, report
        if report.equal:
            return


def random_batch(model: Model, length: int = 32, seed: int = 0) -> Batch:
    """Three sequences of random ids, one padded on the left and one on the right, with labels.

    If tokens have labels, every third real token is labelled. The decoder inputs of an
    encoder-decoder are shorter than the source, and padded on the other side.

    Without a padding token, Hugging Face's GPT-2 can classify only one sequence at a time, so then
    the batch is one sequence without padding.

    Args:
        model: the model that the batch is for.
        length: the number of tokens, or as many as the model allows.
        seed: for the ids and labels.
    """
    generator = torch.Generator().manual_seed(seed)
    config: Any = model.config
    length = min(length, config.max_sequence_length or length)
    ids, real = _random_ids(model, length, generator)
    batch = {"input_ids": ids, "attention_mask": real.long()}
    if hasattr(config, "type_vocab_size"):
        types = config.type_vocab_size
        batch["token_type_ids"] = torch.randint(types, ids.shape, generator=generator)
    if isinstance(model, EncoderDecoder | Seq2SeqLM):
        ids, real = _random_ids(model, max(1, 2 * length // 3), generator)
        ids, real = ids.flip(1), real.flip(1)
        if config.decoder_start_token_id is not None:
            ids.scatter_(1, real.int().argmax(dim=1, keepdim=True), config.decoder_start_token_id)
        batch |= {"decoder_input_ids": ids, "decoder_attention_mask": real.long()}
    if isinstance(model, TaskModel):
        batch |= _random_labels(model, ids, real, generator)
    if isinstance(model, GPT2ForSequenceClassification) and config.pad_token_id is None:
        return {name: values[:1] for name, values in batch.items()}
    return batch


def _random_ids(model: Model, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(3, T) ids, and (3, T) bool, True at real tokens: one sequence is full, two are padded."""
    config: Any = model.config
    end = config.eos_token_id if isinstance(model, BartForSequenceClassification) else None
    choices = torch.tensor(
        [i for i in range(config.vocab_size) if i not in (config.pad_token_id, end)]
    )
    ids = choices[torch.randint(len(choices), (3, length), generator=generator)]
    real = torch.ones(3, length, dtype=torch.bool)
    real[1, : length // 3] = False
    real[2, length - length // 4 :] = False
    if end is not None:  # BART classifies by its last one, which is the last real token here
        last = (real * torch.arange(length)).argmax(dim=1, keepdim=True)  # (3, 1)
        ids.scatter_(1, last, end)
    ids[~real] = config.pad_token_id or 0
    return ids, real


def _random_labels(
    model: TaskModel, ids: Tensor, real: Tensor, generator: torch.Generator
) -> dict[str, Tensor]:
    batch_size, length = ids.shape
    num_labels = getattr(model.config, "num_labels", 0)
    if isinstance(model, BertForQuestionAnswering):
        first, count = real.int().argmax(dim=1), real.sum(dim=1)  # (B,) twice
        return {"start_positions": first + (count > 1), "end_positions": first + count - 1}
    if isinstance(model, SequenceClassifier):
        if model.problem_type == "single_label_classification":
            return {"labels": torch.randint(num_labels, (batch_size,), generator=generator)}
        dtype = next(model.parameters()).dtype
        return {"labels": torch.rand(batch_size, num_labels, generator=generator).to(dtype)}
    labels = ids.roll(1, dims=1)
    if isinstance(model, BertForTokenClassification):
        labels = labels % num_labels
    labelled = torch.arange(length) % 3 == 0
    if _is_causal(model) and length > 1:  # no token predicts the first one
        labelled = labelled.roll(1)
    labels[~real | ~labelled] = IGNORED_LABEL
    return {"labels": labels}


def _is_causal(model: Model) -> bool:
    """Whether it is a language model without an encoder, whose labels are its inputs."""
    return isinstance(model, LanguageModel) and not isinstance(model, Seq2SeqLM)


def padding_masks(ours: Model, batch: Batch) -> PaddingMasks:
    source = batch["attention_mask"].bool()
    if "decoder_attention_mask" in batch:
        return PaddingMasks(source, batch["decoder_attention_mask"].bool())
    if "decoder_input_ids" in batch:
        return PaddingMasks(source, torch.ones_like(batch["decoder_input_ids"], dtype=torch.bool))
    if isinstance(ours, Seq2SeqLM):
        return PaddingMasks(source, batch["labels"] != IGNORED_LABEL)
    return PaddingMasks(source, source)  # the decoder of a classifier reads the source again


def their_inputs(ours: Model, batch: Batch) -> Batch:
    """The batch for the model of transformers, padded on the right where it requires that.

    Most of Hugging Face's models count padding in their position_ids, so padding on the left shifts
    the positions of the text; poolers and classifiers take the token at position 0, even if it is
    padding; and decoder inputs that are derived from labels begin at position 0. For such a model
    the padding of every sequence is moved to the right, separately for source and target.
    """
    masks = padding_masks(ours, batch)
    classifies = isinstance(ours, SequenceClassifier)
    counts_padding = family_of_model(ours).positions_count_padding
    needs_right_padding = counts_padding or classifies or getattr(ours, "pooler", None)
    source, target = ["input_ids", "attention_mask", "token_type_ids"], []
    target += ["decoder_input_ids", "decoder_attention_mask"]
    if not classifies:
        (target if isinstance(ours, Seq2SeqLM) else source).append("labels")
    moved = dict(batch)
    if needs_right_padding:
        moved |= _padded_right(batch, source, masks.source)
        for name in {"start_positions", "end_positions"} & batch.keys():
            moved[name] = batch[name] - masks.source.int().argmax(dim=1)
    if needs_right_padding or "decoder_input_ids" not in batch:
        moved |= _padded_right(batch, target, masks.target)
    return moved


def _padded_right(batch: Batch, names: Iterable[str], real: Tensor) -> Batch:
    """The tensors with these names, (B, T) each, with the padding moved to the right."""
    order = real.byte().argsort(dim=1, descending=True, stable=True)  # (B, T)
    return {name: batch[name].gather(1, order) for name in names if name in batch}


def _their_loss(ours: Model, their_result: Any, their_batch: Batch) -> Tensor:
    """Their loss, computed from their logits where their own is defined differently from ours.

    For question answering ours excludes padding from the softmax. For a causal model in float64,
    theirs rounds the logits to float32.
    """
    if _is_causal(ours) and their_result.logits.dtype == torch.float64:
        logits, labels = their_result.logits[:, :-1], their_batch["labels"][:, 1:]
        return F.cross_entropy(logits.flatten(0, 1), labels.flatten())
    if not isinstance(ours, BertForQuestionAnswering):
        return their_result.loss
    padding = their_batch["attention_mask"] == 0
    start, end = (
        F.cross_entropy(
            getattr(their_result, f"{edge}_logits").masked_fill(padding, -math.inf),
            their_batch[f"{edge}_positions"],
        )
        for edge in ("start", "end")
    )
    return (start + end) / 2


@contextmanager
def t5_norms_in_float64(theirs: nn.Module) -> Iterator[None]:
    """Make the norms of a T5 of Hugging Face's compute in float64 if their weights are float64.

    By themselves they compute the mean square in float32. They are restored at the end.
    """

    def forward(norm: Any, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, norm.weight, norm.variance_epsilon)

    norms: list[Any] = [
        module
        for module in theirs.modules()
        if type(module).__name__ == "T5LayerNorm" and module.weight.dtype == torch.float64
    ]
    for norm in norms:
        norm.forward = types.MethodType(forward, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward  # leaves the method of the class


def module_pairs(ours: Model) -> dict[str, str]:
    """The modules that are compared: our names to theirs."""
    family = family_of_model(ours)
    pairs = {
        our_name.rpartition(".")[0]: their_name.rpartition(".")[0]
        for our_name, their_name in stored_names(family, ours).items()
    }
    # Heads are left out, since the logits are compared anyway: a head with its own bias has child
    # modules, T5's may be a tied matrix, and GPT-2's classifier is applied to every token there but
    # only to the last one here.
    heads = {name for name in pairs if any(ours.get_submodule(name).children())}
    for name in heads | (pairs.keys() & {"lm_head", "lm_head.output", "score"}):
        del pairs[name]
    for name, module in ours.named_modules():
        if isinstance(module, SinusoidalPositions):  # has no weights, so it is in no table
            theirs = name.replace(".position_embedding", ".embed_positions")
            pairs[name] = theirs.replace("backbone.", f"{family.backbone_name}.")
        if isinstance(module, EncoderDecoder):
            # One embedding here, which runs twice; two copies of it there.
            embedding = f"{name}.token_embedding".removeprefix(".")
            before = pairs.pop(embedding).removesuffix("shared")
            pairs[embedding + SOURCE] = f"{before}encoder.embed_tokens"
            pairs[embedding + TARGET] = f"{before}decoder.embed_tokens"
    return pairs


@contextmanager
def _outputs_of(model: nn.Module, names: Iterable[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect the outputs of these modules, with their names, in the order of execution."""
    outputs: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, _arguments: Any, output: Tensor) -> None:
            # Hugging Face's BART scales inside the token embedding; all others, and ours, after it.
            outputs.append((name, output.detach() / getattr(module, "embed_scale", 1.0)))

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _name_embedding_calls(
    calls: list[tuple[str, Tensor]], modules: dict[str, str]
) -> dict[str, Tensor]:
    """Our outputs by name; an encoder-decoder embeds the source first, then the target."""
    outputs: dict[str, Tensor] = {}
    for name, output in calls:
        if name not in modules:
            name += TARGET if name + SOURCE in outputs else SOURCE
        outputs[name] = output
    return outputs


def _result_pairs(
    ours: Any, collected: Any, theirs: Any
) -> list[tuple[str, Tensor | None, Tensor | None]]:
    """The fields of two outputs, item by item; fields that ours lacks come from `collected`."""
    pairs: list[tuple[str, Tensor | None, Tensor | None]] = []
    for name in _RESULTS:
        our_tensors, their_tensors = getattr(ours, name, None), getattr(theirs, name, None)
        if our_tensors is None:
            our_tensors = getattr(collected, name, None)
        if isinstance(our_tensors, tuple):
            padded = [*(their_tensors or ()), *(None for _ in our_tensors)]
            pairs += [(f"{name}[{i}]", tensor, padded[i]) for i, tensor in enumerate(our_tensors)]
        elif our_tensors is not None:
            pairs.append((name, our_tensors, their_tensors))
    for name in ("start_logits", "end_logits"):  # (B, T, 1), unlike a pooled (B, E)
        if hasattr(ours, name):
            pairs.append((name, getattr(ours, name)[..., None], getattr(theirs, name)[..., None]))
    return pairs


def _compare_gradients(
    ours: Model, theirs: nn.Module, our_loss: Tensor, their_loss: Tensor
) -> list[Comparison]:
    """Compare the gradient of the loss for every parameter.

    Theirs is the sum over the copies that transformers does not tie.
    """
    family = family_of_model(ours)
    names = stored_names(family, ours)
    our_parameters = dict(ours.named_parameters())
    their_parameters = dict(theirs.named_parameters())
    our_gradients = torch.autograd.grad(our_loss, [*our_parameters.values()], allow_unused=True)
    pairs = [(name, names[name]) for name in our_parameters]
    copies = stored_copies(family, ours).items()
    pairs += [(name, copied) for copied, name in copies if copied in their_parameters]
    found = torch.autograd.grad(
        their_loss, [their_parameters[stored] for _, stored in pairs], allow_unused=True
    )
    their_gradients: dict[str, Tensor] = {}
    for (name, _), gradient in zip(pairs, found, strict=True):
        if gradient is not None:
            their_gradients[name] = gradient + their_gradients.get(name, 0.0)
    rows = []
    for name, our_gradient in zip(our_parameters, our_gradients, strict=True):
        their_gradient = their_gradients.get(name)
        if their_gradient is not None and is_transposed(names[name], family):
            their_gradient = their_gradient.T
        rows.append(compare_tensors(f"gradient of {name}", our_gradient, their_gradient))
    return rows


def compare_tensors(
    name: str,
    ours: Tensor | None,
    theirs: Tensor | None,
    masks: tuple[PaddingMasks, PaddingMasks] | None = None,
) -> Comparison:
    """Compare a pair; `masks` are the padding masks of our batch and of theirs."""
    if ours is None or theirs is None:
        return Comparison(name, "OK" if ours is theirs else "MISSING")
    ours, theirs, shape = ours.detach(), theirs.detach(), tuple(ours.shape)
    if masks is not None and not name.endswith("position_bias.table"):  # (T, T, H)
        if ours.dim() == 3 and theirs.dim() == 2:
            theirs = theirs[None]  # positions may come as (T, E)
        ours = _at_real_tokens(ours, *masks[0].of(name))
        theirs = _at_real_tokens(theirs, *masks[1].of(name))
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return Comparison(name, "SHAPE", shape=shape)
    if ours.dtype not in TOLERANCE:
        raise ValueError(f"{name} is {ours.dtype}; only float32 and float64 are compared")
    if not ours.numel():
        return Comparison(name, "OK", shape=shape)
    difference = (ours - theirs).abs()
    relative = float((difference / (1 + theirs.abs())).max())
    status = "OK" if relative <= TOLERANCE[ours.dtype] else "DIFF"  # NaN is a DIFF
    return Comparison(name, status, float(difference.max()), relative, shape)


def _at_real_tokens(tensor: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Drop the vectors at padding and, from an attention map, the queries and keys at padding.

    Args:
        tensor: (B, T, E), (1, T, E), (B, H, T, S) or (B, E).
        queries: (B, T) bool, True at real tokens.
        keys: (B, S) bool.
    """
    if tensor.dim() == 4:  # (B, H, T, S)
        pairs = queries[:, :, None] & keys[:, None, :]  # (B, T, S)
        return tensor.permute(0, 2, 3, 1)[pairs]
    if tensor.dim() < 3:  # one vector per sequence, such as the pooled output
        return tensor
    return tensor.expand(len(queries), *tensor.shape[1:])[queries]  # positions may be (1, T, E)
