"""A whole model in one file: RoBERTa with the head that predicts masked tokens.

B batch, T tokens, E hidden size, V vocabulary.
"""

import copy
import functools
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from minitransformer.exercises.blocks import ENCODER_LAYER, TIED_LM_HEAD, adopt, of_parts
from minitransformer.exercises.exercise import Exercise
from minitransformer.exercises.inputs import integers, normal, real_tokens
from minitransformer.exercises.layers import (
    ROBERTA_POSITIONS,
    RobertaPositionsSteps,
    install_roberta_positions,
)
from minitransformer.exercises.models import (
    attention_weights_transposed,
    embeddings_not_normalized,
    eps_of_another_model,
    last_layer_left_out,
    no_token_types,
    offset_of_two,
    positions_that_count_padding,
    positions_without_offset,
)
from minitransformer.exercises.runner import Case
from minitransformer.models import bert, roberta


class RobertaForMaskedLM(nn.Module):
    """RoBERTa and its LM head, loaded from a checkpoint of Hugging Face.

    embeddings: LayerNorm(word_embeddings[id] + token_type_embeddings[0] + position_embeddings[p]).
    A real token has p = pad_token_id + 1, + 2, ...: real tokens are counted, so that padding on
    the left moves nothing; padding, where attention_mask is 0, has p = pad_token_id.

    layers, num_hidden_layers of them, post-norm, with num_attention_heads heads of D = E / H:
        h = attention.output.LayerNorm(x + attention(x))
        x = output.LayerNorm(h + output.dense(gelu(intermediate.dense(h))))
    attention(x) = attention.output.dense(heads side by side); no query attends to padding.

    head: logits = LayerNorm(gelu(dense(x))) W^T + bias, W being the word embeddings.

    Every GELU is the exact one; every LayerNorm has eps = layer_norm_eps; there is no dropout, and
    no pooler.

    config.json has these fields, among others: vocab_size, hidden_size, num_hidden_layers,
    num_attention_heads, intermediate_size, max_position_embeddings (the rows of the table),
    type_vocab_size, layer_norm_eps, pad_token_id.

    model.safetensors (safetensors.torch.load_file reads it) has these tensors, float32; a linear
    layer's weight is stored as nn.Linear has it; N is the number of the layer, from 0:
        roberta.embeddings.{word,position,token_type}_embeddings.weight
        roberta.embeddings.LayerNorm.{weight,bias}
        roberta.encoder.layer.N.attention.self.{query,key,value}.{weight,bias}
        roberta.encoder.layer.N.attention.output.{dense,LayerNorm}.{weight,bias}
        roberta.encoder.layer.N.intermediate.dense.{weight,bias}
        roberta.encoder.layer.N.output.{dense,LayerNorm}.{weight,bias}
        lm_head.{dense,layer_norm}.{weight,bias}
        lm_head.bias

    Source: Liu et al. 2019; `RobertaForMaskedLM` in Hugging Face.
    """

    @classmethod
    def from_pretrained(cls, path: str) -> "RobertaForMaskedLM":
        """The model of a directory with config.json and model.safetensors.

        json, pathlib and safetensors may be imported.
        """
        raise NotImplementedError("write me")

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The logits of every token of the vocabulary at every position, padding included.

        Args:
            input_ids: (B, T) int64.
            attention_mask: (B, T) int64, 1 at real tokens, 0 at padding, whose id is pad_token_id.

        Returns:
            (B, T, V).
        """
        raise NotImplementedError("write me")


class RobertaForMaskedLMSteps(roberta.RobertaForMaskedLM):
    """The library's model, whose modules are the steps."""

    @classmethod
    def from_pretrained(cls, path: str | Path, **_: Any) -> "RobertaForMaskedLMSteps":
        """A model of its own for every mistake, read from the files but once."""
        return copy.deepcopy(_read(str(path)))


@functools.cache
def _read(path: str) -> RobertaForMaskedLMSteps:
    return super(RobertaForMaskedLMSteps, RobertaForMaskedLMSteps).from_pretrained(path)


@functools.cache
def checkpoint(num_hidden_layers: int = 2) -> tempfile.TemporaryDirectory[str]:
    """A directory, there until the process ends, with a small checkpoint unlike all published ones.

    No two sizes are equal. No parameter has the value that it begins with, nor differs from run to
    run. They are large, so that one wrong eps, be it 1e-5 or 1e-12, is like another.
    """
    config = roberta.RobertaConfig(
        vocab_size=23,
        hidden_size=12,
        num_hidden_layers=num_hidden_layers,
        num_attention_heads=3,
        intermediate_size=17,
        max_position_embeddings=16,
        type_vocab_size=2,
        layer_norm_eps=0.05,
        pad_token_id=4,
    )
    model = roberta.RobertaForMaskedLM(config)
    with torch.no_grad():
        for number, parameter in enumerate(model.parameters()):
            parameter.copy_(0.8 * normal(*parameter.shape, seed=number))
    directory = tempfile.TemporaryDirectory()
    model.save_pretrained(directory.name)
    return directory


def roberta_cases() -> Iterator[Case]:
    """One token, three, and padding on either side; more than ten layers."""
    pad_token_id = 4

    def case(label: str, *lengths: int, left: bool = False, layers: int = 2) -> Case:
        total = max(lengths)
        mask = real_tokens(*lengths, total=total, left=left)
        input_ids = 5 + integers(18, len(lengths), total, seed=total)
        inputs = {
            "input_ids": input_ids.masked_fill(~mask, pad_token_id),
            "attention_mask": mask.long(),
        }
        path = str(Path(checkpoint(layers).name))
        return Case(label, inputs, path=path, gradients=False, tolerance=1e-4)

    yield case("one token", 1)
    yield case("three tokens", 3)
    yield case("as many tokens as heads", 3, 3)
    yield case("padding on the right", 9, 4, 6)
    yield case("padding on the left", 9, 4, 6, left=True)
    yield case("as many tokens as fit", 11)
    yield case("eleven layers", 3, layers=11)  # sorted as text: 0, 1, 10, 2, ...


ROBERTA_FOR_MASKED_LM = Exercise(
    template=RobertaForMaskedLM,
    reference=roberta.RobertaForMaskedLM,
    steps=RobertaForMaskedLMSteps,
    cases=roberta_cases,
    title="a whole model, loaded from a checkpoint",
)


def _layers(model: Any) -> list[Any]:
    ENCODER_LAYER.put_into_model(model)
    return [*model.backbone.layers]


def _head(model: Any) -> list[Any]:
    TIED_LM_HEAD.put_into_model(model)
    return [model.lm_head]


def _positions(model: Any) -> list[Any]:
    steps = RobertaPositionsSteps()
    install_roberta_positions(model.backbone, steps)
    return [steps]


adopt(
    ROBERTA_FOR_MASKED_LM,
    ENCODER_LAYER,
    "no scale, scale by all heads, mask inverted, mask ignored, heads by reshaping, "
    "interleaved heads, interleaved heads throughout, norms first, norms swapped, "
    "tanh for exact gelu",
    _layers,
)
adopt(
    ROBERTA_FOR_MASKED_LM,
    TIED_LM_HEAD,
    "no bias, no transform, tanh in the head, no norm in the head",
    _head,
)
adopt(ROBERTA_FOR_MASKED_LM, ROBERTA_POSITIONS, "padding not reset", _positions)


ROBERTA_FOR_MASKED_LM.mistakes += [
    of_parts(mistake, mistake.modules_in)
    for mistake in (
        positions_without_offset,
        offset_of_two,
        positions_that_count_padding,
        eps_of_another_model,
        no_token_types,
        embeddings_not_normalized,
        last_layer_left_out,
        attention_weights_transposed,
    )
]


@ROBERTA_FOR_MASKED_LM.mistake("for layer in self.layers", of=bert.BertModel)
def layers_sorted_as_text(model: Any) -> None:
    """The layers run in the order of their numbers as text, 0, 1, 10, 2, ..., as sorted() gives the
    names of tensors; run them in the order of range(num_hidden_layers).
    """
    layers = [*model.backbone.layers]
    model.backbone.layers = nn.ModuleList(
        layers[number] for number in sorted(range(len(layers)), key=str)
    )
