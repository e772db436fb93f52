"""The attention maps of a text, and pictures of them.

:func:`attention_maps` computes the maps. :func:`draw_grid` draws every head of every layer,
:func:`draw_layer` draws one layer large, and :func:`attention_picture` does everything for a
checkpoint.

An encoder-decoder has three kinds of attention ("Attention Is All You Need", section 3.2.3): the
self-attention of the encoder, that of the decoder, and the cross-attention of the decoder to the
source.

Letters: L layers, H heads, T query tokens, S key tokens. Layers and heads are counted from 0, as in
`output.attentions`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitransformer.attention_pictures import (
    check_layer,
    check_picture,
    draw_grid,
    draw_layer,
    new_figure,
)
from minitransformer.generation import generate
from minitransformer.hf.checkpoint import from_pretrained
from minitransformer.hf.config import class_name
from minitransformer.models.base import (
    EncoderDecoder,
    Model,
    Seq2SeqLM,
    TaskModel,
    start_token,
)
from minitransformer.models.gpt2 import GPT2Model
from minitransformer.models.validation import check_evaluation_mode
from minitransformer.names import shortened, unexpected_name
from minitransformer.tasks.base import check_vocabularies, load_tokenizer
from minitransformer.tokenization import BatchEncoding, Tokenizer

__all__ = [
    "KINDS",
    "AttentionMaps",
    "TokenLabels",
    "attention_maps",
    "attention_picture",
    "draw_grid",
    "draw_layer",
]

KINDS = ("encoder", "decoder", "cross")
_TITLES = {
    "encoder": "Encoder self-attention",
    "decoder": "Decoder self-attention",
    "cross": "Cross-attention",
}
_VISIBLE_SPACES = str.maketrans({" ": "·", "\n": "↵", "\r": "↵", "\t": "⇥"})


@dataclass(frozen=True)
class TokenLabels:
    """The labels of the tokens along one axis of a map.

    Attributes:
        tokens: the characters of each token as they stand in the text, with `·` for a space at its
            beginning, and `…` where it begins or ends within a character.
        sequence_ids: for each token 0 (first text), 1 (second text) or None (special token).
    """

    tokens: tuple[str, ...]
    sequence_ids: tuple[int | None, ...]

    @property
    def second_text(self) -> int | None:
        """The position of the first token of the second text; None if there is only one text."""
        return self.sequence_ids.index(1) if 1 in self.sequence_ids else None


@dataclass(frozen=True, eq=False)
class AttentionMaps:
    """The attention of every head of a model over one text, or over a pair of texts.

    Attributes:
        tokens: the labels of the T query tokens; see :class:`TokenLabels`. In the cross-attention
            of a language model these are the predicted tokens: at each of them the decoder reads
            the token before it.
        maps: (L, H, T, S) float32 on the CPU: `maps[l, h, i, j]` is the weight with which query
            token i attends to key token j. The weights of a query sum to 1.
        sequence_ids: for each query token 0 (first text), 1 (second text) or None (special token).
        source: the labels of the S key tokens; None if they are the query tokens.
        title: of the picture.
        query_label: what the query tokens are.
    """

    tokens: tuple[str, ...]
    maps: Tensor
    sequence_ids: tuple[int | None, ...]
    source: TokenLabels | None = None
    title: str = "Attention"
    query_label: str = "the token that attends"

    @property
    def queries(self) -> TokenLabels:
        """The labels of the T query tokens."""
        return TokenLabels(self.tokens, self.sequence_ids)

    @property
    def keys(self) -> TokenLabels:
        """The labels of the S key tokens."""
        return self.queries if self.source is None else self.source

    @property
    def second_text(self) -> int | None:
        """The position of the first token of the second text; None if there is only one text."""
        return self.queries.second_text


@torch.no_grad()
def attention_maps(
    model: Model,
    tokenizer: Tokenizer,
    text: str,
    pair: str | None = None,
    *,
    kind: str | None = None,
    target: str | None = None,
) -> AttentionMaps:
    """Run `model` on a text, or on a pair of texts, and collect the map of every head.

    The maps are those that the model returns with `output_attentions=True`.

    Args:
        model: any model, in evaluation mode.
        tokenizer: the model's tokenizer.
        text, pair: the text, and a second one if there is a pair; the source of an encoder-decoder.
        kind: "encoder", "decoder" or "cross" (the default) for an encoder-decoder. Other models
            have only one kind.
        target: the target text of an encoder-decoder; by default the model generates it, as its
            generation config says.

    Raises:
        TypeError: a text is not a str.
        ValueError: the model is in training mode, a text has no token, the texts are too long for
            the model (nothing is truncated), the tokenizer has more tokens than the model has
            embeddings, the model has no attention of this kind, or there is no target and the model
            cannot generate one.
    """
    check_evaluation_mode(model)
    kind = _check_kind(model, kind, target)
    texts = (text,) if pair is None else (text, pair)
    batch = tokenizer([text], None if pair is None else [pair], return_tensors="pt")
    check_vocabularies(model, tokenizer)
    _check_fit(model, batch, texts)
    labels = TokenLabels(_readable(tokenizer, batch, texts), tuple(batch.sequence_ids()))
    batch = batch.to(next(model.parameters()).device)
    if isinstance(_backbone(model), EncoderDecoder):
        return _encoder_decoder_maps(model, tokenizer, batch, labels, kind, target)
    output = model(**batch, output_attentions=True)
    return AttentionMaps(labels.tokens, _stack(output.attentions), labels.sequence_ids)


def attention_picture(
    path: str | Path,
    text: str,
    picture: str | Path | None,
    *,
    pair: str | None = None,
    kind: str | None = None,
    target: str | None = None,
    layer: int | None = None,
    device: str | torch.device = "cpu",
) -> AttentionMaps:
    """Draw the attention maps of a checkpoint for a text, or for a pair of texts; return them.

    Args:
        path: the checkpoint: a directory, or a name on the hub.
        text, pair, kind, target: as in :func:`attention_maps`.
        picture: the .png, .pdf or .svg file to write, in a directory that exists; None writes none.
        layer: draw only this layer, large; None draws the grid of all layers.
        device: the device that the model runs on.

    Raises:
        ImportError: matplotlib is not installed.
        ValueError: `picture` cannot be written, the layer does not exist, or an argument is one
            that :func:`attention_maps` refuses.
    """
    # Checks that do not need the model come before it is loaded.
    _check_kind_name(kind)
    if picture is not None:
        check_picture(picture)
        new_figure(1, 1)  # raises if matplotlib is missing
    model = from_pretrained(path, device=device)
    kind = _check_kind(model, kind, target)
    if layer is not None:
        check_layer(layer, _number_of_layers(model, kind))
    tokenizer = load_tokenizer(path, model)
    maps = attention_maps(model, tokenizer, text, pair, kind=kind, target=target)
    if picture is not None:
        if layer is None:
            draw_grid(maps, picture)
        else:
            draw_layer(maps, layer, picture)
    return maps


# ---- the maps ----


def _backbone(model: Model) -> Model:
    return model.backbone if isinstance(model, TaskModel) else model


def _check_kind_name(kind: str | None) -> None:
    if kind not in (None, *KINDS):
        raise ValueError(unexpected_name("kind", str(kind), KINDS))


def _check_kind(model: Model, kind: str | None, target: str | None) -> str:
    """The kind of attention, with the default filled in; checks it and `target`."""
    _check_kind_name(kind)
    backbone, name = _backbone(model), class_name(model)
    if not isinstance(backbone, EncoderDecoder):
        only = "decoder" if isinstance(backbone, GPT2Model) else "encoder"
        if kind not in (None, only):
            raise ValueError(
                f"kind={shortened(kind)}: a {name} has only attention of the kind {only!r}"
            )
        if target is not None:
            raise ValueError(
                f"target: only an encoder-decoder has a target, and {name} is not one; leave it out"
            )
        return only
    kind = kind or "cross"
    if target is not None and kind == "encoder":
        raise ValueError(
            "target: the encoder does not see the target; leave it out, or choose another kind"
        )
    if target is not None and not isinstance(model, Seq2SeqLM | EncoderDecoder):
        raise ValueError(
            f"target: the decoder of a {name} reads the source again; leave the target out"
        )
    return kind


def _check_fit(
    model: Model, batch: BatchEncoding, texts: Sequence[str], what: str = "text"
) -> None:
    """Check that each text has a token, and that together they are short enough for the model."""
    limit = model.config.max_sequence_length
    sequence_ids = batch.sequence_ids()
    for index, text in enumerate(texts):
        if index not in sequence_ids:
            number = f" {index}" * (what == "text")
            raise ValueError(
                f"{what}{number} is {shortened(text)}, which has no token; give it at least one "
                "word"
            )
    if limit is not None and len(sequence_ids) > limit:
        one = len(texts) == 1
        which = f"the {what} has" if one else "the two texts have"
        fix = f"shorten the {what}" if one else "shorten one of them"
        raise ValueError(
            f"{which} {len(sequence_ids)} tokens, including special tokens, but this model takes "
            f"at most {limit}; {fix}"
        )


def _number_of_layers(model: Model, kind: str) -> int:
    if kind != "encoder" and isinstance(_backbone(model), EncoderDecoder):
        return model.config.num_decoder_layers
    return model.config.num_hidden_layers


def _stack(maps: Sequence[Tensor]) -> Tensor:
    """L maps of a batch of one, (1, H, T, S) each, as (L, H, T, S) in float32 on the CPU."""
    return torch.cat(list(maps)).float().cpu()


# ---- the maps of an encoder-decoder ----


def _encoder_decoder_maps(
    model: Model,
    tokenizer: Tokenizer,
    batch: BatchEncoding,
    labels: TokenLabels,
    kind: str,
    target: str | None,
) -> AttentionMaps:
    """The maps of one kind; `batch` is the source, a single sequence, and `labels` its tokens."""
    backbone: Any = _backbone(model)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    title = _TITLES[kind]
    encoded = backbone.encode(ids, mask, output_attentions=kind == "encoder")
    if kind == "encoder":
        maps = _stack(encoded.attentions)
        return AttentionMaps(labels.tokens, maps, labels.sequence_ids, title=title)

    if isinstance(model, Seq2SeqLM | EncoderDecoder):
        target_ids, predicted = _target(model, tokenizer, ids, mask, target)
    else:
        target_ids, predicted = ids, labels  # a classifier's decoder reads the source again
    start = start_token(model.config)
    read_ids = torch.cat([target_ids.new_full((1, 1), start), target_ids[:, :-1]], dim=1)
    first = _labels_of_ids(tokenizer, [start])
    read = TokenLabels(
        first.tokens + predicted.tokens[:-1], first.sequence_ids + predicted.sequence_ids[:-1]
    )
    decoded = backbone.decode(read_ids, encoded, output_attentions=True)
    if kind == "decoder":
        return AttentionMaps(
            read.tokens, _stack(decoded.attentions), read.sequence_ids, title=title
        )
    maps = _stack(decoded.cross_attentions)
    if predicted is labels:
        return AttentionMaps(read.tokens, maps, read.sequence_ids, labels, title)
    query_label = "the token that is predicted"
    return AttentionMaps(predicted.tokens, maps, predicted.sequence_ids, labels, title, query_label)


def _target(
    model: Model, tokenizer: Tokenizer, ids: Tensor, mask: Tensor, target: str | None
) -> tuple[Tensor, TokenLabels]:
    """The ids of the target, (1, T), which is generated if it is not given, and their labels."""
    if target is not None:
        batch = tokenizer(text_target=[target], return_tensors="pt")
        _check_fit(model, batch, (target,), "target")
        tokens = _readable(tokenizer, batch, (target,))
        labels = TokenLabels(tokens, tuple(batch.sequence_ids()))
        return batch["input_ids"].to(ids.device), labels
    if not isinstance(model, Seq2SeqLM):
        raise ValueError(f"a {class_name(model)} has no LM head to generate with; give a target")
    config = model.generation_config
    if config.max_new_tokens is None and config.max_length is None:
        raise ValueError(
            "generation_config.json sets neither max_new_tokens nor max_length, so the length of "
            "the generated text is unknown; set max_new_tokens there, or give a target"
        )
    output = generate(model, ids, mask, seed=0, tokenizer=tokenizer, num_return_sequences=1)
    return output.new_tokens, _labels_of_ids(tokenizer, output.new_tokens[0].tolist())


# ---- the labels of the tokens ----


def _readable(tokenizer: Tokenizer, batch: BatchEncoding, texts: Sequence[str]) -> tuple[str, ...]:
    """A label for each of the T tokens of the batch's only sequence.

    Byte-level tokens are spelled with letters that represent bytes ("cittÃł" is "città"), so their
    characters are taken from the text. The tokens of other algorithms are readable as they are.
    """
    tokens, sequence_ids, spans = batch.tokens(), batch.sequence_ids(), batch.offsets()
    by_bytes = type(tokenizer.backend.decoder).__name__ == "ByteLevel"
    names = []
    for position, (token, text) in enumerate(zip(tokens, sequence_ids, strict=True)):
        if text is None or batch.encodings[0].ids[position] in tokenizer.special_ids:
            names.append(token.strip())
        elif by_bytes:
            spaces = "·" * (len(token) - len(token.lstrip("Ġ")))
            names.append(spaces + _characters(texts[text], position, sequence_ids, spans))
        else:
            names.append(token.replace("▁", "·"))
    return tuple(name.translate(_VISIBLE_SPACES) for name in names)


def _characters(
    text: str, position: int, sequence_ids: list[int | None], spans: list[tuple[int, int]]
) -> str:
    """The characters of a byte-level token, with `…` for a character that it has only part of."""
    start, end = spans[position]
    before, after = (
        spans[other]
        if 0 <= other < len(spans) and sequence_ids[other] == sequence_ids[position]
        else None
        for other in (position - 1, position + 1)
    )
    return (
        "…" * (before is not None and before[1] > start)
        + text[start:end].lstrip(" ")
        + "…" * (after is not None and after[0] < end)
    )


def _labels_of_ids(tokenizer: Tokenizer, ids: Sequence[int]) -> TokenLabels:
    """Labels of tokens that a model generated, with `…` for parts of characters."""
    by_bytes = type(tokenizer.backend.decoder).__name__ == "ByteLevel"
    names = []
    for token_id in ids:
        name = tokenizer.id_to_token(token_id)
        if token_id in tokenizer.special_ids:
            name = name.strip()
        elif by_bytes:
            name = re.sub("\N{REPLACEMENT CHARACTER}+", "…", tokenizer.backend.decode([token_id]))
        else:
            name = name.replace("▁", "·")
        names.append(name.translate(_VISIBLE_SPACES))
    special = tokenizer.special_ids
    return TokenLabels(tuple(names), tuple(None if token in special else 0 for token in ids))
