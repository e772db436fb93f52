"""What a family of models tells the loader and the saver: its names, there and here."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from minitransformer.models.base import Model
from minitransformer.models.config import Config

WeightMap = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's names. In the tables `{}` stands for the number of a layer.

    Attributes:
        model_type: the word in config.json.
        config_class: the config of every model of the family.
        backbone_name: what Hugging Face writes before the backbone's names, in a model with a head;
            "" where it writes nothing.
        weights: the backbone's tensors, Hugging Face's name to ours, without that word; None marks
            what is dropped on purpose. Of several names for one of ours the first is written.
        models: the classes that can be loaded, each with the table of its head's tensors.
        tied: second names under which a checkpoint may hold a tensor again, to our name.
        stacks: where our names of numbered layers begin, to the field that says how many there are.
        transposed: the names in `weights` whose matrices are stored the other way round.
        optional: our names of tensors that are zero where they are not stored.
        config_names: what config.json calls a field, where that is not our name: ours to theirs.
        absent_fields: what a field means that config.json leaves out, where Hugging Face's default
            is not ours.
        only_values: fields that would change the function, with the one value that is built, where
            that is not the value of most families.
        without_effect: fields that change nothing here, beside those that change nothing anywhere.
        adjust: gives the content of config.json as it is meant, where that depends on the names of
            the stored tensors.
        numbers_places: Hugging Face numbers places, padding included, so that padding on the left
            makes another function of the text.
    """

    model_type: str
    config_class: type[Config]
    backbone_name: str
    weights: WeightMap
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
    numbers_places: bool = True

    @property
    def our_backbone_name(self) -> str:
        """The attribute under which our models with a head keep their backbone."""
        return next(model.backbone_name for model in self.models if model.backbone_name)
