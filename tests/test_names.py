"""The names that a user of Hugging Face imports: they work, or one error says what to type."""

import functools
import random
import re
import sys

import numpy
import pytest
import torch

import minitransformer
import minitransformer as transformers
import train
from minitransformer import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    CheckpointError,
    Tokenizer,
    elsewhere,
    set_seed,
)
from minitransformer.auto import TOKENIZERS
from minitransformer.models.base import Model
from tests.tiny import (
    BART,
    CLASSES,
    TEXTS,
    build,
    class_of,
    config_of,
    save_tiny_bert,
    tokenizer_of,
)
from train import mlm

AUTO = {
    AutoModel: [
        "BertModel",
        "RobertaModel",
        "DistilBertModel",
        "GPT2Model",
        "BartModel",
        "T5Model",
    ],
    AutoModelForMaskedLM: ["BertForMaskedLM", "RobertaForMaskedLM", "DistilBertForMaskedLM"],
    AutoModelForSequenceClassification: [
        "RobertaForSequenceClassification",
        "GPT2ForSequenceClassification",
        "BartForSequenceClassification",
    ],
    AutoModelForTokenClassification: ["DistilBertForTokenClassification"],
    AutoModelForQuestionAnswering: ["RobertaForQuestionAnswering"],
    AutoModelForCausalLM: ["GPT2LMHeadModel"],
    AutoModelForSeq2SeqLM: [BART, "MarianMTModel", "T5ForConditionalGeneration"],
}
AUTO_AND_NAME = [(auto, name) for auto, names in AUTO.items() for name in names]


@pytest.mark.parametrize(("auto", "name"), AUTO_AND_NAME)
def test_an_auto_class_is_the_class_of_the_task(auto, name):
    config = config_of(name)
    for argument in ("attention", "attn_implementation"):
        made = auto.from_config(config, **{argument: "eager"})
        assert (type(made), made.config, made.attention) == (class_of(name), config, "eager")


def test_an_auto_class_loads_the_class_of_the_task(tmp_path):
    saved = build("GPT2LMHeadModel")
    saved.save_pretrained(tmp_path)
    for auto, name in ((AutoModel, "GPT2Model"), (AutoModelForCausalLM, "GPT2LMHeadModel")):
        model = auto.from_pretrained(tmp_path, attention="eager", dtype=torch.float64)
        assert type(model) is class_of(name)
        assert (model.attention, model.dtype) == ("eager", torch.float64)
        assert torch.equal(model.get_input_embeddings().weight, saved.get_input_embeddings().weight)
    assert AutoConfig.from_pretrained(tmp_path) == saved.config


def test_an_auto_class_has_a_head_of_its_own(tmp_path):
    build("RobertaForMaskedLM").save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="newly initialized"):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path, num_labels=6)
    assert type(model).__name__ == "RobertaForSequenceClassification"
    assert model(torch.tensor([[5, 6]])).logits.shape == (1, 6)
    config = AutoConfig.from_pretrained(tmp_path, label2id={"no": 0, "yes": 1, "maybe": 2})
    with pytest.warns(UserWarning, match="newly initialized"):
        model = AutoModelForSequenceClassification.from_pretrained(tmp_path, config=config)
    assert model.config == config
    assert model.config.id2label == {0: "no", 1: "yes", 2: "maybe"}


def test_an_auto_class_that_a_family_lacks(tmp_path):
    build("GPT2LMHeadModel").save_pretrained(tmp_path)
    with pytest.raises(
        CheckpointError, match="'gpt2' has no class for .*classes are GPT2Model, GPT"
    ):
        AutoModelForMaskedLM.from_pretrained(tmp_path)
    with pytest.raises(TypeError, match="a GPT2Config has no class for AutoModelForSeq2SeqLM"):
        AutoModelForSeq2SeqLM.from_config(config_of("GPT2Model"))
    with pytest.raises(
        TypeError, match=r"call AutoModel.from_pretrained\(path\) or AutoModel.from_c"
    ):
        AutoModel(config_of("GPT2Model"))


def test_a_tokenizers_class_name_loads_it(tmp_path):
    tokenizer = tokenizer_of("gpt2", tmp_path)
    tokenizer.save_pretrained(tmp_path)
    for name in (*TOKENIZERS, "AutoTokenizer"):  # what is saved here is of no family's class
        again = getattr(minitransformer, name).from_pretrained(tmp_path)
        assert type(again) is Tokenizer
        assert again(TEXTS).input_ids == tokenizer(TEXTS).input_ids


def test_a_tokenizer_of_another_class_is_an_error_that_names_it(tmp_path):
    save_tiny_bert(tmp_path, TEXTS)
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizerFast"}')
    expected = Tokenizer.from_pretrained(tmp_path)(TEXTS).input_ids
    for name in ("BertTokenizer", "BertTokenizerFast", "DistilBertTokenizer", "AutoTokenizer"):
        assert getattr(minitransformer, name).from_pretrained(tmp_path)(TEXTS).input_ids == expected
    with pytest.raises(
        CheckpointError,
        match=r"its tokenizer is a BertTokenizer, not a RobertaTokenizerFast; load it with Bert",
    ):
        minitransformer.RobertaTokenizerFast.from_pretrained(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")  # then the model's config says it
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(CheckpointError, match="its tokenizer is a BertTokenizer, not a GPT2Token"):
        minitransformer.GPT2Tokenizer.from_pretrained(tmp_path)


def test_a_tokenizer_is_made_of_its_files_or_of_an_object(tmp_path):
    tokenizer = tokenizer_of("gpt2", tmp_path)
    tokenizer.save_pretrained(tmp_path)
    fast = minitransformer.PreTrainedTokenizerFast
    by_file = fast(tokenizer_file=tmp_path / "tokenizer.json", pad_token="<pad>")
    by_object = fast(tokenizer_object=tokenizer.backend, pad_token="<pad>")
    for made in (by_file, by_object):
        assert made(TEXTS).input_ids == tokenizer(TEXTS).input_ids
        assert made.pad_token == "<pad>"
    with pytest.raises(TypeError, match=r"RobertaTokenizer.from_pretrained\(directory\), or"):
        minitransformer.RobertaTokenizer()
    with pytest.raises(ValueError, match="must lie in one directory"):
        minitransformer.RobertaTokenizer("a/vocab.json", "b/merges.txt")


def test_set_seed():
    draws = []
    for _ in range(2):
        set_seed(3)
        draws.append((torch.rand(1).item(), numpy.random.rand(), random.random()))
    assert draws[0] == draws[1]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        *elsewhere.NAMES.items(),
        ("BertForMaskedLm", "did you mean BertForMaskedLM?"),
        ("RobertaTokenizrFast", "did you mean RobertaTokenizerFast?"),
        ("from_pretraind", "did you mean from_pretrained?"),
        ("TrainingArgument", "did you mean TrainingArguments? use train.TrainingConfig"),
        ("TFBertModel", "models are PyTorch's; use BertModel"),
        ("TFAlbertModel", "it is not supported; the families are"),
        (
            "AlbertModel",
            "not supported; the families are Bart, Bert, DistilBert, GPT2, Marian, Rob",
        ),
        ("BartForQuestionAnswering", "not supported; of Bart there are BartConfig, BartForCond"),
        ("XLMRobertaForMaskedLM", "it is not supported; the families are"),
        ("BertForMultipleChoice", "not supported; of Bert there are BertConfig, BertForMaskedLM"),
    ],
)
def test_a_name_that_is_not_here_says_what_to_type(name, said):
    with pytest.raises(ImportError, match=re.escape(said)) as error:
        exec(f"from minitransformer import {name}", {})
    assert str(error.value).startswith(f"minitransformer has no {name}: ")
    assert name not in minitransformer.__all__


def test_what_the_errors_name_is_there():
    models = [build(name) for name in ("BertModel", "RobertaForMaskedLM", "GPT2LMHeadModel", BART)]
    options = mlm.parser().format_help()
    tables = (elsewhere.LOADING, elsewhere.FORWARD, elsewhere.GENERATION, elsewhere.COLLATING)
    in_tables = [said for table in tables for _, said in table.values()]
    for said in (*elsewhere.NAMES.values(), *elsewhere.METHODS.values(), *in_tables):
        for name in re.findall(r"\btrain\.(\w+)|from train import (\w+)", said):
            assert getattr(train, "".join(name))
        for name in re.findall(r"\b(Auto\w+|\w+Tokenizer)\b", said):
            assert hasattr(minitransformer, name)
        for path in re.findall(r"\bmodel\.(?!safetensors)(\w+(?:\.\w+)*)", said):
            found = [
                functools.reduce(lambda part, n: getattr(part, n, None), path.split("."), model)
                for model in models
            ]
            assert any(part is not None for part in found), path
        for field in re.findall(r"TrainingConfig\((\w+)=", said):
            assert hasattr(train.TrainingConfig, field)
        for option in re.findall(r"--[a-z-]+", said):
            assert option in options


def test_modules_are_imported_when_they_are_used():
    for name in ("parity", "generation"):
        assert minitransformer.__getattr__(name) is sys.modules[f"minitransformer.{name}"]
    for name in ("no_such_module", "__path__"):
        with pytest.raises(AttributeError):
            minitransformer.__getattr__(name)
    with pytest.raises(
        AttributeError, match="module 'minitransformer' has no attribute 'whatever'"
    ):
        _ = minitransformer.whatever


def test_the_package_under_the_name_of_the_other():
    for name in (*CLASSES, "T5ForConditionalGeneration"):
        assert issubclass(class_of(name), Model)
    assert transformers.AutoModelForMaskedLM is AutoModelForMaskedLM
    assert transformers.pipeline is minitransformer.pipeline
    assert transformers.BertTokenizerFast is TOKENIZERS["BertTokenizerFast"]
