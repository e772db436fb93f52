"""What a family of models tells the loader and the saver: its names, there and here."""

from collections.abc import Mapping
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
        backbone_name: what Hugging Face writes before the backbone's names, in a model with a head.
        weights: the backbone's tensors, Hugging Face's name to ours, without that word; None marks
            what is dropped on purpose.
        models: the classes that can be loaded, each with the table of its head's tensors.
        tied: second names under which a checkpoint may hold a tensor again, to our name.
        config_names: what config.json calls a field, where that is not our name: ours to theirs.
        absent_fields: what a field means that config.json leaves out, where Hugging Face's default
            is not ours.
        numbers_places: Hugging Face numbers places, padding included, so that padding on the left
            makes another function of the text.
    """

    model_type: str
    config_class: type[Config]
    backbone_name: str
    weights: WeightMap
    models: Mapping[type[Model], WeightMap]
    tied: Mapping[str, str] = field(default_factory=dict)
    config_names: Mapping[str, str] = field(default_factory=dict)
    absent_fields: Mapping[str, Any] = field(default_factory=dict)
    numbers_places: bool = True
