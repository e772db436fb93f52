"""config.json where it is silent, contradicts itself, or speaks an old dialect."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch

from minitransformer import CheckpointError, from_pretrained, generate
from minitransformer.hf.checkpoint import model_class_for
from minitransformer.models.base import Model, SequenceClassifier
from tests.hf.test_decoder_loading import save
from tests.hf.test_loading import edit_config, equal
from tests.tiny import class_of, perturb, random_sequences

pytestmark = pytest.mark.filterwarnings("error")  # a warning is either expected or wrong

CLASSIFIERS = [
    *(
        f"{family}For{head}Classification"
        for family in ("Bert", "Roberta", "DistilBert")
        for head in ("Sequence", "Token")
    ),
    "GPT2ForSequenceClassification",
    "BartForSequenceClassification",
]


def names(*labels: str) -> dict[int, str]:
    return dict(enumerate(labels))


def their(name: str) -> Any:
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers")
    return getattr(transformers, name)


# --- How many classes


@pytest.mark.parametrize("name", CLASSIFIERS)
@pytest.mark.parametrize("count", [1, 2, 5])
def test_the_stored_head_says_how_many_classes_there_are_where_the_file_does_not(
    name, count, tmp_path
):
    saved = save(name, tmp_path, id2label=names(*(f"LABEL_{n}" for n in range(count))))
    edit_config(tmp_path, id2label=..., label2id=...)
    for load in (from_pretrained, class_of(name).from_pretrained):
        again: Any = load(tmp_path)
        assert again.config == saved.config
        assert equal(again, saved)
    # Another number of classes is a new head, as ever.
    with pytest.warns(UserWarning, match="newly initialized|no use for"):
        new = class_of(name).from_pretrained(tmp_path, id2label=names("a", "b", "c", "d"))
    assert new.config.num_labels == 4


def test_a_bart_classifier_of_two_classes_that_transformers_saved(tmp_path):
    """BartConfig's default is three, and yet it leaves two out of the file as a default."""
    config = their("BartConfig")(
        vocab_size=31, d_model=12, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=17, decoder_ffn_dim=19, num_labels=2,
        max_position_embeddings=24,
    )  # fmt: skip
    theirs = perturb(their("BartForSequenceClassification")(config))
    theirs.save_pretrained(tmp_path)
    assert "id2label" not in json.loads((tmp_path / "config.json").read_text())
    ours: Any = from_pretrained(tmp_path)
    ids = torch.tensor([[0, 5, 6, 2]])
    torch.testing.assert_close(ours(ids).logits, theirs(ids).logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("named", ["id2label", "label2id"])
def test_num_labels_counts_more_than_names_of_another_number(named, tmp_path):
    saved = save("BertForSequenceClassification", tmp_path, id2label=names(*"abcde"))
    two = {"id2label": {"0": "x", "1": "y"}, "label2id": {"x": 0, "y": 1}}
    edit_config(tmp_path, **{"num_labels": 5, "id2label": ..., "label2id": ..., named: two[named]})
    with pytest.warns(UserWarning, match=f"num_labels=5, but {named} has 2 names"):
        again: Any = from_pretrained(tmp_path)
    assert again.config.id2label == names(*(f"LABEL_{n}" for n in range(5)))
    assert torch.equal(again.classifier.weight, saved.classifier.weight)
    config = their("BertConfig").from_pretrained(tmp_path)
    assert config.id2label == again.config.id2label
    # The names can be given, and then the head is kept.
    with pytest.warns(UserWarning, match="num_labels=5"):
        again = class_of("BertForSequenceClassification").from_pretrained(
            tmp_path, id2label=names(*"abcde")
        )
    assert again.config == saved.config and equal(again, saved)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_labels": 5}, r"has shape \(3,\), but .* by num_labels=5; set it to the stored size"),
        (
            {"label2id": {"no": 2, "maybe": 1, "yes": 0}},
            "'no' is class 0 in id2label and 2 in label2id; correct one",
        ),
        (
            {"id2label": ..., "label2id": {"no": "first"}},
            r"label2id=\{'no': 'first'\} must map names to class numbers",
        ),
        ({"label2id": ["no", "yes"]}, r"label2id=\['no', 'yes'\] must map names to class numbers"),
        ({"id2label": {str(n): "x" * n for n in range(300)}}, "id2label=.{,200} must give every"),
        ({"id2label": {"a" * 9000: "x"}}, "id2label=.{,200} must map class numbers"),
        ({"problem_type": "s" * 9000}, "unknown problem_type .{,200};"),
        ({"hidden_size": "9" * 9000}, "hidden_size=.{,200} must be an integer"),
        ({"pruned_heads": {"0": [*range(9000)]}}, "pruned_heads=.{,200} is not supported"),
        ({"quantization_config": {"bits": 4}}, "quantization_config=.* is not supported"),
    ],
)
def test_a_contradiction_is_refused_by_name(fields, message, tmp_path):
    save("BertForSequenceClassification", tmp_path)
    edit_config(tmp_path, **fields)
    with (
        warnings.catch_warnings(),
        pytest.raises(CheckpointError, match=message) as error,
    ):
        warnings.simplefilter("ignore")
        from_pretrained(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert len(str(error.value)) < 900


def test_names_beside_the_default_of_label2id_are_kept(tmp_path):
    """Files have the names in one field and LABEL_0 in the other, where only one was set."""
    saved = save("BertForSequenceClassification", tmp_path)
    edit_config(tmp_path, label2id={"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2})
    assert from_pretrained(tmp_path).config == saved.config


# --- Which model


@pytest.mark.parametrize("name", ["BertModel", "GPT2LMHeadModel", "T5ForConditionalGeneration"])
def test_a_file_without_model_type_is_loaded_by_class(name, tmp_path):
    saved = save(name, tmp_path)
    edit_config(tmp_path, model_type=..., architectures=...)
    assert equal(class_of(name).from_pretrained(tmp_path), saved)
    for load in (from_pretrained, lambda path: model_class_for(path, SequenceClassifier)):
        with pytest.raises(CheckpointError, match="no model_type.* by its class, .*MarianMTModel"):
            load(tmp_path)
    edit_config(tmp_path, architectures=[name])
    assert type(from_pretrained(tmp_path)) is class_of(name)
    with pytest.raises(CheckpointError, match="but a RobertaModel needs 'roberta'"):
        class_of("RobertaModel").from_pretrained(tmp_path)


OLD_MARIAN = {
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["MarianMTModel"],
    "model_type": "bart",
    "normalize_before": False,
    "normalize_embedding": False,
    "static_position_embeddings": True,
}


def test_a_marian_that_calls_itself_a_bart(tmp_path):
    """transformers loads it as MarianMTModel by class; its Auto classes make a BART of it."""
    saved = save("MarianMTModel", tmp_path)
    edit_config(tmp_path, **OLD_MARIAN)
    for load in (from_pretrained, class_of("MarianMTModel").from_pretrained):
        ours: Any = load(tmp_path)
        assert type(ours) is class_of("MarianMTModel")
        assert ours.config == saved.config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = their("MarianMTModel").from_pretrained(tmp_path).eval()
    batch = {"input_ids": random_sequences(2, 9), "decoder_input_ids": random_sequences(2, 7)}
    expected = theirs(**batch).logits
    torch.testing.assert_close(ours(**batch).logits, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("field", ["normalize_before", "add_final_layer_norm"])
def test_an_old_bart_that_is_neither_is_refused(field, tmp_path):
    save("MarianMTModel", tmp_path)
    edit_config(tmp_path, **OLD_MARIAN | {field: True})
    with pytest.raises(CheckpointError, match=f"{field}=True is not supported"):
        from_pretrained(tmp_path)


# --- Tokens


def gpt2_of(path: Path, **fields: Any) -> Model:
    """A GPT-2 of 31 tokens, whose config.json has these tokens only."""
    model = save("GPT2LMHeadModel", path)
    edit_config(path, **{"bos_token_id": ..., "eos_token_id": ..., **fields})
    (path / "generation_config.json").unlink()
    return model


def test_a_default_outside_of_the_vocabulary_is_no_token(tmp_path):
    """The default is 50256, which a Chinese GPT-2 of 21,128 words does not have."""
    gpt2_of(tmp_path)
    model: Any = from_pretrained(tmp_path)
    assert (model.config.bos_token_id, model.config.eos_token_id) == (None, None)
    assert generate(model, torch.tensor([[5, 6]]), max_new_tokens=3).sequences.shape == (1, 5)


def test_a_stated_token_outside_of_the_vocabulary_is_refused_with_a_remedy(tmp_path):
    gpt2_of(tmp_path, eos_token_id=50_256)
    with pytest.raises(
        CheckpointError, match="eos_token_id=50256 lies outside .*eos_token_id=None"
    ):
        from_pretrained(tmp_path)
    model: Any = class_of("GPT2LMHeadModel").from_pretrained(tmp_path, eos_token_id=None)
    assert model.config.eos_token_id is None
    assert generate(model, torch.tensor([[5, 6]]), max_new_tokens=3).sequences.shape == (1, 5)


def test_several_end_tokens_are_for_generation(tmp_path):
    gpt2_of(tmp_path, eos_token_id=[4, 5])
    model: Any = from_pretrained(tmp_path)
    assert model.config.eos_token_id == 4
    assert model.generation_config.eos_token_id == (4, 5)


# --- Numbers of layers


def test_num_hidden_layers_of_an_old_bart_is_not_read(tmp_path):
    """Versions 2 to 4 wrote it beside encoder_layers, and never read it: it may be stale."""
    saved = save("BartModel", tmp_path)
    edit_config(tmp_path, num_hidden_layers=12)
    assert from_pretrained(tmp_path).config == saved.config
    edit_config(tmp_path, num_hidden_layers=2, encoder_layers=12)
    with pytest.raises(CheckpointError, match="encoder_layers=12, but .* 2 layers; set it to 2"):
        from_pretrained(tmp_path)
