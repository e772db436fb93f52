"""Fields that a caller changes: what makes another function of the same weights is said."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor

from minitransformer import CheckpointError
from minitransformer.parity import random_batch
from tests.hf.test_decoder_loading import save
from tests.tiny import class_of, config_of

CLASSES = ["RobertaForMaskedLM", "GPT2LMHeadModel", "BartForSequenceClassification"]
SLOW_CLASSES = [
    "BertForSequenceClassification",
    "DistilBertForTokenClassification",
    "BartForConditionalGeneration",
    "MarianMTModel",
    "T5ForConditionalGeneration",
]
LAYERS = ("num_hidden_layers", "num_decoder_layers")
OTHER: dict[str, list[Any]] = {
    "hidden_act": ["relu", "gelu_new"],
    "feed_forward_proj": ["gelu", "gated-silu"],
    "num_attention_heads": [1, 2, 6],
    "num_decoder_attention_heads": [1, 3],
    "relative_attention_max_distance": [30],
    "layer_norm_eps": [0.5],
    "id2label": [{0: "x", 1: "y", 2: "z"}],
    "problem_type": ["multi_label_classification"],
}


def others(field: str, value: Any) -> list[Any]:
    """Other values that a field may have."""
    if field in OTHER:
        return [other for other in OTHER[field] if other != value]
    if isinstance(value, bool):
        return [not value]
    if field.endswith("_token_id"):
        return [7] if value is None else [value + 3 if value < 20 else value - 3]
    if field.endswith(("dropout", "dropout_prob")):
        return [0.3]
    return [value * 2, value + 1] if value is not None else [3]


def load(name: str, path: Any, **changes: Any) -> tuple[Any, str]:
    """A model, and the warnings of loading it."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = class_of(name).from_pretrained(path, **changes)
    return model, "\n".join(str(warning.message) for warning in warned)


def computed(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """The logits, those of a token only where it has a label: others mean nothing."""
    with torch.no_grad():
        logits = model(**batch).logits
    labelled = batch.get("labels", torch.tensor(0)) != -100
    return logits[labelled] if labelled.shape == logits.shape[:-1] else logits


@pytest.mark.parametrize(
    "name", [*CLASSES, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW_CLASSES)]
)
def test_a_change_is_said_if_and_only_if_the_weights_compute_something_else(name, tmp_path):
    saved = save(name, tmp_path)
    batch = random_batch(saved, length=9)
    # Decoder inputs are made from the labels; a classifier's labels depend on the problem_type.
    left_out = "labels" if "Classification" in name else "decoder"
    batch = {n: t for n, t in batch.items() if not n.startswith(left_out)}
    logits, said_of = computed(saved, batch), set()
    fields = {field: value for field, value in vars(saved.config).items() if field not in LAYERS}
    for field, before in fields.items():
        for value in others(field, before):
            try:
                model, warned = load(name, tmp_path, **{field: value})
            except (CheckpointError, ValueError):
                continue  # the tensors do not fit, or the value is impossible
            said = f"with {field}={value!r} instead of {before!r}, the stored weights compute"
            try:
                changed = not torch.equal(computed(model, batch), logits)
            except ValueError:
                changed = True  # the batch has none of the new end tokens
            assert (said in warned) == ("compute" in warned) == changed, (field, value, warned)
            said_of |= {field} if changed else set()
            break
    assert said_of & {"hidden_act", "feed_forward_proj"}


def test_several_changes_are_one_warning(tmp_path):
    save("MarianMTModel", tmp_path)
    _, warned = load("MarianMTModel", tmp_path, num_attention_heads=6, scale_embedding=False)
    assert warned.count("\n") == 0
    assert "num_attention_heads=6 instead of 3, scale_embedding=False instead of True" in warned


@pytest.mark.parametrize(
    ("name", "field", "theirs"),
    [
        ("BertForMaskedLM", "num_hidden_layers", "num_hidden_layers"),
        ("GPT2LMHeadModel", "num_hidden_layers", "n_layer"),
        ("BartForConditionalGeneration", "num_hidden_layers", "encoder_layers"),
        ("BartForConditionalGeneration", "num_decoder_layers", "decoder_layers"),
        ("T5ForConditionalGeneration 1.1", "num_decoder_layers", "num_decoder_layers"),
    ],
)
def test_fewer_layers_are_the_first_ones(name, field, theirs, tmp_path):
    saved = save(name, tmp_path)
    stored = getattr(config_of(name), field)
    model, warned = load(name, tmp_path, **{field: 1})
    assert warned == f"{tmp_path}: {field}=1 takes the first 1 of {stored} layers"
    assert getattr(model.config, field) == 1
    weights = saved.state_dict()
    assert all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())

    transformers = pytest.importorskip("transformers", reason="needs transformers' models")
    their_class = getattr(transformers, name.removesuffix(" 1.1"))
    other = their_class.from_pretrained(tmp_path, attn_implementation="eager", **{theirs: 1})
    batch = {n: t[:1] for n, t in random_batch(model, length=9).items()}  # without padding
    inputs = {n: t for n, t in batch.items() if n != "labels"}
    torch.testing.assert_close(
        computed(model, inputs), computed(other, inputs), rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize("field", LAYERS)
def test_more_layers_than_are_stored_are_refused(field, tmp_path):
    save("BartModel", tmp_path)
    with pytest.raises(CheckpointError, match=rf"{field}=4, but .* of (\d) layers; set it to \1"):
        class_of("BartModel").from_pretrained(tmp_path, **{field: 4})
