"""Checkpoints whose LM head has a matrix of its own: as transformers 5 stores them, and as 4 did.

That values, gradients and files agree with transformers is tested in `tests/models/test_parity.py`.
"""

import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitransformer import CheckpointError
from tests.tiny import BART, MARIAN, UNTIED, class_of, new

# The bias of the head, which transformers 5 adds, and a second one, which it stores but never adds.
BIASES = {
    "BertForMaskedLM untied": ("cls.predictions.decoder.bias", "cls.predictions.bias"),
    "RobertaForMaskedLM untied": ("lm_head.decoder.bias", "lm_head.bias"),
}
SEQ2SEQ = (f"{BART} untied", f"{MARIAN} untied")
COPIES = {f"model.{stack}.embed_tokens.weight" for stack in ("encoder", "decoder")}


def save(name, path, **changes):
    """Write a checkpoint, and give its model and its tensors."""
    model = new(name, dtype=torch.float32, **changes)
    model.save_pretrained(path)
    return model, load_file(path / "model.safetensors")


def load(name, path, **changes):
    """Load a checkpoint without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return class_of(name).from_pretrained(path, **changes)


def assert_same(ours, expected):
    assert ours.config == expected.config
    assert ours.state_dict().keys() == expected.state_dict().keys()
    for name, values in expected.state_dict().items():
        assert torch.equal(ours.state_dict()[name], values), name


@pytest.mark.parametrize("name", BIASES)
def test_the_bias_of_transformers_5_is_its_decoders(name, tmp_path):
    model, tensors = save(name, tmp_path)
    added, not_added = BIASES[name]
    assert torch.equal(tensors[added], tensors[not_added])
    tensors[not_added] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same(load(name, tmp_path), model)


@pytest.mark.parametrize("name", BIASES)
def test_transformers_4_stores_one_bias(name, tmp_path):
    model, tensors = save(name, tmp_path)
    del tensors[BIASES[name][0]]
    save_file(tensors, tmp_path / "model.safetensors")
    assert_same(load(name, tmp_path), model)


@pytest.mark.parametrize("name", SEQ2SEQ)
def test_encoder_and_decoder_have_one_token_embedding(name, tmp_path):
    """Transformers 4 stores it once; transformers 5 stores three, which may differ."""
    model, tensors = save(name, tmp_path)
    assert tensors.keys() >= COPIES
    once = {name: values for name, values in tensors.items() if name not in COPIES}
    save_file(once, tmp_path / "model.safetensors")
    assert_same(load(name, tmp_path), model)
    tensors["model.decoder.embed_tokens.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="encoder and decoder have one token embedding here"):
        load(name, tmp_path)


@pytest.mark.parametrize("name", UNTIED)
def test_a_head_that_differs_from_the_embedding_is_untied_by_the_field_alone(name, tmp_path):
    """Transformers 4 would have dropped the head, and transformers 5 keeps it with a warning."""
    model, _ = save(name, tmp_path)
    file = tmp_path / "config.json"
    content = json.loads(file.read_text())
    del content["tie_word_embeddings"]
    for stated in ({}, {"tie_word_embeddings": True}):
        file.write_text(json.dumps(content | stated))
        with pytest.raises(CheckpointError, match="pass tie_word_embeddings=False to"):
            load(name, tmp_path)
        assert_same(load(name, tmp_path, tie_word_embeddings=False), model)


@pytest.mark.parametrize("name", ["BertForSequenceClassification", "BartModel", "GPT2Model"])
def test_without_an_lm_head_the_field_changes_nothing(name, tmp_path):
    model, tensors = save(name, tmp_path, tie_word_embeddings=False)
    tied, tied_tensors = save(name, tmp_path / "tied")
    assert model.state_dict().keys() == tied.state_dict().keys()
    # Transformers 5 unties the embeddings of encoder and decoder even without a head.
    copies = {name.removeprefix("model.") for name in COPIES} if name == "BartModel" else set()
    assert tensors.keys() - tied_tensors.keys() == copies
    assert_same(load(name, tmp_path), model)


@pytest.mark.parametrize("name", ["BertForMaskedLM", "GPT2LMHeadModel", BART])
def test_a_tied_checkpoint_has_no_head_to_untie(name, tmp_path):
    save(name, tmp_path)
    with pytest.raises(
        CheckpointError, match="lm_head.*; tie_word_embeddings=False needs a stored LM head, True"
    ):
        load(name, tmp_path, tie_word_embeddings=False)


def test_an_untied_head_is_not_taken_for_the_token_embedding(tmp_path):
    """A tied one is, where it alone is stored."""
    _, tensors = save("GPT2LMHeadModel untied", tmp_path)
    del tensors["transformer.wte.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="missing .*token_embedding.weight"):
        load("GPT2Model", tmp_path)
