"""What a model says of itself, and how its vocabulary grows."""

import copy
from dataclasses import replace

import pytest
import torch

from minitransformer import BertModel, generate, optimize, restore
from minitransformer.elsewhere import METHODS
from minitransformer.models.base import Model
from tests.tiny import (
    BART,
    LANGUAGE_MODELS,
    MASKED_LMS,
    UNTIED,
    build,
    class_of,
    language_model,
    new,
    pair,
    prompts,
)

T5_UNTIED = "T5ForConditionalGeneration 1.1"
ONE_OF_EACH_FAMILY = [
    "BertModel",
    "RobertaForMaskedLM",
    "DistilBertForQuestionAnswering",
    "GPT2LMHeadModel",
    BART,
    "MarianMTModel",
    "T5Model",
]


@pytest.mark.parametrize("name", ONE_OF_EACH_FAMILY)
def test_what_a_model_says_of_itself(name, tmp_path):
    ours, theirs = pair(name, tmp_path, dtype=torch.float64)
    if not name.startswith("Marian"):  # whose sinusoids are parameters there
        assert ours.num_parameters() == theirs.num_parameters()
    assert ours.device == torch.device("cpu")
    assert ours.dtype == torch.float64
    assert ours.name_or_path == str(tmp_path)
    assert new(name).name_or_path == ""
    assert ours.base_model is getattr(ours, "backbone", ours)
    table, their_table = ours.get_input_embeddings(), theirs.get_input_embeddings()
    assert torch.equal(table.weight, their_table.weight)
    table.requires_grad_(False)
    assert ours.num_parameters(only_trainable=True) == ours.num_parameters() - table.weight.numel()


def test_what_a_model_does_not_have_says_what_to_type():
    model = build("RobertaModel")
    for name, instead in METHODS.items():
        with pytest.raises(AttributeError) as error:
            getattr(model, name)
        assert str(error.value) == f"a RobertaModel has no {name}: {instead}"
    with pytest.raises(AttributeError, match="no layer: its parts are embeddings, layers, pooler"):
        _ = model.layer
    for probed in (model, BertModel.__new__(BertModel)):  # the second has no parts yet
        assert not hasattr(probed, "layer")


@pytest.mark.parametrize("change", [3, -1])
@pytest.mark.parametrize(
    "name", [*MASKED_LMS, *LANGUAGE_MODELS, *UNTIED, T5_UNTIED, "BartForSequenceClassification"]
)
def test_a_resized_model_is_the_model_that_its_config_makes(name, change):
    model = new(name)
    before = {n: tensor.clone() for n, tensor in model.state_dict().items()}
    old_config, size = model.config, model.config.vocab_size + change
    model.get_input_embeddings().weight.requires_grad_(False)
    if name.startswith("Marian") and change < 0:
        size = old_config.vocab_size  # whose last token is special
    table = model.resize_token_embeddings(size)
    assert table is model.get_input_embeddings()
    assert table.num_embeddings == len(table.weight) == size
    assert not table.weight.requires_grad
    assert {part.config.vocab_size for part in model.modules() if isinstance(part, Model)} == {size}
    assert old_config.vocab_size != size or change < 0
    fresh = class_of(name)(model.config)
    assert {n: t.shape for n, t in model.state_dict().items()} == {
        n: t.shape for n, t in fresh.state_dict().items()
    }
    for n, tensor in model.state_dict().items():
        kept = tuple(slice(min(a, b)) for a, b in zip(tensor.shape, before[n].shape, strict=True))
        assert torch.equal(tensor[kept], before[n][kept])
    assert repr(fresh) == repr(model)  # also the sizes that modules state


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("RobertaForMaskedLM", "optimized"),
        ("BertForMaskedLM untied", "sdpa"),
        ("GPT2LMHeadModel untied", "sdpa"),
        ("GPT2LMHeadModel", "optimized"),
        (BART, "sdpa"),
        ("MarianMTModel untied", "optimized"),
        ("T5ForConditionalGeneration", "sdpa"),
        (T5_UNTIED, "sdpa"),
    ],
)
def test_kept_tokens_have_the_scores_that_they_have_in_transformers(name, variant, tmp_path):
    ours, theirs = pair(name, tmp_path, variant)
    size = ours.config.vocab_size
    torch.manual_seed(3)
    ids = torch.tensor([[5, 6, 7, 8]])
    inputs = {"input_ids": ids}
    if not name.startswith(("GPT2", "Bert", "Roberta", "Distil")):
        inputs["decoder_input_ids"] = ids
    with torch.no_grad():
        before = ours(**inputs).logits
        ours.resize_token_embeddings(size + 5)
        theirs.resize_token_embeddings(size + 5)
        found, expected = ours(**inputs).logits, theirs(**inputs).logits
    torch.testing.assert_close(found[..., :size], before, rtol=1e-5, atol=1e-5)
    if name.endswith("1.1"):
        return  # whose head transformers ties when it resizes
    assert found.shape == expected.shape == (1, 4, size + 5)
    torch.testing.assert_close(found[..., :size], expected[..., :size], rtol=1e-5, atol=1e-5)
    ours.save_pretrained(tmp_path / "saved")
    again = type(restore(ours)).from_pretrained(tmp_path / "saved")
    assert again.config == ours.config
    with torch.no_grad():
        assert torch.equal(again(**inputs).logits, ours(**inputs).logits)


@pytest.mark.parametrize(("size", "expected"), [(64, 64), (65, 128)])
def test_a_size_can_be_rounded_up(size, expected):
    model = new("BertModel").half()
    table = model.resize_token_embeddings(size, pad_to_multiple_of=64)
    assert len(table.weight) == model.config.vocab_size == expected
    assert table.weight.dtype == torch.float16


def test_new_vectors_are_drawn_as_initial_ones_are():
    for name, deviation in [("BertModel", 0.02), ("T5ForConditionalGeneration 1.1", 0.3)]:
        model = new(name)
        size = model.config.vocab_size
        torch.manual_seed(0)
        vectors = model.resize_token_embeddings(4_000).weight[size:]
        assert abs(float(vectors.detach().std()) / deviation - 1) < 0.02, name
        assert len(vectors) == 4_000 - size
    bias = new("BertForMaskedLM")
    bias.resize_token_embeddings(120)
    assert not bias.lm_head.bias[99:].any()


@pytest.mark.parametrize("family", ["GPT2", "T5"])
def test_a_resized_model_generates_and_trains(family):
    model, batch = optimize(copy.deepcopy(language_model(family))), prompts(family, [3, 5])
    generate(model, **batch, max_new_tokens=17)  # prepares its weights for decoding
    model.resize_token_embeddings(108)
    plain = restore(copy.deepcopy(model))
    expected = generate(plain, **batch, max_new_tokens=17).sequences
    assert torch.equal(generate(model, **batch, max_new_tokens=17).sequences, expected)
    ids = torch.tensor([[5, 6, 107]])
    model(ids, labels=ids).loss.backward()
    assert model.get_input_embeddings().weight.grad[-1].any()


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("RobertaModel", 2, r"vocab_size=2 leaves out eos_token_id=2"),
        ("BertModel", 0, "vocab_size=0 must lie between 1"),
        ("BertModel", 9.5, "vocab_size=9.5 must be an integer"),
        (BART, 2, "eos_token_id=2 lies outside vocab_size=2"),
        ("MarianMTModel", 20, "lies outside vocab_size=20"),
    ],
)
def test_a_vocabulary_keeps_its_special_tokens(name, size, message):
    model = new(name)
    before = model.config
    with pytest.raises(ValueError, match=message):
        model.resize_token_embeddings(size)
    assert model.config is before
    assert len(model.get_input_embeddings().weight) == before.vocab_size


def test_a_token_that_generation_needs_stays():
    model = new("GPT2LMHeadModel")
    model.generation_config = type(model.generation_config)(forced_eos_token_id=30)
    with pytest.raises(ValueError, match="forced_eos_token_id contains 30, but vocab_size=20"):
        model.resize_token_embeddings(20)


@pytest.mark.parametrize("family", ["GPT2", "Bart"])
def test_the_method_generate_returns_tokens(family):
    model, batch = language_model(family), prompts(family, [3, 5])
    expected = generate(model, **batch, max_new_tokens=4)
    assert torch.equal(model.generate(**batch, max_new_tokens=4), expected.sequences)
    config = replace(model.generation_config, max_new_tokens=4)
    output = model.generate(**batch, generation_config=config, return_dict_in_generate=True)
    assert torch.equal(output.sequences, expected.sequences)
