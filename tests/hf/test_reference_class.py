"""The reference class of a model, which checkpoints name: its own, or a base class."""

import json

import pytest
from torch import Tensor, nn

from minitransformer import (
    BertModel,
    CheckpointError,
    RobertaForMaskedLM,
    RobertaForQuestionAnswering,
    RobertaModel,
    T5Model,
    from_pretrained,
)
from minitransformer.hf.checkpoint import model_class_for
from minitransformer.hf.config import FAMILIES, family_of_model, reference_class
from minitransformer.models.base import LanguageModel, Model, Seq2SeqLM, SequenceClassifier
from minitransformer.models.bert import (
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
)
from tests.hf.test_loading import equal
from tests.tiny import perturb, roberta_config

KNOWN = [model for family in FAMILIES.values() for model in family.models]


class FastMixin:
    """A second base class, as the classes for speed have one."""


class FastBertModel(FastMixin, BertModel):
    """A class for speed, as in `fast/`, without new parameters."""


class FastRobertaModel(FastBertModel, RobertaModel):
    """One that inherits from another family's too; RoBERTa is the nearer in the MRO."""


class FastRobertaForMaskedLM(FastMixin, RobertaForMaskedLM):
    """A class for speed, with a head."""


class Mine(RobertaForMaskedLM):
    """A user's subclass: another function of the same tensors."""

    def forward(self, *inputs: Tensor, **named: Tensor) -> None:  # type: ignore[override]
        raise NotImplementedError


class Wider(RobertaForMaskedLM):
    """A user's subclass with a new tensor."""

    def __init__(self, config, *, attention: str = "sdpa") -> None:
        super().__init__(config, attention=attention)
        self.extra = nn.Linear(2, 2)


@pytest.mark.parametrize("model_class", KNOWN)
def test_the_reference_class_of_a_plain_class_is_itself(model_class):
    assert reference_class(model_class) is model_class
    assert model_class in family_of_model(model_class).models


@pytest.mark.parametrize(
    ("model_class", "expected"),
    [
        (FastBertModel, BertModel),
        (FastRobertaModel, RobertaModel),
        (FastRobertaForMaskedLM, RobertaForMaskedLM),
        (Mine, RobertaForMaskedLM),
        (type("FSDPT5Model", (FastMixin, T5Model), {}), T5Model),  # as fully_shard makes them
    ],
)
def test_the_reference_class_of_a_subclass_is_the_nearest_known_class(model_class, expected):
    assert reference_class(model_class) is expected
    assert family_of_model(model_class) is family_of_model(expected)


def test_a_model_has_the_reference_class_of_its_class():
    model = RobertaForMaskedLM(roberta_config())
    assert reference_class(model) is RobertaForMaskedLM
    model.__class__ = FastRobertaForMaskedLM
    assert reference_class(model) is RobertaForMaskedLM


@pytest.mark.parametrize("model_class", [Model, nn.Linear, type("Other", (Model,), {})])
def test_a_class_that_derives_from_none_is_an_error_that_lists_them(model_class):
    with pytest.raises(TypeError, match=f"{model_class.__name__} cannot be stored in") as error:
        reference_class(model_class)
    listed = str(error.value).partition("their subclasses can: ")[2].split(", ")
    assert listed == [known.__name__ for known in KNOWN]
    with pytest.raises(TypeError, match="cannot be stored in"):
        family_of_model(model_class)


@pytest.mark.parametrize("model_class", [FastRobertaForMaskedLM, Mine])
def test_a_subclass_is_saved_as_its_reference_class(model_class, tmp_path):
    model = perturb(RobertaForMaskedLM(roberta_config()))
    model.save_pretrained(tmp_path / "plain")
    model.__class__ = model_class
    model.save_pretrained(tmp_path / "subclass")
    for file in ("config.json", "model.safetensors"):
        plain, other = (tmp_path / name / file for name in ("plain", "subclass"))
        assert other.read_bytes() == plain.read_bytes()
    content = json.loads((tmp_path / "subclass" / "config.json").read_text())
    assert content["architectures"] == ["RobertaForMaskedLM"]
    again = from_pretrained(tmp_path / "subclass")
    assert type(again) is RobertaForMaskedLM  # plain
    assert equal(again, model)


def test_a_user_s_subclass_is_loaded_as_itself(tmp_path):
    model = perturb(RobertaForMaskedLM(roberta_config()))
    model.save_pretrained(tmp_path)
    again = Mine.from_pretrained(tmp_path)
    assert type(again) is Mine
    assert not again.training
    assert equal(again, model)
    with pytest.raises(CheckpointError, match="'roberta', but a BertModel needs 'bert'"):
        FastBertModel.from_pretrained(tmp_path)


def test_tensors_that_hugging_face_s_class_lacks_are_refused(tmp_path):
    with pytest.raises(TypeError, match=r"Wider has tensors that .* does not have: .*extra"):
        Wider(roberta_config()).save_pretrained(tmp_path / "wider")
    assert not (tmp_path / "wider").exists()
    RobertaForMaskedLM(roberta_config()).save_pretrained(tmp_path / "plain")
    with pytest.raises(CheckpointError, match="of a RobertaForMaskedLM: missing .*extra"):
        Wider.from_pretrained(tmp_path / "plain")


def test_the_class_for_a_task_is_the_family_s_own(tmp_path):
    RobertaForMaskedLM(roberta_config()).save_pretrained(tmp_path)
    for task, expected in {
        BertForMaskedLM: "RobertaForMaskedLM",
        BertForQuestionAnswering: "RobertaForQuestionAnswering",
        BertForTokenClassification: "RobertaForTokenClassification",
        SequenceClassifier: "RobertaForSequenceClassification",
        RobertaForQuestionAnswering: "RobertaForQuestionAnswering",
    }.items():
        assert model_class_for(tmp_path, task).__name__ == expected
    for task in (LanguageModel, Seq2SeqLM):
        with pytest.raises(CheckpointError, match=f"'roberta' has no class for {task.__name__}"):
            model_class_for(tmp_path, task)


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        ("bert", {"SequenceClassifier": "BertForSequenceClassification"}),
        ("distilbert", {"BertForMaskedLM": "DistilBertForMaskedLM"}),
        (
            "gpt2",
            {
                "LanguageModel": "GPT2LMHeadModel",
                "SequenceClassifier": "GPT2ForSequenceClassification",
            },
        ),
        (
            "bart",
            {
                "Seq2SeqLM": "BartForConditionalGeneration",
                "SequenceClassifier": "BartForSequenceClassification",
            },
        ),
        ("marian", {"Seq2SeqLM": "MarianMTModel", "LanguageModel": "MarianMTModel"}),
        ("t5", {"Seq2SeqLM": "T5ForConditionalGeneration"}),
    ],
)
def test_the_class_for_a_task_of_every_family(model_type, expected, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": model_type}))
    tasks = {
        task.__name__: task
        for task in (BertForMaskedLM, SequenceClassifier, LanguageModel, Seq2SeqLM)
    }
    for task, name in expected.items():
        assert model_class_for(tmp_path, tasks[task]).__name__ == name
