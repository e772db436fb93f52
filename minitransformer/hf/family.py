"""What loading and saving need to know of a family of models: its names here and there."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from minitransformer.models.base import Model
from minitransformer.models.config import Config

# Hugging Face's name of a tensor to ours. `{}` stands for the layer number on both sides, and None
# marks a tensor that is dropped on purpose.
WeightMap = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's names.

    In the tables of tensors, `{}` stands for the layer number.

    Attributes:
        model_type: the value of this field in config.json.
        config_class: the config of every model of the family.
        backbone_name: Hugging Face's prefix of the backbone's tensors in a model with a head; "" if
            there is none. Our prefix is "backbone" in every family.
        weights: the backbone's tensors, Hugging Face's name to ours, both without a prefix. The
            table is one to one, so that it can be read both ways.
        gated_weights: the same for a config whose `is_gated` is True, in a family with two kinds of
            feed-forward network.
        aliases: second names of tensors in `weights`, which some checkpoints store in addition or
            instead.
        models: the classes that can be loaded, each with the table of its head's tensors.
        tied: Hugging Face's names of tensors outside the backbone that are tied to another tensor,
            such as an LM head tied to the token embedding, to our name of that tensor in a model
            with a head.
        untied_copies: the names among `aliases` and `tied` whose tensors transformers 5 ties only
            if the config does (transformers 4 always ties them). They are written, as copies, where
            `tie_word_embeddings=False`; the other second names are never written.
        stacks: our prefix of each stack of layers, to the config field with the number of layers.
        transposed: Hugging Face's names in `weights` whose matrices are stored as (in, out).
        optional: our names of tensors that are zero if they are not stored.
        config_names: our name of a config field to Hugging Face's, where they differ.
        hf_defaults: the values of fields missing in config.json, where Hugging Face's default
            differs from ours.
        only_values: fields that would change the result, with the only value that is supported,
            where it differs from that of most families.
        without_effect: fields that do not change the result, in addition to those of every family.
        adjust: returns the content of config.json with ambiguous fields resolved, given the content
            and the names of the stored tensors.
        positions_count_padding: whether Hugging Face counts padding in positions, so that padding
            on the left changes the positions of real tokens, and with them the result.
    """

    model_type: str
    config_class: type[Config]
    backbone_name: str
    weights: WeightMap
    gated_weights: WeightMap | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[type[Model], WeightMap]
    tied: Mapping[str, str] = field(default_factory=dict)
    untied_copies: frozenset[str] = frozenset()
    stacks: Mapping[str, str] = field(default_factory=lambda: {"layers.": "num_hidden_layers"})
    transposed: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    config_names: Mapping[str, str] = field(default_factory=dict)
    hf_defaults: Mapping[str, Any] = field(default_factory=dict)
    only_values: Mapping[str, Any] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()
    adjust: Callable[[dict[str, Any], Collection[str]], dict[str, Any]] = lambda content, _: content
    positions_count_padding: bool = True

    def weight_map(self, config: Config) -> WeightMap:
        """The table of the backbone's tensors for one config."""
        if self.gated_weights is not None and getattr(config, "is_gated", False):
            return self.gated_weights
        return self.weights
