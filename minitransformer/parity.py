"""Are two models the same function? Compare them module by module and name the first that differs.

The pairs of modules come from the weight tables of :mod:`minitransformer.hf`: whatever has weights
is compared by its output, in the order in which it runs. Then come hidden states, attention maps,
logits, loss, and the gradient of every parameter. An optimized model need not run its modules one
by one, so of it only the latter are compared.

B batch, T tokens, S source tokens of an encoder-decoder.
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
from minitransformer.hf.weight_names import is_transposed, stored_names
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

# dtype to the difference that rounding explains, as a share of 1 + |theirs|.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}

Batch = dict[str, Tensor]

# Of the one token embedding of an encoder-decoder, which runs twice.
_SOURCE, _TARGET = " (source)", " (target)"
# What in an encoder-decoder has a vector for each source token; all else has one for each target's.
_OF_THE_SOURCE = re.compile(r"encoder|\.cross_attention\.(key|value)$|\(source\)$")
# The fields of what models return, in the order in which they are computed.
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
    """One pair of tensors: "OK", "DIFF" (numbers), "SHAPE", or "MISSING" on one side."""

    name: str
    status: str
    difference: float = 0.0  # the largest absolute one
    relative: float = 0.0  # the largest |ours - theirs| / (1 + |theirs|): what is tolerated
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


@dataclass(frozen=True)
class _PaddingMasks:
    """Where the real tokens of a batch are."""

    source: Tensor  # (B, S) bool
    target: Tensor  # (B, T) bool; the same where there is one stack of layers

    def of(self, name: str) -> tuple[Tensor, Tensor]:
        """The masks of the queries and, in an attention map, of the keys of an output."""
        queries = self.source if _OF_THE_SOURCE.search(name) else self.target
        return queries, self.source if name.startswith("cross_attentions") else queries


def compare(ours: Model, theirs: nn.Module, batch: Batch) -> Report:
    """Run both models on one batch, backward too if it is labelled, and compare what they did.

    Only real tokens count: what a model computes at padding means nothing.

    A call that collects hidden states, or that meets hooks, takes the plain forward of an optimized
    model too. So of such a model logits, loss and gradients come from a call without either, and
    hidden states and attention maps from a second one.

    Args:
        ours: a model of this library, plain or optimized, in evaluation mode.
        theirs: its namesake of transformers, of the same dtype, with eager attention.
        batch: `input_ids`, `attention_mask`, and maybe `token_type_ids`, (B, T) each, and labels;
            of an encoder-decoder with an LM head, `decoder_input_ids` and `decoder_attention_mask`
            too, unless it is to make them of the labels, which then are -100 at padding only.
    """
    collect = {"output_hidden_states": True, "output_attentions": True}
    modules = {} if is_optimized(ours) else _module_pairs(ours)
    names = {name.removesuffix(_SOURCE).removesuffix(_TARGET) for name in modules}
    with _outputs_of(ours, names) as our_calls:
        our_result = collected = ours(**batch, **collect)
    if is_optimized(ours):
        our_result = ours(**batch)
    their_batch = _their_inputs(ours, batch)
    with as_exact_as_its_dtype(theirs), _outputs_of(theirs, modules.values()) as their_calls:
        their_result = theirs(**their_batch, **collect)
    our_outputs, their_outputs = _name_both_embeddings(our_calls, modules), dict(their_calls)
    order = [*our_outputs, *(name for name in modules if name not in our_outputs)]
    pairs = [(name, our_outputs.get(name), their_outputs.get(modules[name])) for name in order]
    pairs += _result_pairs(our_result, collected, their_result)
    masks = _padding_masks(ours, batch), _padding_masks(ours, their_batch)
    rows = [_compare_tensors(name, a, b, masks) for name, a, b in pairs]
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
        length: of the random batch, in tokens (less where fewer fit): one sequence is full, one
            padded on the left, one on the right.
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
    their_class = getattr(transformers, reference_class(ours).__name__)
    theirs = their_class.from_pretrained(
        path, attn_implementation="eager", dtype=torch.float32
    ).eval()
    batch = {name: tensor.to(device) for name, tensor in random_batch(ours, length).items()}
    for dtype in (torch.float32, torch.float64):
        report = compare(ours.to(device, dtype), theirs.to(device, dtype), batch)
        say(f"{reference_class(ours).__name__}, {dtype}, tolerance {TOLERANCE[dtype]:g}")
        say(report.table())
        if report.equal:
            noise = " (the differences in float32 are rounding)" * (dtype == torch.float64)
            say(f"the same function{noise}")
            return True
    say("not the same function: the difference is still there in float64")
    return False


def random_batch(model: Model, length: int = 32, seed: int = 0) -> Batch:
    """Three sequences of random ids, one padded on the left and one on the right, with labels.

    Every third real token is labelled where tokens have labels. What the decoder of an
    encoder-decoder reads is shorter than the source, and padded on the other side.

    One sequence without padding is all that Hugging Face's GPT-2 can classify if it has no padding
    token, so there the batch is no more than that.

    Args:
        model: the batch is for it, and its config says what fits.
        length: in tokens, or as many as the model can take.
        seed: of the ids and labels.
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
    if end is not None:  # the token that BART classifies a text by: the last real one
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
    if _is_causal(model) and length > 1:  # the first token has none before it to predict it
        labelled = labelled.roll(1)
    labels[~real | ~labelled] = IGNORED_LABEL
    return {"labels": labels}


def _is_causal(model: Model) -> bool:
    """Whether it is a language model without an encoder, whose labels are its own inputs."""
    return isinstance(model, LanguageModel) and not isinstance(model, Seq2SeqLM)


def _padding_masks(ours: Model, batch: Batch) -> _PaddingMasks:
    """Where the real tokens are."""
    source = batch["attention_mask"].bool()
    if "decoder_attention_mask" in batch:
        return _PaddingMasks(source, batch["decoder_attention_mask"].bool())
    if "decoder_input_ids" in batch:
        return _PaddingMasks(source, torch.ones_like(batch["decoder_input_ids"], dtype=torch.bool))
    if isinstance(ours, Seq2SeqLM):
        return _PaddingMasks(source, batch["labels"] != IGNORED_LABEL)
    return _PaddingMasks(source, source)  # the decoder of a classifier reads the source once more


def _their_inputs(ours: Model, batch: Batch) -> Batch:
    """What the other side must be given to mean the same.

    Most of Hugging Face's models count padding in their position_ids, so padding on the left moves
    the text; whatever takes the first token takes position 0; and what is made of labels begins at
    position 0. Such a model gets every sequence padded on the right, source and target each by
    itself.
    """
    masks = _padding_masks(ours, batch)
    classifies = isinstance(ours, SequenceClassifier)
    counts_padding = family_of_model(ours).positions_count_padding
    moves = counts_padding or classifies or getattr(ours, "pooler", None)
    source, target = ["input_ids", "attention_mask", "token_type_ids"], []
    target += ["decoder_input_ids", "decoder_attention_mask"]
    if not classifies:
        (target if isinstance(ours, Seq2SeqLM) else source).append("labels")
    moved = dict(batch)
    if moves:
        moved |= _padded_right(batch, source, masks.source)
        for name in {"start_positions", "end_positions"} & batch.keys():
            moved[name] = batch[name] - masks.source.int().argmax(dim=1)
    if moves or "decoder_input_ids" not in batch:
        moved |= _padded_right(batch, target, masks.target)
    return moved


def _padded_right(batch: Batch, names: Iterable[str], real: Tensor) -> Batch:
    """The named values, (B, T) each, with padding after the real tokens."""
    order = real.byte().argsort(dim=1, descending=True, stable=True)  # (B, T)
    return {name: batch[name].gather(1, order) for name in names if name in batch}


def _their_loss(ours: Model, their_result: Any, their_batch: Batch) -> Tensor:
    """Their loss, or what it would be by our rule, or in the dtype of the model.

    Of question answering the one without padding among the choices; of a causal model in float64
    that of the logits in float64, which theirs rounds to float32.
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
def as_exact_as_its_dtype(theirs: nn.Module) -> Iterator[None]:
    """Let the norms of Hugging Face's T5 compute in float64 where the rest of the model does.

    They square and sum in float32 whatever the dtype. At the end they are what they were.
    """

    def exact(norm: Any, hidden: Tensor) -> Tensor:
        return rms_norm(hidden, norm.weight, norm.variance_epsilon)

    norms: list[Any] = [
        module
        for module in theirs.modules()
        if type(module).__name__ == "T5LayerNorm" and module.weight.dtype == torch.float64
    ]
    for norm in norms:
        norm.forward = types.MethodType(exact, norm)
    try:
        yield
    finally:
        for norm in norms:
            del norm.forward  # the class has its own


def _module_pairs(ours: Model) -> dict[str, str]:
    """The modules that are compared, our name to theirs."""
    family = family_of_model(ours)
    pairs = {
        our_name.rpartition(".")[0]: their_name.rpartition(".")[0]
        for our_name, their_name in stored_names(family, ours).items()
    }
    # Heads give the logits, compared anyway: one that keeps a bias of its own is no leaf, T5's may
    # be a matrix that is only read, and GPT-2's classifier runs there on every token, here on the
    # last.
    heads = {name for name in pairs if any(ours.get_submodule(name).children())}
    for name in heads | (pairs.keys() & {"lm_head", "score"}):
        del pairs[name]
    for name, module in ours.named_modules():
        if isinstance(module, SinusoidalPositions):  # without weights, so in no table of names
            theirs = name.replace(".position_embedding", ".embed_positions")
            pairs[name] = theirs.replace("backbone.", f"{family.backbone_name}.")
        if isinstance(module, EncoderDecoder):
            # One table here, which runs twice; two copies of it there.
            embedding = f"{name}.token_embedding".removeprefix(".")
            before = pairs.pop(embedding).removesuffix("shared")
            pairs[embedding + _SOURCE] = f"{before}encoder.embed_tokens"
            pairs[embedding + _TARGET] = f"{before}decoder.embed_tokens"
    return pairs


@contextmanager
def _outputs_of(model: nn.Module, names: Iterable[str]) -> Iterator[list[tuple[str, Tensor]]]:
    """Collect the outputs of the named modules with their names, in the order in which they run."""
    outputs: list[tuple[str, Tensor]] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: Any, _arguments: Any, output: Tensor) -> None:
            # Hugging Face's BART scales within the token embedding; all others, and we, after it.
            outputs.append((name, output.detach() / getattr(module, "embed_scale", 1.0)))

        return hook

    hooks = [model.get_submodule(name).register_forward_hook(keep(name)) for name in names]
    try:
        yield outputs
    finally:
        for hook in hooks:
            hook.remove()


def _name_both_embeddings(
    calls: list[tuple[str, Tensor]], modules: dict[str, str]
) -> dict[str, Tensor]:
    """Our outputs by name; the token embedding of an encoder-decoder runs on the source first."""
    outputs: dict[str, Tensor] = {}
    for name, output in calls:
        if name not in modules:
            name += _TARGET if name + _SOURCE in outputs else _SOURCE
        outputs[name] = output
    return outputs


def _result_pairs(
    ours: Any, collected: Any, theirs: Any
) -> list[tuple[str, Tensor | None, Tensor | None]]:
    """The fields of two outputs, tuples taken apart; what ours lacks is what was `collected`."""
    pairs: list[tuple[str, Tensor | None, Tensor | None]] = []
    for name in _RESULTS:
        our_tensors, their_tensors = getattr(ours, name, None), getattr(theirs, name, None)
        if our_tensors is None:
            our_tensors = getattr(collected, name, None)
        if isinstance(our_tensors, tuple):
            others = [*(their_tensors or ()), *(None for _ in our_tensors)]
            pairs += [(f"{name}[{i}]", tensor, others[i]) for i, tensor in enumerate(our_tensors)]
        elif our_tensors is not None:
            pairs.append((name, our_tensors, their_tensors))
    for name in ("start_logits", "end_logits"):  # (B, T), to be told from a vector a sequence
        if hasattr(ours, name):
            pairs.append((name, getattr(ours, name)[..., None], getattr(theirs, name)[..., None]))
    return pairs


def _compare_gradients(
    ours: Model, theirs: nn.Module, our_loss: Tensor, their_loss: Tensor
) -> list[Comparison]:
    """The gradient of every parameter of the loss, by our names."""
    family = family_of_model(ours)
    names = stored_names(family, ours)
    our_parameters = dict(ours.named_parameters())
    their_parameters = dict(theirs.named_parameters())
    our_gradients = torch.autograd.grad(our_loss, [*our_parameters.values()], allow_unused=True)
    their_gradients = torch.autograd.grad(
        their_loss, [their_parameters[names[name]] for name in our_parameters], allow_unused=True
    )
    rows = []
    for name, our_gradient, their_gradient in zip(
        our_parameters, our_gradients, their_gradients, strict=True
    ):
        if their_gradient is not None and is_transposed(names[name], family):
            their_gradient = their_gradient.T
        rows.append(_compare_tensors(f"gradient of {name}", our_gradient, their_gradient))
    return rows


def _compare_tensors(
    name: str,
    ours: Tensor | None,
    theirs: Tensor | None,
    masks: tuple[_PaddingMasks, _PaddingMasks] | None = None,
) -> Comparison:
    """Compare a pair; `masks` says which tokens are real on either side."""
    if ours is None or theirs is None:
        return Comparison(name, "OK" if ours is theirs else "MISSING")
    ours, theirs, shape = ours.detach(), theirs.detach(), tuple(ours.shape)
    if masks is not None and not name.endswith("position_bias.table"):  # (T, T, H), of no sequence
        if ours.dim() == 3 and theirs.dim() == 2:
            theirs = theirs[None]  # positions may come as (T, E)
        ours = _at_real_tokens(ours, *masks[0].of(name))
        theirs = _at_real_tokens(theirs, *masks[1].of(name))
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return Comparison(name, "SHAPE", shape=shape)
    if ours.dtype not in TOLERANCE:
        raise ValueError(f"{name} is {ours.dtype}; only float32 and float64 can be compared")
    if not ours.numel():
        return Comparison(name, "OK", shape=shape)
    apart = (ours - theirs).abs()
    relative = float((apart / (1 + theirs.abs())).max())
    status = "OK" if relative <= TOLERANCE[ours.dtype] else "DIFF"  # NaN too is a DIFF
    return Comparison(name, status, float(apart.max()), relative, shape)


def _at_real_tokens(tensor: Tensor, queries: Tensor, keys: Tensor) -> Tensor:
    """Leave out padding: its vectors and, in an attention map, its queries and keys.

    Args:
        tensor: (B, T, E), (1, T, E), (B, H, T, S) or (B, E).
        queries: (B, T) bool, True at real tokens.
        keys: (B, S) bool.
    """
    if tensor.dim() == 4:  # (B, H, T, S)
        pairs = queries[:, :, None] & keys[:, None, :]  # (B, T, S)
        return tensor.permute(0, 2, 3, 1)[pairs]
    if tensor.dim() < 3:  # one vector a sequence, such as the pooled output
        return tensor
    return tensor.expand(len(queries), *tensor.shape[1:])[queries]  # positions may be (1, T, E)
