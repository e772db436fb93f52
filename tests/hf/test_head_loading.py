"""Loading heads: kept where they match, else newly initialized with a warning; equal to theirs."""

import copy
import json
import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

import minitransformer
from minitransformer import CheckpointError, DistilBertConfig, from_pretrained
from minitransformer.models.base import Model, TaskModel
from minitransformer.models.config import Config
from minitransformer.parity import compare, random_batch
from tests.tiny import SIZES, bert_config, perturb, roberta_config

FAMILIES = ["Bert", "Roberta", "DistilBert"]
HEADS = [
    "Model",
    "ForMaskedLM",
    "ForQuestionAnswering",
    "ForSequenceClassification",
    "ForTokenClassification",
]
CLASSES = [f"{family}{head}" for family in FAMILIES for head in HEADS]
CLASSIFIERS = [name for name in CLASSES if name.endswith("Classification")]
THREE_CLASSES = {0: "no", 1: "maybe", 2: "yes"}
FIVE_CLASSES = {number: f"{number + 1} stars" for number in range(5)}


def family_of(name: str) -> str:
    return next(family for family in FAMILIES if name.startswith(family))


def config_of(name: str, **changes: object) -> Config:
    classes = {"id2label": THREE_CLASSES} if name in CLASSIFIERS else {}
    values = {**classes, **changes}
    if family_of(name) == "DistilBert":
        return DistilBertConfig(**{**SIZES, **values})
    return {"Bert": bert_config, "Roberta": roberta_config}[family_of(name)](**values)


def class_of(name: str) -> type[Model]:
    return getattr(minitransformer, name)


def save(name: str, path: Path, **changes: object) -> Model:
    """A perturbed model, saved."""
    model = perturb(class_of(name)(config_of(name, **changes)))
    model.save_pretrained(path)
    return model


def edit_config(path: Path, **changes: object) -> None:
    content = json.loads((path / "config.json").read_text()) | changes
    kept = {name: value for name, value in content.items() if value is not ...}
    (path / "config.json").write_text(json.dumps(kept))


def edit_tensors(path: Path, change) -> None:
    tensors = load_file(path / "model.safetensors")
    save_file(change(tensors), path / "model.safetensors", metadata={"format": "pt"})


def backbone_of(model: Model) -> Any:
    """The model without its head, where it has one."""
    return model.backbone if isinstance(model, TaskModel) else model


def backbone_tensors(model: Model) -> dict[str, torch.Tensor]:
    """The backbone's tensors by its own names, without the pooler, which belongs to a head."""
    return {n: t for n, t in backbone_of(model).state_dict().items() if not n.startswith("pooler.")}


def head_tensors(model: Model) -> dict[str, torch.Tensor]:
    return {n: t for n, t in model.state_dict().items() if not n.startswith("backbone.")}


def assert_same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def assert_initialized(tensors: dict[str, torch.Tensor], deviation: float) -> None:
    """Weights are N(0, deviation), all of them together, biases zero, and weights of norms one."""
    norms = [t for n, t in tensors.items() if n.endswith("norm.weight")]
    assert all(torch.equal(norm, torch.ones_like(norm)) for norm in norms)
    weights = [
        t.flatten()
        for n, t in tensors.items()
        if n.endswith("weight") and not n.endswith("norm.weight")
    ]
    assert torch.cat(weights).std().item() == pytest.approx(deviation, rel=0.25)
    assert abs(torch.cat(weights).mean().item()) < deviation / 2
    for name, tensor in tensors.items():
        assert tensor.isfinite().all(), name
        if name.endswith("bias"):
            assert torch.equal(tensor, torch.zeros_like(tensor)), name


def load_quietly(load, *arguments, **named):
    """Load with every warning as an error."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(*arguments, **named)


def load_with_warnings(load, *arguments, **named) -> tuple[Model, str]:
    """Load, and return the model and the lines of all warnings."""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        model = load(*arguments, **named)
    return model, "\n".join(str(warning.message) for warning in warned)


@pytest.fixture
def poisoned(monkeypatch):
    """Memory comes full of NaN, so that what was not filled shows."""
    to_empty = torch.nn.Module.to_empty

    def to_poison(module, **settings):
        for parameter in to_empty(module, **settings).parameters():
            parameter.data.fill_(float("nan"))
        return module

    monkeypatch.setattr(torch.nn.Module, "to_empty", to_poison)


@pytest.mark.parametrize("name", CLASSES)
def test_the_class_is_that_of_the_config(name, tmp_path):
    saved = save(name, tmp_path)
    again = load_quietly(from_pretrained, tmp_path)
    assert type(again) is class_of(name)
    assert again.config == saved.config
    assert_same(again.state_dict(), saved.state_dict())


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_another_number_of_classes_is_a_new_head(name, tmp_path):
    saved = save(name, tmp_path, initializer_range=0.05)
    model, warned = load_with_warnings(
        class_of(name).from_pretrained, tmp_path, id2label=FIVE_CLASSES
    )
    assert re.search("classifier.*: newly initialized, to be trained", warned)
    assert re.search("no use for .*classifier", warned)
    assert model.config.id2label == FIVE_CLASSES
    assert model.config.num_labels == 5
    assert_same(backbone_tensors(model), backbone_tensors(saved))
    assert_initialized(head_tensors(model), 0.05)
    batch = random_batch(model, length=7)
    logits = model(**batch).logits
    assert logits.shape[-1] == 5
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, -2), batch["labels"].flatten())
    torch.testing.assert_close(model.loss(**batch), expected)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_other_names_for_as_many_classes_keep_the_head(name, tmp_path):
    saved = save(name, tmp_path)
    names = {0: "negative", 1: "neutral", 2: "positive"}
    model = load_quietly(class_of(name).from_pretrained, tmp_path, id2label=names)
    assert model.config.id2label == names
    assert_same(model.state_dict(), saved.state_dict())


@pytest.mark.parametrize("name", CLASSES)
def test_another_dropout_changes_nothing_that_is_stored(name, tmp_path):
    saved = save(name, tmp_path)
    model = load_quietly(class_of(name).from_pretrained, tmp_path, hidden_dropout_prob=0.37)
    assert model.config.hidden_dropout_prob == 0.37
    backbone = backbone_of(model)
    assert backbone.embeddings.dropout.p == backbone.layers[0].feed_forward_dropout.p == 0.37
    assert_same(model.state_dict(), saved.state_dict())
    assert not model.training


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"id2labels": THREE_CLASSES}, TypeError, "'id2labels'; did you mean 'id2label'"),
        ({"num_lables": 3}, TypeError, "'num_lables'; did you mean 'num_labels'"),
        ({"num_labels": 3, "id2label": {0: "a"}}, ValueError, "num_labels=3, but there are 1"),
        ({"dropout": 0.0}, TypeError, "DistilBertConfig field 'dropout'.*'hidden_dropout_prob'"),
        (
            {"hidden_dropout": 0.0},
            TypeError,
            "'hidden_dropout'; did you mean 'hidden_dropout_prob'",
        ),
        ({"hidden_dropout_prob": 1.5}, ValueError, "hidden_dropout_prob=1.5"),
        ({"id2label": ["a", "b"]}, ValueError, r"id2label=\['a', 'b'\]"),
        ({"problem_type": "stars"}, ValueError, "unknown problem_type 'stars'"),
        ({"num_hidden_layers": 4}, CheckpointError, "num_hidden_layers=4.*3 layers; set it to 3"),
        ({"hidden_size": 64}, CheckpointError, r"has shape .*32.* config needs .*64"),
        (
            {"vocab_size": 120},
            CheckpointError,
            r"has shape .*99.* needs .*120.*, by vocab_size=120; set",
        ),
    ],
)
def test_changes_that_cannot_be(changes, error, message, tmp_path):
    save("DistilBertForSequenceClassification", tmp_path)
    with pytest.raises(error, match=message):
        minitransformer.DistilBertForSequenceClassification.from_pretrained(tmp_path, **changes)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("stored", "requested"),
    [
        ("ForSequenceClassification", "ForTokenClassification"),
        ("ForTokenClassification", "ForSequenceClassification"),
    ],
)
def test_one_classifier_is_not_the_other(family, stored, requested, tmp_path):
    """They have as many classes, and tensors of the same names and shapes."""
    saved = save(f"{family}{stored}", tmp_path)
    model, warned = load_with_warnings(class_of(f"{family}{requested}").from_pretrained, tmp_path)
    assert re.search("classifier.*: newly initialized, to be trained", warned)
    assert re.search(f"a {family}{requested} has no use for .*classifier", warned)
    assert_same(backbone_tensors(model), backbone_tensors(saved))
    assert_initialized(head_tensors(model), 0.02)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("head", HEADS[1:])
def test_every_head_can_be_put_on_a_backbone(family, head, tmp_path):
    saved = save(f"{family}Model", tmp_path)
    model, warned = load_with_warnings(class_of(f"{family}{head}").from_pretrained, tmp_path)
    for part in {name.split(".")[0] for name in head_tensors(model)}:
        assert re.search(rf"has no [^:]*\b{part}\b[^:]*: newly initialized", warned)
    has_pooler = family != "DistilBert"
    keeps_pooler = (family, head) == ("Bert", "ForSequenceClassification")
    assert (f"no use for {family.lower()}.pooler" in warned or "no use for pooler" in warned) == (
        has_pooler and not keeps_pooler
    )
    assert_same(backbone_tensors(model), backbone_tensors(saved))
    if keeps_pooler:
        assert_same(model.bert.pooler.state_dict(), saved.pooler.state_dict())
    assert_initialized(head_tensors(model), 0.02)


def test_a_backbone_takes_its_token_embedding_from_an_lm_head_that_alone_stores_it(tmp_path):
    saved = save("BertForMaskedLM", tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    table = tensors.pop("bert.embeddings.word_embeddings.weight")
    tensors["cls.predictions.decoder.weight"] = table
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    model, _ = load_with_warnings(minitransformer.BertModel.from_pretrained, tmp_path)
    assert_same(backbone_tensors(model), backbone_tensors(saved))


@pytest.mark.usefixtures("poisoned")
def test_a_pooler_is_initialized_where_the_checkpoint_has_none(tmp_path):
    save("BertForMaskedLM", tmp_path)
    model, warned = load_with_warnings(
        minitransformer.BertForSequenceClassification.from_pretrained, tmp_path
    )
    assert re.search(r"has no .*backbone\.pooler.*: newly initialized", warned)
    assert re.search(r"has no .*classifier.*: newly initialized", warned)
    assert_initialized(model.bert.pooler.state_dict(), 0.02)
    assert_initialized(model.classifier.state_dict(), 0.02)


@pytest.mark.parametrize("name", [name for name in CLASSES if not name.endswith("Model")])
def test_half_a_head_is_damage(name, tmp_path):
    model = save(name, tmp_path / "whole")
    tensors = load_file(tmp_path / "whole" / "model.safetensors")
    content = (tmp_path / "whole" / "config.json").read_text()
    before = f"{family_of(name).lower()}."  # Hugging Face's word
    head = [stored for stored in tensors if not stored.startswith(before)]
    assert len(head) == len(head_tensors(model)) > 1
    parts = {stored: sum(n.split(".")[0] == stored.split(".")[0] for n in head) for stored in head}
    for number, stored in enumerate(head):
        directory = tmp_path / str(number)
        directory.mkdir()
        (directory / "config.json").write_text(content)
        rest = {n: t for n, t in tensors.items() if n != stored}
        save_file(rest, directory / "model.safetensors", metadata={"format": "pt"})
        for load in (from_pretrained, class_of(name).from_pretrained):
            with pytest.raises(CheckpointError, match="missing|no weights for"):
                load(directory)
        if parts[stored] > 1:  # under another class's name, a whole head may be new, half may not
            edit_config(directory, architectures=[f"{family_of(name)}Model"])
            with pytest.raises(CheckpointError, match="missing"):
                class_of(name).from_pretrained(directory)


@pytest.mark.parametrize("name", [name for name in CLASSES if not name.endswith("Model")])
def test_a_promised_head_must_be_in_the_file(name, tmp_path):
    save(name, tmp_path)
    before = f"{family_of(name).lower()}."  # Hugging Face's word
    edit_tensors(tmp_path, lambda t: {n: v for n, v in t.items() if n.startswith(before)})
    for load in (from_pretrained, class_of(name).from_pretrained):
        with pytest.raises(CheckpointError, match="no weights for"):
            load(tmp_path)


@pytest.mark.parametrize(
    "name", ["BertForMaskedLM", "DistilBertForMaskedLM", "BertForTokenClassification"]
)
def test_old_names_of_norms(name, tmp_path):
    saved = save(name, tmp_path)

    def age(tensors):
        old = {
            re.sub(
                "LayerNorm.bias$",
                "LayerNorm.beta",
                n.replace("LayerNorm.weight", "LayerNorm.gamma"),
            ): t
            for n, t in tensors.items()
        }
        assert any(n.endswith("gamma") for n in old)
        assert any(n.endswith("beta") for n in old)
        return old

    edit_tensors(tmp_path, age)
    assert_same(load_quietly(from_pretrained, tmp_path).state_dict(), saved.state_dict())


DECODERS = {
    "BertForMaskedLM": {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    "RobertaForMaskedLM": {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    },
    "DistilBertForMaskedLM": {
        "vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight",
    },
}


@pytest.mark.parametrize(
    ("name", "second"), [(name, second) for name, names in DECODERS.items() for second in names]
)
def test_a_decoder_that_is_stored_again(name, second, tmp_path):
    saved = save(name, tmp_path)
    first = DECODERS[name][second]
    edit_tensors(tmp_path, lambda t: t | {second: t[first].clone()})
    assert_same(load_quietly(from_pretrained, tmp_path).state_dict(), saved.state_dict())
    # A head of another task has the word embeddings still.
    token_class = class_of(f"{family_of(name)}ForTokenClassification")
    other, warned = load_with_warnings(token_class.from_pretrained, tmp_path)
    assert "classifier: newly initialized" in warned
    assert_same(backbone_tensors(other), backbone_tensors(saved))

    edit_tensors(tmp_path, lambda t: t | {second: t[first] + 1e-3})
    with pytest.raises(CheckpointError, match="differs from the tensor that it is tied to"):
        from_pretrained(tmp_path)

    def only_under_the_second_name(tensors):
        tensors[second] = tensors.pop(first)
        return tensors

    edit_tensors(tmp_path, lambda t: t | {second: t[first].clone()})
    edit_tensors(tmp_path, only_under_the_second_name)
    assert_same(load_quietly(from_pretrained, tmp_path).state_dict(), saved.state_dict())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"id2label": {"2": "c", "0": "a", "1": "b"}}, {0: "a", 1: "b", 2: "c"}),
        ({"id2label": {"2": "c", "0": "a", "1": "b"}, "num_labels": 3}, {0: "a", 1: "b", 2: "c"}),
        ({"num_labels": 3}, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}),
        ({"_num_labels": 3}, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}),
        ({"id2label": None, "num_labels": 3}, {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}),
    ],
)
def test_the_forms_of_classes_in_a_config(fields, expected, tmp_path):
    save("BertForTokenClassification", tmp_path)
    edit_config(tmp_path, **{"id2label": ..., "label2id": ..., **fields})
    assert load_quietly(from_pretrained, tmp_path).config.id2label == expected


def test_more_than_ten_classes_are_in_the_order_of_their_numbers(tmp_path):
    """As text, "10" comes before "2"."""
    labels = {number: f"class {number}" for number in range(12)}
    save("RobertaForTokenClassification", tmp_path, id2label=labels)
    names = {str(number): labels[number] for number in sorted(labels, key=str)}
    edit_config(tmp_path, id2label=names)
    again = load_quietly(from_pretrained, tmp_path)
    assert list(again.config.id2label.items()) == list(labels.items())


def test_a_config_without_classes_has_two(tmp_path):
    save("BertForTokenClassification", tmp_path, id2label={0: "LABEL_0", 1: "LABEL_1"})
    edit_config(tmp_path, id2label=..., label2id=...)
    again = load_quietly(from_pretrained, tmp_path)
    assert again.config.id2label == {0: "LABEL_0", 1: "LABEL_1"}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"id2label": {"0": "a", "2": "b", "3": "c"}}, "id2label=.*must map 0, 1, 2"),
        ({"id2label": {"0": "a", "x": "b"}}, "id2label=.*must map class numbers to names"),
        ({"id2label": {"-1": "a", "0": "b"}}, "id2label=.*must map class numbers to names"),
        ({"id2label": ["a", "b", "c"]}, "id2label=.*must map class numbers to names"),
        ({"id2label": {}}, "id2label={}"),
        ({"id2label": {"0": "a", "1": None, "2": "c"}}, "id2label=.*every class a name"),
        ({"id2label": {"0": "a", "1": "a", "2": "c"}}, "id2label=.*two classes one name"),
        ({"id2label": {"0": "a", "00": "b", "2": "c"}}, "id2label="),
        ({"id2label": {"9" * 5000: "a"}}, "id2label"),
        ({"num_labels": 0}, "num_labels=0"),
        ({"num_labels": "3"}, "num_labels='3'"),
        ({"num_labels": 10**12}, "num_labels=1000000000000"),
        ({"num_labels": True}, "num_labels=True"),
        ({"problem_type": "stars"}, "unknown problem_type 'stars'"),
        ({"num_labels": 4}, r"classifier.* has shape \(3,.* config needs \(4,"),
    ],
)
def test_classes_that_a_config_cannot_have(fields, message, tmp_path):
    save("BertForTokenClassification", tmp_path)
    edit_config(tmp_path, **{"id2label": ..., "label2id": ..., **fields})
    with pytest.raises(CheckpointError, match=f"config.json.*{message}|{message}") as error:
        from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_question_answering_from_a_classifier_of_three_names_the_fix(family, tmp_path):
    saved = save(f"{family}ForSequenceClassification", tmp_path)
    model_class = class_of(f"{family}ForQuestionAnswering")
    with pytest.raises(ValueError, match="id2label has 3 classes; .* pass id2label="):
        model_class.from_pretrained(tmp_path)
    two = {0: "LABEL_0", 1: "LABEL_1"}
    model, warned = load_with_warnings(model_class.from_pretrained, tmp_path, id2label=two)
    assert "qa_outputs: newly initialized" in warned
    assert_same(backbone_tensors(model), backbone_tensors(saved))


def transformers_or_skip():
    return pytest.importorskip("transformers", reason="needs transformers' side of the checkpoint")


@pytest.mark.parametrize("architecture", ["BertForMaskedLM", None])
def test_berts_pretraining_checkpoint(architecture, tmp_path):
    """The layout of bert-base-uncased: next-sentence head, pooler, tied decoder, old names."""
    transformers = transformers_or_skip()
    both = perturb(transformers.BertForPreTraining(transformers.BertConfig(**SIZES)))
    both.save_pretrained(tmp_path)

    def age(tensors):
        return {
            re.sub(
                "LayerNorm.bias$",
                "LayerNorm.beta",
                re.sub("LayerNorm.weight$", "LayerNorm.gamma", n),
            ): t
            for n, t in tensors.items()
        }

    edit_tensors(tmp_path, age)
    if architecture is None:
        with pytest.raises(CheckpointError, match="unknown architecture 'BertForPreTraining'"):
            from_pretrained(tmp_path)
        load = minitransformer.BertForMaskedLM.from_pretrained
    else:
        edit_config(tmp_path, architectures=[architecture])
        load = from_pretrained
    ours, message = load_with_warnings(load, tmp_path, attention="eager")
    assert sorted(re.findall(r"[\w.]+\.(?:weight|bias)", message)) == [
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "cls.seq_relationship.bias",
        "cls.seq_relationship.weight",
    ]
    batch = random_batch(ours, length=9)
    batch["attention_mask"][1:] = 1  # positions count padding there, and there is none here
    batch["input_ids"][batch["input_ids"] == 0] = 5
    inputs = {n: t for n, t in batch.items() if n != "labels"}
    torch.testing.assert_close(
        ours(**inputs).logits, both(**inputs).prediction_logits, rtol=1e-5, atol=1e-5
    )
    pooled, message = load_with_warnings(minitransformer.BertModel.from_pretrained, tmp_path)
    assert "pooler" not in message
    torch.testing.assert_close(
        pooled(**inputs).pooler_output, both.bert(**inputs).pooler_output, rtol=1e-5, atol=1e-5
    )


# Every field in the config.json of real checkpoints, except the sizes.
BERT_SIZES = {
    "hidden_size": 32,
    "intermediate_size": 37,
    "max_position_embeddings": 20,
    "num_attention_heads": 4,
    "num_hidden_layers": 3,
    "vocab_size": 99,
}
DISTILBERT_SIZES = {
    "dim": 32,
    "hidden_dim": 37,
    "max_position_embeddings": 20,
    "n_heads": 4,
    "n_layers": 3,
    "vocab_size": 99,
}
BERT = {
    **BERT_SIZES,
    "attention_probs_dropout_prob": 0.1,
    "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1,
    "initializer_range": 0.02,
    "layer_norm_eps": 1e-12,
    "model_type": "bert",
    "pad_token_id": 0,
    "type_vocab_size": 2,
}
POOLER = {
    "directionality": "bidi",
    "pooler_fc_size": 768,
    "pooler_num_attention_heads": 12,
    "pooler_num_fc_layers": 3,
    "pooler_size_per_head": 128,
    "pooler_type": "first_token_transform",
}
ROBERTA = {
    **BERT,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "layer_norm_eps": 1e-05,
    "model_type": "roberta",
    "pad_token_id": 1,
    "type_vocab_size": 1,
}
DISTILBERT = {
    **DISTILBERT_SIZES,
    "activation": "gelu",
    "attention_dropout": 0.1,
    "dropout": 0.1,
    "initializer_range": 0.02,
    "model_type": "distilbert",
    "pad_token_id": 0,
    "qa_dropout": 0.1,
    "seq_classif_dropout": 0.2,
    "sinusoidal_pos_embds": False,
    "tie_weights_": True,
}


def classes(*names: str, **fields: object) -> dict[str, object]:
    return {
        "id2label": {str(number): name for number, name in enumerate(names)},
        "label2id": {name: number for number, name in enumerate(names)},
        **fields,
    }


ENTITIES = ["O", *(f"{edge}-{kind}" for kind in ("MISC", "PER", "ORG", "LOC") for edge in "BI")]
REAL_CONFIGS = {
    "bert-base-uncased": BERT
    | {
        "architectures": ["BertForMaskedLM"],
        "gradient_checkpointing": False,
        "position_embedding_type": "absolute",
        "transformers_version": "4.6.0.dev0",
        "use_cache": True,
    },
    "bert-large-uncased-whole-word-masking-finetuned-squad": BERT
    | {"architectures": ["BertForQuestionAnswering"]},
    "dslim/bert-base-NER": BERT
    | POOLER
    | classes(*ENTITIES, _num_labels=9)
    | {"architectures": ["BertForTokenClassification"], "output_past": True},
    "distilbert-base-uncased": DISTILBERT
    | {"architectures": ["DistilBertForMaskedLM"], "transformers_version": "4.10.0.dev0"},
    "distilbert-base-uncased-finetuned-sst-2-english": DISTILBERT
    | classes("NEGATIVE", "POSITIVE")
    | {
        "architectures": ["DistilBertForSequenceClassification"],
        "finetuning_task": "sst-2",
        "output_past": True,
    },
    "distilbert-base-cased-distilled-squad": DISTILBERT
    | {
        "architectures": ["DistilBertForQuestionAnswering"],
        "output_past": True,
        "sinusoidal_pos_embds": True,
    },
    "deepset/roberta-base-squad2": ROBERTA
    | {
        "architectures": ["RobertaForQuestionAnswering"],
        "gradient_checkpointing": False,
        "language": "english",
        "name": "Roberta",
        "use_cache": True,
    },
    "roberta-large-mnli": ROBERTA
    | classes("CONTRADICTION", "NEUTRAL", "ENTAILMENT", _num_labels=3)
    | {"architectures": ["RobertaForSequenceClassification"]},
    # What transformers 2 saved in every config.
    "old": BERT
    | {
        "architectures": ["BertForSequenceClassification"],
        "finetuning_task": "sst-2",
        "num_labels": 2,
        "output_attentions": False,
        "output_hidden_states": False,
        "output_past": True,
        "pruned_heads": {},
        "torchscript": False,
        "use_bfloat16": False,
    },
}


@pytest.mark.parametrize("checkpoint", REAL_CONFIGS)
def test_the_configs_of_real_checkpoints_load_without_a_warning(checkpoint, tmp_path):
    transformers = transformers_or_skip()
    content = REAL_CONFIGS[checkpoint]
    (name,) = content["architectures"]
    their_class, their_config = (
        getattr(transformers, n) for n in (name, f"{family_of(name)}Config")
    )
    fields = {
        n: v for n, v in copy.deepcopy(content).items() if n not in ("num_labels", "_num_labels")
    }
    perturb(their_class(their_config.from_dict(fields))).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(content))
    ours = load_quietly(from_pretrained, tmp_path, attention="eager")
    assert type(ours) is class_of(name)
    theirs = their_class.from_pretrained(tmp_path, attn_implementation="eager").eval()
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("labels", [{"0": "no", "1": "yes"}, {"0": "stars"}])
def test_the_head_for_multiple_choice_is_no_classifier(family, labels, tmp_path):
    """It has a classifier's names, and one score, which would pass for a regression's."""
    transformers = transformers_or_skip()
    config_class = getattr(transformers, f"{family}Config")
    sizes = DISTILBERT_SIZES if family == "DistilBert" else BERT_SIZES
    choice = perturb(getattr(transformers, f"{family}ForMultipleChoice")(config_class(**sizes)))
    choice.save_pretrained(tmp_path)
    edit_config(tmp_path, id2label=labels, label2id=...)
    model, warned = load_with_warnings(
        class_of(f"{family}ForSequenceClassification").from_pretrained, tmp_path
    )
    assert re.search("classifier.*: newly initialized, to be trained", warned)
    assert_initialized({n: t for n, t in head_tensors(model).items() if "classifier" in n}, 0.02)


PROBLEMS = [None, "single_label_classification", "multi_label_classification", "regression"]


@pytest.mark.parametrize("problem_type", PROBLEMS)
@pytest.mark.parametrize("name", CLASSES)
def test_transformers_reads_the_same_classes(name, problem_type, tmp_path):
    transformers = transformers_or_skip()
    labels = {0: "no", 1: "yes"} if name.endswith("Answering") else FIVE_CLASSES
    save(name, tmp_path, id2label=labels, problem_type=problem_type)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert type(config).__name__ == f"{family_of(name)}Config"
    assert config.architectures == [name]
    assert config.id2label == labels
    assert config.label2id == {label: number for number, label in labels.items()}
    assert config.num_labels == len(labels)
    assert config.problem_type == problem_type
    # And back: what it saves means the same here.
    config.save_pretrained(tmp_path)
    again = load_quietly(from_pretrained, tmp_path)
    assert (again.config.id2label, again.config.problem_type) == (labels, problem_type)


def test_a_name_that_transformers_ignores_is_corrected(tmp_path):
    save("DistilBertModel", tmp_path)
    edit_config(tmp_path, hidden_act="gelu", activation=...)
    with pytest.raises(CheckpointError, match="'hidden_act': did you mean 'activation'"):
        from_pretrained(tmp_path)
    edit_config(tmp_path, activation="gelu")
    with pytest.warns(UserWarning, match="the field 'hidden_act' is unknown and ignored"):
        from_pretrained(tmp_path)


def test_a_standard_name_is_read_in_a_family_that_has_another(tmp_path):
    """transformers accepts four of them, and prefers them; here both must agree."""
    saved = save("DistilBertModel", tmp_path)
    edit_config(tmp_path, num_attention_heads=4, n_heads=...)
    assert load_quietly(from_pretrained, tmp_path).config == saved.config
    edit_config(tmp_path, n_heads=4)
    assert load_quietly(from_pretrained, tmp_path).config == saved.config
    edit_config(tmp_path, n_heads=2)
    with pytest.raises(CheckpointError, match="n_heads=2 and num_attention_heads=4 are two names"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("family", ["Bert", "Roberta"])
def test_a_backbone_without_a_pooler_comes_back_as_it_was(family, tmp_path):
    config = config_of(f"{family}Model")
    model = perturb(class_of(f"{family}Model")(config, add_pooling_layer=False))
    model.save_pretrained(tmp_path)
    for load in (from_pretrained, type(model).from_pretrained):
        again = load_quietly(load, tmp_path)
        assert again.pooler is None
        assert again.state_dict().keys() == model.state_dict().keys()
        ids = torch.tensor([[5, 6, 7]])
        torch.testing.assert_close(again(ids).last_hidden_state, model(ids).last_hidden_state)
        assert again(ids).pooler_output is None


def test_classes_that_the_file_names_badly_can_be_named_anew(tmp_path):
    save("BertForSequenceClassification", tmp_path)
    edit_config(tmp_path, id2label={"0": "a", "1": "a", "2": "c"}, label2id=...)
    with pytest.raises(CheckpointError, match="two classes one name; correct the file, or pass"):
        from_pretrained(tmp_path)
    load = class_of("BertForSequenceClassification").from_pretrained
    again = load_quietly(lambda path: load(path, id2label={0: "a", 1: "b", 2: "c"}), tmp_path)
    assert again.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_classes_by_name_alone(tmp_path):
    save("BertForSequenceClassification", tmp_path, id2label={0: "x", 1: "y", 2: "z"})
    edit_config(tmp_path, id2label=...)
    again = load_quietly(from_pretrained, tmp_path)
    assert again.config.id2label == {0: "x", 1: "y", 2: "z"}


def test_a_classifier_without_architectures_is_inferred(tmp_path):
    saved = save("BertForSequenceClassification", tmp_path)
    edit_config(tmp_path, architectures=...)
    with pytest.warns(UserWarning, match="no architecture: the stored classifier is assumed"):
        again = type(saved).from_pretrained(tmp_path)
    assert torch.equal(again.classifier.weight, saved.classifier.weight)
    edit_tensors(tmp_path, lambda t: {n: v for n, v in t.items() if "classifier" not in n})
    with pytest.warns(UserWarning, match="no matching classifier: newly init") as warned:
        type(saved).from_pretrained(tmp_path)
    assert len(warned) == 1  # nothing stored, nothing assumed


@pytest.mark.parametrize("name", ["BertModel", "BertForQuestionAnswering"])
def test_an_untied_decoder_is_left_out_without_an_lm_head(name, tmp_path):
    saved = save("BertForMaskedLM", tmp_path)
    decoder = "cls.predictions.decoder.weight"
    edit_tensors(tmp_path, lambda t: t | {decoder: torch.randn(99, 32)})
    with pytest.raises(CheckpointError, match="pass tie_word_embeddings=False"):
        from_pretrained(tmp_path)
    with pytest.warns(UserWarning, match=rf"no use for .*{decoder}"):
        again = class_of(name).from_pretrained(tmp_path)
    embedding = backbone_of(again).embeddings.token_embedding
    assert torch.equal(embedding.weight, saved.bert.embeddings.token_embedding.weight)
