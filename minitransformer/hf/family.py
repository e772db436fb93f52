"""What a family of models tells the loader and the saver: its names there, and here."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from minitransformer.models.base import Model
from minitransformer.models.config import Config

# Hugging Face's name of a tensor to ours; `{}` stands for the number of a layer on both sides, and
# None marks what is dropped on purpose.
WeightMap = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's names.

    In the tables of tensors, `{}` stands for the number of a layer.

    Attributes:
        model_type: the word in config.json.
        config_class: the config of every model of the family.
        backbone_name: what Hugging Face writes before the backbone's names, in a model with a head;
            "" where it writes nothing. Here it is "backbone" in every family.
        weights: the backbone's tensors, Hugging Face's name to ours, both as a backbone alone has
            them. One to one, so that it is read both ways.
        gated_weights: the same for a config whose `is_gated` is True, in a family that has two
            kinds of feed-forward networks.
        aliases: second names of tensors in `weights`, which some checkpoints store again, or
            instead. Never written.
        models: the classes that can be loaded, each with the table of its head's tensors.
        tied: second names of tensors beside the backbone, such as a decoder that is the token
            embedding, to our name in a model with a head. Never written.
        stacks: where our names of numbered layers begin, to the field that says how many there are.
        transposed: the names in `weights` whose matrices are stored as (in, out).
        optional: our names of tensors that are zero where they are not stored.
        config_names: what config.json calls a field, where that is not our name: ours to theirs.
        absent_fields: what a field means that config.json leaves out, where Hugging Face's default
            is not ours.
        only_values: fields that would change the function, with the one value that is built, where
            that is not the value of most families.
        without_effect: fields that change nothing here, beside those that change nothing anywhere.
        adjust: gives the content of config.json as it is meant, where that depends on the names of
            the stored tensors.
        positions_count_padding: whether Hugging Face numbers padding too, so that padding on the
            left changes the positions of a text, and with them the function.
    """

    model_type: str
    config_class: type[Config]
    backbone_name: str
    weights: WeightMap
    gated_weights: WeightMap | None = None
    aliases: Mapping[str, str] = field(default_factory=dict)
    models: Mapping[type[Model], WeightMap]
    tied: Mapping[str, str] = field(default_factory=dict)
    stacks: Mapping[str, str] = field(default_factory=lambda: {"layers.": "num_hidden_layers"})
    transposed: frozenset[str] = frozenset()
    optional: frozenset[str] = frozenset()
    config_names: Mapping[str, str] = field(default_factory=dict)
    absent_fields: Mapping[str, Any] = field(default_factory=dict)
    only_values: Mapping[str, Any] = field(default_factory=dict)
    without_effect: frozenset[str] = frozenset()
    adjust: Callable[[dict[str, Any], Collection[str]], dict[str, Any]] = lambda content, _: content
    positions_count_padding: bool = True

    def weight_map(self, config: Config) -> WeightMap:
        """The table of the backbone's tensors for one config."""
        if self.gated_weights is not None and getattr(config, "is_gated", False):
            return self.gated_weights
        return self.weights
