"""What a family of models tells the loader and the saver: its names, there and here."""

from dataclasses import dataclass, field
from typing import Any

from minitransformer.models.base import Model
from minitransformer.models.config import Config


@dataclass(frozen=True, kw_only=True)
class Family:
    """One family's names. In the tables `{}` stands for the number of a layer.

    Attributes:
        model_type: the word in config.json.
        config_class: the config of every model of the family.
        models: the classes that can be loaded.
        backbone_name: what Hugging Face writes before the backbone's names, in a model with a head.
        weights: the backbone's tensors, Hugging Face's name to ours, without that word; None marks
            what is dropped on purpose.
        heads: the same for the task heads.
        tied: second names under which a checkpoint may hold a tensor again, to our name.
        other_heads: beginnings of the names of heads that are not built here.
        absent_fields: what a field means that config.json leaves out, where Hugging Face's default
            is not ours.
    """

    model_type: str
    config_class: type[Config]
    models: tuple[type[Model], ...]
    backbone_name: str
    weights: dict[str, str | None]
    heads: dict[str, str | None] = field(default_factory=dict)
    tied: dict[str, str] = field(default_factory=dict)
    other_heads: tuple[str, ...] = ()
    absent_fields: dict[str, Any] = field(default_factory=dict)
