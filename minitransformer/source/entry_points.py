"""What a file adds to the class: how it is loaded, and on request how it generates and trains.

This is code like that of the models, which a file takes over with other names: `Model` and
`ModelConfig` stand for the class and its config, and the names in capitals for what is known of the
class. What is None there decides what is left out.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from minitransformer.models.base import Seq2SeqLM as Model  # the class with the most methods
from minitransformer.models.base import start_token
from minitransformer.models.config import Config as ModelConfig

# Hugging Face's names of the parts, and those here; {} is the number of a layer.
NAMES: Mapping[str, str] = {}
# Hugging Face's names of the fields of config.json, and those here, where they differ.
CONFIG_NAMES: Mapping[str, str] | None = {}
DEFAULTS: dict[str, Any] = {}  # of transformers, for fields that config.json leaves out
PREFIX = ""  # of Hugging Face's names, in models with a head
TRANSPOSED: tuple[str, ...] | None = ()  # the ends of the names of matrices stored as (in, out)
BACKBONE: str | None = ""  # of the names here, in models with a head
POOLER: bool | None = True  # whether there may be one or not
LABELS: bool | None = True  # whether classes have names
OPTIONAL: str | None = ""  # the tensor that a checkpoint may leave out
LAYERS = 0  # how many layers the stacks have
RESOLVED: Callable[[dict[str, Any], Any], dict[str, Any]] | None = None
OLD_ENDINGS: Mapping[str, str] | None = {}  # TensorFlow's


def load(path: str | Path) -> Model:
    """The model of a checkpoint as Hugging Face writes it; what another head has is left out."""
    stored: dict[str, Tensor] = {}
    for file in sorted(Path(path).glob("*.safetensors")):  # several if the checkpoint is sharded
        stored |= load_file(file)
    content = DEFAULTS | json.loads((Path(path) / "config.json").read_text())
    if RESOLVED is not None:
        content = RESOLVED(content, stored)
    if CONFIG_NAMES is not None:
        content = {CONFIG_NAMES.get(name, name): value for name, value in content.items()}
    if LABELS is not None and "id2label" in content:  # JSON's keys are texts
        content["id2label"] = {int(n): label for n, label in content["id2label"].items()}
    given = {f.name: content[f.name] for f in fields(ModelConfig) if f.name in content}
    model = Model(ModelConfig(**given))
    if POOLER is not None and not any("pooler." in name for name in stored):
        model = Model(model.config, add_pooling_layer=False)  # type: ignore[call-arg]
    layers = range(LAYERS)
    names = {theirs.format(n): ours.format(n) for theirs, ours in NAMES.items() for n in layers}
    expected, found = model.state_dict(), {}
    if OPTIONAL is not None:  # zeros where it is not stored
        found[OPTIONAL] = expected[OPTIONAL]
    for name, values in stored.items():
        part, dot, kind = name.removeprefix(PREFIX).rpartition(".")
        if OLD_ENDINGS is not None:
            kind = OLD_ENDINGS.get(kind, kind)
        ours = names.get(name) or names.get(part, "") + dot + kind
        if BACKBONE is not None:
            ours = ours if ours in expected else BACKBONE + ours
        if ours in expected:
            if TRANSPOSED is not None and name.endswith(TRANSPOSED):
                values = values.T
            found[ours] = values
    model.load_state_dict(found)
    return model.eval()


@torch.no_grad()
def generate(
    model: Model,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Continue prompts, (B, T), padded on the left, each until its end token."""
    config, cache = model.config, model.new_cache()
    sequences = ids = input_ids
    running = torch.ones_like(ids[:, 0], dtype=torch.bool)  # (B,)
    for _ in range(max_new_tokens):
        hidden = model.backbone(ids, attention_mask, cache=cache).last_hidden_state  # (B, T, E)
        scores = model.logits(hidden[:, -1]).float()  # (B, V)
        tokens = scores.argmax(dim=1)  # (B,)
        if do_sample:
            tokens = sample(scores / temperature, top_k, top_p, generator)
        if config.eos_token_id is not None:
            end, padding = config.eos_token_id, config.pad_token_id
            tokens = tokens.masked_fill(~running, end if padding is None else padding)
            running &= tokens != end
        sequences = torch.cat([sequences, tokens[:, None]], dim=1)
        if not running.any():
            break
        ids, attention_mask = tokens[:, None], None
    return sequences


@torch.no_grad()
def generate_from_source(
    model: Model,
    input_ids: Tensor,
    attention_mask: Tensor | None = None,
    *,
    max_new_tokens: int,
    do_sample: bool = False,
    temperature: float = 1.0,
    top_k: int = 50,
    top_p: float = 1.0,
    generator: torch.Generator | None = None,
) -> Tensor:
    """The targets of sources, (B, S): the start token, then tokens until the end token."""
    config, cache = model.config, model.new_cache()
    encoded = model.encode(input_ids, attention_mask)
    sequences = ids = torch.full_like(input_ids[:, :1], start_token(config))
    running = torch.ones_like(ids[:, 0], dtype=torch.bool)  # (B,)
    for _ in range(max_new_tokens):
        scores = model.next_token_logits(ids, encoded, cache=cache).float()  # (B, V)
        tokens = scores.argmax(dim=1)  # (B,)
        if do_sample:
            tokens = sample(scores / temperature, top_k, top_p, generator)
        if config.eos_token_id is not None:
            tokens = tokens.masked_fill(~running, config.pad_token_id)
            running &= tokens != config.eos_token_id
        sequences = torch.cat([sequences, tokens[:, None]], dim=1)
        if not running.any():
            break
        ids = tokens[:, None]
    return sequences


def sample(scores: Tensor, top_k: int, top_p: float, generator: torch.Generator | None) -> Tensor:
    """Draw a token of each sequence, of the `top_k` best and of those that reach `top_p`."""
    scores, ids = scores.topk(min(top_k or scores.shape[1], scores.shape[1]))  # best first
    # A token is excluded if it and all less likely ones have at most 1 - top_p together.
    excluded = (scores.flip(1).softmax(dim=1).cumsum(dim=1) <= 1 - top_p).flip(1)
    excluded[:, 0] = False
    scores = scores.masked_fill(excluded, -torch.inf)
    # One uniform random number, looked up in the cumulative probabilities.
    cumulative = scores.softmax(dim=1).cumsum(dim=1, dtype=torch.float64)
    point = torch.rand(len(ids), 1, dtype=torch.float64, device=ids.device, generator=generator)
    index = torch.searchsorted(cumulative, point * cumulative[:, -1:], right=True)
    return ids.gather(1, index.clamp(max=ids.shape[1] - 1)).squeeze(1)


def train_step(
    model: Model, batch: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, clip_norm: float
) -> float:
    """One step on a labelled batch: forward, backward, clip, update; gives the loss before it.

    Args:
        model: in training mode.
        batch: what `forward` takes, by name, labels included.
        optimizer: of :func:`build_optimizer`.
        clip_norm: the largest norm of the gradient.
    """
    optimizer.zero_grad(set_to_none=True)
    loss = model(**batch).loss
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
    optimizer.step()
    return loss.item()
