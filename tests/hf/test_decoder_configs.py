"""The config.json files of real decoders, their sizes shrunk to those of the tiny models."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from minitransformer import CheckpointError, from_pretrained
from tests.hf.test_decoder_loading import save
from tests.hf.test_loading import edit_config, equal
from tests.tiny import DECODER_CLASSES

pytestmark = pytest.mark.filterwarnings("error")  # a warning is either expected or wrong


THREE_LABELS = {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}
BART_LARGE: dict[str, Any] = {
    "_name_or_path": "bart-large",
    "activation_dropout": 0.1,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["BartModel"],
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "classif_dropout": 0.1,
    "classifier_dropout": 0.0,
    "d_model": 12,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 19,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 3,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "early_stopping": True,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 17,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 2,
    "eos_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "gradient_checkpointing": False,
    "id2label": THREE_LABELS,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "max_position_embeddings": 24,
    "model_type": "bart",
    "no_repeat_ngram_size": 3,
    "normalize_before": False,
    "num_beams": 4,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "scale_embedding": False,
    "task_specific_params": {
        "summarization": {"length_penalty": 1.0, "max_length": 128, "min_length": 12},
        "summarization_xsum": {"length_penalty": 1.0, "max_length": 62, "num_beams": 6},
    },
    "torch_dtype": "float32",
    "transformers_version": "4.7.0.dev0",
    "use_cache": True,
    "vocab_size": 31,
}
BART_LARGE_CNN = {
    **BART_LARGE,
    "_num_labels": 3,
    "architectures": ["BartForConditionalGeneration"],
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "classif_dropout": 0.0,
    "force_bos_token_to_be_generated": True,
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "output_past": True,
    "prefix": " ",
    "task_specific_params": {
        "summarization": {
            "early_stopping": True,
            "length_penalty": 2.0,
            "max_length": 142,
            "min_length": 56,
            "no_repeat_ngram_size": 3,
            "num_beams": 4,
        }
    },
}
BART_LARGE_MNLI = {
    name: value
    for name, value in {
        **BART_LARGE,
        "_num_labels": 3,
        "architectures": ["BartForSequenceClassification"],
        "id2label": {"0": "contradiction", "1": "neutral", "2": "entailment"},
        "label2id": {"contradiction": 0, "entailment": 2, "neutral": 1},
        "output_past": False,
    }.items()
    if name not in ("early_stopping", "no_repeat_ngram_size", "num_beams", "task_specific_params")
}
DISTILBART_CNN = {  # the fields that sshleifer's checkpoints add
    **BART_LARGE_CNN,
    "extra_pos_embeddings": 2,
    "normalize_embedding": True,
    "replacing_rate": 0,
    "save_step": 58,
    "static_position_embeddings": False,
    "student_decoder_layers": None,
    "student_encoder_layers": None,
}
OPUS_MT = {
    "_name_or_path": "/tmp/Helsinki-NLP/opus-mt-en-it",
    "_num_labels": 3,
    "activation_dropout": 0.0,
    "activation_function": "swish",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["MarianMTModel"],
    "attention_dropout": 0.0,
    "bad_words_ids": [[30]],
    "bos_token_id": 0,
    "classif_dropout": 0.0,
    "classifier_dropout": 0.0,
    "d_model": 12,
    "decoder_attention_heads": 2,
    "decoder_ffn_dim": 19,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 3,
    "decoder_start_token_id": 30,
    "decoder_vocab_size": 31,
    "dropout": 0.1,
    "encoder_attention_heads": 3,
    "encoder_ffn_dim": 17,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 2,
    "eos_token_id": 0,
    "extra_pos_embeddings": 31,
    "forced_eos_token_id": 0,
    "gradient_checkpointing": False,
    "id2label": THREE_LABELS,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
    "max_length": 512,
    "max_position_embeddings": 24,
    "model_type": "marian",
    "normalize_before": False,
    "normalize_embedding": False,
    "num_beams": 4,
    "num_hidden_layers": 2,
    "pad_token_id": 30,
    "scale_embedding": True,
    "share_encoder_decoder_embeddings": True,
    "static_position_embeddings": True,
    "torch_dtype": "float16",
    "transformers_version": "4.22.0.dev0",
    "use_cache": True,
    "vocab_size": 31,
}
GPT2_SMALL = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 2,
    "embd_pdrop": 0.1,
    "eos_token_id": 2,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 24,
    "n_embd": 12,
    "n_head": 3,
    "n_inner": 17,
    "n_layer": 2,
    "n_positions": 24,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 31,
}
T5_SMALL: dict[str, Any] = {
    "architectures": ["T5ForConditionalGeneration"],
    "d_ff": 17,
    "d_kv": 5,
    "d_model": 12,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
    "eos_token_id": 1,
    "initializer_factor": 1.0,
    "is_encoder_decoder": True,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "n_positions": 512,
    "num_decoder_layers": 3,
    "num_heads": 3,
    "num_layers": 2,
    "output_past": True,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 6,
    "task_specific_params": {
        "summarization": {
            "early_stopping": True,
            "length_penalty": 2.0,
            "max_length": 200,
            "min_length": 30,
            "no_repeat_ngram_size": 3,
            "num_beams": 4,
            "prefix": "summarize: ",
        },
        "translation_en_to_de": {
            "early_stopping": True,
            "max_length": 300,
            "num_beams": 4,
            "prefix": "translate English to German: ",
        },
    },
    "vocab_size": 31,
}
T5_V1_1_SMALL = {
    name: value
    for name, value in {
        **T5_SMALL,
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    }.items()
    if name not in ("n_positions", "task_specific_params")
}
FLAN_T5_SMALL = {
    **T5_SMALL,
    "feed_forward_proj": "gated-gelu",
    "classifier_dropout": 0.0,
    "dense_act_fn": "gelu_new",
    "is_gated_act": True,
    "relative_attention_max_distance": 128,
    "tie_word_embeddings": False,
    "torch_dtype": "float32",
    "transformers_version": "4.23.1",
    "use_cache": True,
}
REAL = {
    "gpt2": ("GPT2LMHeadModel", GPT2_SMALL),
    "facebook/bart-large": ("BartModel", BART_LARGE),
    "facebook/bart-large-cnn": ("BartForConditionalGeneration", BART_LARGE_CNN),
    "facebook/bart-large-mnli": ("BartForSequenceClassification", BART_LARGE_MNLI),
    "sshleifer/distilbart-cnn-12-6": ("BartForConditionalGeneration", DISTILBART_CNN),
    "Helsinki-NLP/opus-mt-en-it": ("MarianMTModel", OPUS_MT),
    "google-t5/t5-small": ("T5ForConditionalGeneration", T5_SMALL),
    "google/t5-v1_1-small": ("T5ForConditionalGeneration 1.1", T5_V1_1_SMALL),
    "google/flan-t5-small": ("T5ForConditionalGeneration 1.1", FLAN_T5_SMALL),
}


def write_config(directory: Path, content: dict[str, Any]) -> None:
    """Replace config.json by that of an older checkpoint."""
    (directory / "config.json").write_text(json.dumps(content))
    (directory / "generation_config.json").unlink(missing_ok=True)


@pytest.mark.parametrize("checkpoint", list(REAL))
def test_the_config_of_a_real_checkpoint_loads_without_a_warning(checkpoint, tmp_path):
    name, content = REAL[checkpoint]
    model = save(name, tmp_path)
    write_config(tmp_path, content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again: Any = from_pretrained(tmp_path)
    assert equal(again, model)
    assert type(again) is type(model)
    # Back and forth once more, in our own words.
    again.save_pretrained(tmp_path / "again")
    third: Any = from_pretrained(tmp_path / "again")
    assert third.config == again.config
    assert getattr(third, "generation_config", 0) == getattr(again, "generation_config", 0)


@pytest.mark.slow
def test_what_the_real_configs_mean(tmp_path):
    models: dict[str, Any] = {}
    for checkpoint, (name, content) in REAL.items():
        directory = tmp_path / checkpoint.replace("/", "-")
        save(name, directory)
        write_config(directory, content)
        models[checkpoint] = from_pretrained(directory)

    opus = models["Helsinki-NLP/opus-mt-en-it"]
    assert opus.config.hidden_act == "swish"
    assert opus.config.scale_embedding
    assert opus.config.pad_token_id == opus.config.decoder_start_token_id == 30
    assert opus.generation_config.bad_words_ids == ((30,),)
    assert opus.generation_config.num_beams == 4
    assert opus.generation_config.max_length == 512
    assert opus.generation_config.forced_eos_token_id == 0

    cnn = models["facebook/bart-large-cnn"].generation_config
    assert (cnn.min_length, cnn.max_length, cnn.num_beams) == (56, 142, 4)
    assert (cnn.forced_bos_token_id, cnn.length_penalty) == (0, 2.0)
    assert cnn.no_repeat_ngram_size == 3
    assert cnn.early_stopping is True
    assert models["facebook/bart-large"].config.activation_dropout == 0.1
    mnli = models["facebook/bart-large-mnli"].config
    assert mnli.id2label == {0: "contradiction", 1: "neutral", 2: "entailment"}

    gpt2 = models["gpt2"]
    assert gpt2.config.layer_norm_eps == 1e-5
    assert gpt2.generation_config.max_length is None  # only a task sets 50
    assert gpt2.generation_config.eos_token_id == 2

    small, flan = models["google-t5/t5-small"].config, models["google/flan-t5-small"].config
    assert small.tie_word_embeddings
    assert small.scale_decoder_outputs
    assert small.relative_attention_max_distance == 128
    for config in (flan, models["google/t5-v1_1-small"].config):
        assert not config.tie_word_embeddings
        assert not config.scale_decoder_outputs
        assert config.activation == "gelu_new"


@pytest.mark.slow
def test_gpt2s_intermediate_size_defaults_to_four_times_the_hidden_size(tmp_path):
    save("GPT2LMHeadModel", tmp_path, intermediate_size=48)
    content = {name: value for name, value in GPT2_SMALL.items() if name != "n_inner"}
    for n_inner in ({}, {"n_inner": None}):
        write_config(tmp_path, content | n_inner)
        model: Any = from_pretrained(tmp_path)
        assert model.config.intermediate_size is None
        assert model.transformer.layers[0].feed_forward.up_proj.out_features == 48


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        ("GPT2LMHeadModel", "add_cross_attention", True),
        ("GPT2LMHeadModel", "is_encoder_decoder", True),
        ("BartForConditionalGeneration", "normalize_before", True),
        ("BartForConditionalGeneration", "add_final_layer_norm", True),
        ("BartForConditionalGeneration", "normalize_embedding", False),
        ("BartForConditionalGeneration", "static_position_embeddings", True),
        ("BartForConditionalGeneration", "encoder_layerdrop", 0.1),
        ("BartForConditionalGeneration", "decoder_layerdrop", 0.1),
        ("BartForConditionalGeneration", "is_encoder_decoder", False),
        ("MarianMTModel", "share_encoder_decoder_embeddings", False),
        ("MarianMTModel", "decoder_vocab_size", 40),
        ("MarianMTModel", "static_position_embeddings", False),
        ("MarianMTModel", "normalize_embedding", True),
        ("T5ForConditionalGeneration", "is_encoder_decoder", False),
        ("T5ForConditionalGeneration", "is_decoder", True),
    ],
)
def test_a_field_that_makes_another_function_is_refused(name, field, value, tmp_path):
    save(name, tmp_path)
    edit_config(tmp_path, **{field: value})
    with pytest.raises(CheckpointError, match=f"{field}={value!r} is not supported"):
        from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("GPT2LMHeadModel", "n_head", "n_heads"),
        ("GPT2LMHeadModel", "layer_norm_epsilon", "layer_norm_epsilom"),
        ("BartForConditionalGeneration", "encoder_ffn_dim", "encoder_fnn_dim"),
        ("MarianMTModel", "scale_embedding", "scale_embeddings"),
        ("T5ForConditionalGeneration", "relative_attention_num_buckets", "relative_num_buckets"),
    ],
)
def test_a_misspelled_field_of_the_file_gets_the_right_name(name, right, wrong, tmp_path):
    save(name, tmp_path)
    value = json.loads((tmp_path / "config.json").read_text())[right]
    edit_config(tmp_path, **{right: ..., wrong: value})
    with pytest.raises(CheckpointError, match=f"'{wrong}': did you mean '{right}'"):
        from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", DECODER_CLASSES)
def test_an_unknown_field_is_named_and_ignored(name, tmp_path):
    save(name, tmp_path)
    edit_config(tmp_path, adapters={"a": 1})
    with pytest.warns(UserWarning, match="'adapters' is unknown and ignored"):
        from_pretrained(tmp_path)
