"""Arguments that a user of transformers gives: they work, or one error says what to type."""

import json
from typing import Any

import pytest
import torch

from minitransformer import (
    AutoModelForMaskedLM,
    BertConfig,
    CheckpointError,
    MarianConfig,
    RobertaConfig,
    RobertaForMaskedLM,
    RobertaForSequenceClassification,
    T5Config,
    elsewhere,
    from_pretrained,
    generate,
)
from minitransformer.hf import checkpoint
from minitransformer.models.config import Config
from tests.tiny import BART, THREE_CLASSES, build, language_model, new, their_model


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    directory = tmp_path_factory.mktemp("roberta")
    build("RobertaForMaskedLM").save_pretrained(directory)
    return directory


@pytest.fixture(params=["by module", "by class"])
def load(request, path):
    way = from_pretrained if request.param == "by module" else RobertaForMaskedLM.from_pretrained
    return lambda **arguments: way(path, **arguments)


@pytest.mark.parametrize(
    ("arguments", "attribute", "value"),
    [
        ({"attn_implementation": "eager"}, "attention", "eager"),
        ({"attn_implementation": None}, "attention", "sdpa"),
        ({"torch_dtype": torch.float64}, "dtype", torch.float64),
        ({"dtype": "bfloat16"}, "dtype", torch.bfloat16),
        ({"dtype": "torch.float16"}, "dtype", torch.float16),
        ({"torch_dtype": "auto"}, "dtype", torch.float64),
        ({"device_map": "cpu"}, "device", torch.device("cpu")),
        ({"device_map": torch.device("cpu")}, "device", torch.device("cpu")),
        ({"device_map": {"": "cpu"}}, "device", torch.device("cpu")),
        ({"hidden_dropout_prob": 0.25}, "config", None),
        ({"revision": "main", "use_safetensors": True, "low_cpu_mem_usage": True}, "device", None),
        ({"ignore_mismatched_sizes": True, "output_attentions": False}, "device", None),
        ({"return_dict": True, "trust_remote_code": False, "use_cache": False}, "device", None),
    ],
)
def test_what_means_the_same_works(load, arguments, attribute, value):
    model = load(**arguments)
    if value is not None:
        assert getattr(model, attribute) == value
    assert model.config.hidden_dropout_prob == arguments.get("hidden_dropout_prob", 0.0)


def test_a_number_is_a_gpu_and_a_revision_is_asked_for(path, monkeypatch):
    def options(**given: Any) -> Any:
        return checkpoint.options_of("sdpa", torch.float32, "cpu", given)

    assert options(device_map=1).device == options(device_map={"": 1}).device == "cuda:1"
    asked = []
    monkeypatch.setattr(
        checkpoint, "resolve_checkpoint", lambda *given: asked.append(given) or path
    )
    for load in (
        from_pretrained,
        RobertaForMaskedLM.from_pretrained,
        RobertaConfig.from_pretrained,
        AutoModelForMaskedLM.from_pretrained,
    ):
        load("name", revision="v2")
    assert [(given[0], given[2]) for given in asked] == [
        ("name", "v2")
    ] * 5  # Auto classes ask twice


@pytest.mark.parametrize("stored", [torch.float16, torch.bfloat16, torch.float64])
def test_the_dtype_of_the_file(stored, tmp_path):
    model = new("GPT2LMHeadModel").to(stored)
    model.save_pretrained(tmp_path)
    assert from_pretrained(tmp_path, dtype="auto").dtype == stored
    assert from_pretrained(tmp_path).dtype == torch.float32


def test_an_argument_of_loading_that_is_none_here_says_what_to_type(load, path):
    """In a config too, where transformers takes them as well."""
    harmless = {name: values[0] for name, (values, _) in elsewhere.LOADING.items()}
    assert load(**harmless).config == RobertaConfig.from_pretrained(path, **harmless)
    for name, (values, said) in elsewhere.LOADING.items():
        for value in values:
            assert RobertaConfig(**{name: value}) == RobertaConfig()
            assert T5Config(**{name: value}) == T5Config()
        value = not values[0] if isinstance(values[0], bool) else "something"
        if not said:
            continue
        for call in (load, RobertaConfig, T5Config):
            with pytest.raises(TypeError) as error:
                call(**{name: value})
            assert str(error.value) == f"{name}={value!r} is not an argument here: {said}"


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        ({"dtype": "float17"}, ValueError, "dtype='float17' must be torch.float32, .* or 'auto'"),
        ({"dtype": torch.int64}, ValueError, "dtype=torch.int64 must be"),
        ({"device_map": "auto"}, TypeError, "device_map='auto' .* one device; pass device='cuda'"),
        ({"attn_implementation": "flash_attention_2"}, ValueError, "'flash_attention_2'"),
        ({"config": "path"}, TypeError, "config is a str; a RobertaForMaskedLM needs a RobertaC"),
        ({"config": BertConfig()}, TypeError, "config is a BertConfig; .* needs a RobertaConfig"),
        ({"hiden_size": 8}, TypeError, "'hiden_size'; did you mean 'hidden_size'"),
    ],
)
def test_arguments_of_loading_that_cannot_be(load, arguments, kind, message):
    with pytest.raises(kind, match=message):
        load(**arguments)


@pytest.mark.parametrize("by", ["num_labels", "id2label", "label2id", "config"])
def test_classes_are_given_in_any_form(path, by):
    names = {number: f"LABEL_{number}" for number in range(3)}
    given: dict[str, Any] = {"num_labels": 3}
    if by != "num_labels":
        names = THREE_CLASSES
        given = {"id2label": names, "num_labels": 3}
    if by == "label2id":
        given = {"label2id": {name: number for number, name in names.items()}}
    if by == "config":
        config = RobertaConfig.from_pretrained(path, id2label=names)
        given = {"config": config, "hidden_dropout_prob": 0.25}  # the second counts
    with pytest.warns(UserWarning, match="no matching classifier: newly initialized"):
        model = RobertaForSequenceClassification.from_pretrained(path, **given)
    assert model.config.id2label == names
    assert model.config.hidden_dropout_prob == given.get("hidden_dropout_prob", 0.0)
    assert model(torch.tensor([[5, 6]])).logits.shape == (1, 3)


@pytest.mark.parametrize("way", ["module", "class"])
def test_names_of_classes_stay_if_their_number_does(way, tmp_path):
    build("RobertaForSequenceClassification").save_pretrained(tmp_path)
    load = from_pretrained if way == "module" else RobertaForSequenceClassification.from_pretrained
    assert load(tmp_path, num_labels=3).config.id2label == THREE_CLASSES
    with pytest.warns(UserWarning, match="no matching classifier"):
        model = load(tmp_path, num_labels=6)
    assert list(model.config.id2label.values()) == [f"LABEL_{number}" for number in range(6)]
    with pytest.raises(ValueError, match="num_labels=6, but there are 3 names of classes"):
        load(tmp_path, num_labels=6, id2label=THREE_CLASSES)


@pytest.mark.parametrize(
    "name",
    [
        "BertForTokenClassification",
        "RobertaForMaskedLM",
        "DistilBertModel",
        "GPT2LMHeadModel",
        BART,
        "MarianMTModel",
        "T5Model",
        "T5ForConditionalGeneration 1.1",
    ],
)
def test_a_config_is_read_and_written_by_itself(name, tmp_path):
    model = build(name)
    model.save_pretrained(tmp_path / "model")
    config = type(model.config).from_pretrained(tmp_path / "model")
    assert config == model.config == Config.from_pretrained(tmp_path / "model")
    config.save_pretrained(tmp_path / "config")
    assert type(config).from_pretrained(tmp_path / "config") == config
    stored = json.loads((tmp_path / "config" / "config.json").read_text())
    assert stored == json.loads(json.dumps(config.to_dict()))
    theirs = type(their_model(name).config).from_pretrained(tmp_path / "config").to_dict()
    theirs = json.loads(json.dumps(theirs))
    if name.endswith("1.1"):
        del stored["tie_word_embeddings"]  # which transformers 5 ignores in a T5
    assert {field: theirs[field] for field in stored} == stored
    changed = type(config).from_pretrained(tmp_path / "config", hidden_dropout_prob=0.31)
    assert changed.hidden_dropout_prob == 0.31


def test_a_config_of_another_family(path):
    with pytest.raises(
        CheckpointError, match="'roberta', whose config is a RobertaConfig; call its"
    ):
        BertConfig.from_pretrained(path)
    with pytest.raises(CheckpointError, match="no such|neither|is not|has no"):
        MarianConfig.from_pretrained(path / "nothing")
    with pytest.raises(TypeError, match="'hiden_size'; did you mean 'hidden_size'"):
        RobertaConfig.from_pretrained(path, hiden_size=8)


def test_first_mistakes_say_what_to_type(path):
    build("BertModel").save_pretrained(path / "bert")
    with pytest.raises(
        CheckpointError, match="load it as BertModel, BertForMaskedLM, .* Auto class"
    ):
        RobertaForMaskedLM.from_pretrained(path / "bert")
    model = from_pretrained(path)
    for ids, kind, message in [
        ([[5, 6]], TypeError, r"is a list; .* \(B, T\) is needed: pass return_tensors='pt' to the"),
        ("ciao", TypeError, r"is a str; .* is needed: pass what the tokenizer makes of it"),
        ({"input_ids": [[5]]}, TypeError, r"is a dict; .* is needed: call model\(\*\*batch\)"),
        (torch.ones(1, 2), ValueError, "torch.int64 is needed: input_ids.long"),
    ]:
        with pytest.raises(kind, match=message):
            model(ids)
    assert model.config.model_type == "roberta"
    assert build("BertForSequenceClassification").config.label2id == {"no": 0, "maybe": 1, "yes": 2}


def test_the_config_of_a_t5_knows_its_head(tmp_path):
    """Which only the stored tensors tell, in the files of transformers 5."""
    model = build("T5ForConditionalGeneration 1.1")
    model.save_pretrained(tmp_path)
    content = json.loads((tmp_path / "config.json").read_text())
    content |= {"tie_word_embeddings": True, "scale_decoder_outputs": False}
    (tmp_path / "config.json").write_text(json.dumps(content))
    assert T5Config.from_pretrained(tmp_path) == from_pretrained(tmp_path).config == model.config


@pytest.mark.parametrize("name", ["RobertaForMaskedLM", BART])
def test_an_argument_of_a_call_that_is_none_here_says_what_to_type(name):
    model, inputs = build(name), {"input_ids": torch.tensor([[5, 6]])}
    if name == BART:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    expected = model(**inputs)[0]
    for argument, (harmless, said) in elsewhere.FORWARD.items():
        for value in harmless:
            assert torch.equal(model(**inputs, **{argument: value})[0], expected)
        with pytest.raises(TypeError, match="is not an argument here") as error:
            model(**inputs, **{argument: torch.ones(1, 2)})
        assert str(error.value).endswith(said)
    plain = model(**inputs, return_dict=False)
    assert isinstance(plain, tuple)
    assert len(plain) == len(model(**inputs))


def test_an_argument_of_generate_that_is_none_here_says_what_to_type():
    model, ids = language_model("GPT2"), torch.tensor([[5, 6]])
    expected = generate(model, ids, max_new_tokens=2).sequences
    for argument, (harmless, said) in elsewhere.GENERATION.items():
        for value in harmless:
            found = generate(model, ids, max_new_tokens=2, **{argument: value}).sequences
            assert torch.equal(found, expected)
        with pytest.raises(TypeError, match="is not an argument here") as error:
            model.generate(ids, max_new_tokens=2, **{argument: object()})
        assert str(error.value).endswith(said)
