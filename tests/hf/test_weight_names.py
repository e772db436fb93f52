"""The families' tables: one to one onto the state dict of every class, and back."""

from collections import Counter
from typing import Any

import pytest
import torch

from minitransformer.hf import weight_names
from minitransformer.hf.config import FAMILIES, family_of_model, reference_class
from minitransformer.hf.family import Family
from minitransformer.models.base import Model, TaskModel
from tests.tiny import CLASSES, UNTIED, class_of, config_of


def new(name: str) -> Model:
    """A tiny model without memory."""
    with torch.device("meta"):
        return class_of(name)(config_of(name))


def filled(ours: str, family: Family, config: Any) -> list[str]:
    """A name of a table, once for each layer."""
    for stack, field in family.stacks.items():
        if "{}" in ours and ours.startswith(stack):
            return [ours.format(layer) for layer in range(getattr(config, field))]
    assert "{}" not in ours
    return [ours]


def test_every_class_is_here():
    assert {reference_class(new(name)) for name in CLASSES} == {
        model for family in FAMILIES.values() for model in family.models
    }


@pytest.mark.parametrize("name", [*CLASSES, *UNTIED])
def test_every_tensor_has_one_name_there_that_leads_back(name):
    model = new(name)
    family = family_of_model(model)
    names = weight_names.stored_names(family, model)
    assert list(names) == list(model.state_dict())
    assert [theirs for theirs, times in Counter(names.values()).items() if times > 1] == []
    found = weight_names.translate(names.values(), family, model)
    assert found.targets == {theirs: ours for ours, theirs in names.items()}
    assert (found.unused, found.new) == ([], [])


@pytest.mark.parametrize("name", [*CLASSES, *UNTIED])
def test_every_name_of_the_tables_is_a_tensor_of_the_model(name):
    model = new(name)
    family = family_of_model(model)
    tables = {"": family.weight_map(model.config), "head": family.models[type(model)]}
    ours = [ours for table in tables.values() for ours in table.values() if ours is not None]
    assert [name for name, times in Counter(ours).items() if times > 1] == []

    before = "backbone." if isinstance(model, TaskModel) else ""
    expected = {
        before + name
        for ours in tables[""].values()
        if ours is not None
        for name in filled(ours, family, model.config)
    }
    expected |= {ours for ours in tables["head"].values() if ours is not None}
    optional = {name for name in expected if name.startswith(f"{before}pooler.")}
    if model.has_lm_head and model.config.tie_word_embeddings:
        optional |= {"lm_head.weight", "lm_head.output.weight"}
    stored = set(model.state_dict())
    assert stored <= expected
    assert expected - stored <= optional
    if not isinstance(model, TaskModel):
        assert stored == expected


@pytest.mark.parametrize("name", [*CLASSES, *UNTIED])
def test_second_names_lead_to_tensors_of_the_model(name):
    model = new(name)
    family = family_of_model(model)
    stored = set(model.state_dict())
    before = "backbone." if isinstance(model, TaskModel) else ""
    theirs_before = f"{family.backbone_name}." if before and family.backbone_name else ""
    assert not family.aliases.keys() & family.weight_map(model.config).keys()
    for alias, ours in family.aliases.items():
        names = [*weight_names.stored_names(family, model).values(), theirs_before + alias]
        found = weight_names.translate(names, family, model)
        assert found.targets[theirs_before + alias] == before + ours
    if model.has_lm_head:
        for second, ours in family.tied.items():
            assert ours in stored
            names = [*weight_names.stored_names(family, model).values(), second]
            if second.endswith("weight") and not model.config.tie_word_embeddings:
                ours = family.models[type(model)][second]
            assert weight_names.translate(names, family, model).targets[second] == ours


def test_the_tables_of_a_gated_network_are_apart():
    """`wi` and `wi_1` are both called up_proj here, so no one table could be read backwards."""
    plain, gated = new("T5ForConditionalGeneration"), new("T5ForConditionalGeneration 1.1")
    family = family_of_model(plain)
    layer = "encoder.block.1.layer.1.DenseReluDense"
    ours = "backbone.encoder.layers.1.feed_forward"
    names = weight_names.stored_names(family, plain)
    assert names[f"{ours}.up_proj.weight"] == f"{layer}.wi.weight"
    names = weight_names.stored_names(family, gated)
    assert names[f"{ours}.gate_proj.weight"] == f"{layer}.wi_0.weight"
    assert names[f"{ours}.up_proj.weight"] == f"{layer}.wi_1.weight"
