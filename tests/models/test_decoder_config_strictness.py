"""Every invalid field of a decoder's config is an error that names it."""

import copy
import dataclasses
import pickle

import pytest

from minitransformer import BartConfig, BartModel, GPT2Config, GPT2Model, MarianConfig, T5Config
from tests.tiny import (
    BART_SIZES,
    CLASSES,
    GPT2_SIZES,
    MARIAN_SIZES,
    T5_SIZES,
    new,
)

NAN = float("nan")
SIZE = [0, -1, "8", True, 2.5, None, 10**30]
TOKEN = [31, -1, "x", True, 1.5]  # of a vocabulary of 31
CHANCE = [1.0, -0.1, "0.1", NAN, True, None]
POSITIVE = [0, -1e-5, NAN, float("inf"), "1e-5", True, None]
SWITCH = [1, 0, "true", None]
ACTIVATION = ["gelo", None, ["gelu"], "os.system"]
LABELS = [{}, {1: "a", 0: "b"}, {0: ""}, {0: "a", 1: "a"}, ["a"], None, {"zero": "a"}]
PROBLEM = ["regresion", 3]

SHARED = {
    "vocab_size": SIZE,
    "hidden_size": SIZE,
    "num_hidden_layers": SIZE,
    "num_attention_heads": SIZE,
    "hidden_dropout_prob": CHANCE,
    "tie_word_embeddings": SWITCH,
}
BART_FIELDS = {
    **SHARED,
    "num_decoder_layers": SIZE,
    "num_decoder_attention_heads": SIZE,
    "intermediate_size": SIZE,
    "decoder_intermediate_size": SIZE,
    "max_position_embeddings": SIZE,
    "hidden_act": ACTIVATION,
    "attention_probs_dropout_prob": CHANCE,
    "activation_dropout": CHANCE,
    "scale_embedding": SWITCH,
    "initializer_range": POSITIVE,
    "bos_token_id": TOKEN,
    "eos_token_id": TOKEN,
    "pad_token_id": [*TOKEN, None],
    "decoder_start_token_id": TOKEN,
}
WITHOUT_MEANING: dict[str, tuple[type, dict, dict[str, list]]] = {
    "GPT2Config": (
        GPT2Config,
        GPT2_SIZES,
        {
            **SHARED,
            "intermediate_size": [size for size in SIZE if size is not None],
            "hidden_act": ACTIVATION,
            "embedding_dropout_prob": CHANCE,
            "attention_probs_dropout_prob": CHANCE,
            "max_position_embeddings": SIZE,
            "layer_norm_eps": POSITIVE,
            "initializer_range": POSITIVE,
            "scale_attn_weights": SWITCH,
            "scale_attn_by_inverse_layer_idx": SWITCH,
            "bos_token_id": TOKEN,
            "eos_token_id": TOKEN,
            "pad_token_id": TOKEN,
            "id2label": LABELS,
            "problem_type": PROBLEM,
        },
    ),
    "BartConfig": (
        BartConfig,
        BART_SIZES,
        {
            **BART_FIELDS,
            "classifier_dropout": CHANCE,
            "id2label": LABELS,
            "problem_type": PROBLEM,
        },
    ),
    "MarianConfig": (MarianConfig, MARIAN_SIZES, BART_FIELDS),
    "T5Config": (
        T5Config,
        T5_SIZES,
        {
            **SHARED,
            "head_size": SIZE,
            "num_decoder_layers": SIZE,
            "intermediate_size": SIZE,
            "feed_forward_proj": ["gelo", "gated-gelo", "gated-", "gated-gated-gelu", "", None, 3],
            "relative_attention_num_buckets": [*SIZE, 3],
            "relative_attention_max_distance": [*SIZE, 3],  # of 6 buckets 3 are exact
            "layer_norm_eps": POSITIVE,
            "initializer_factor": POSITIVE,
            "scale_decoder_outputs": SWITCH,
            "eos_token_id": TOKEN,
            "pad_token_id": [*TOKEN, None],
            "decoder_start_token_id": TOKEN,
        },
    ),
}
every_config = pytest.mark.parametrize("name", list(WITHOUT_MEANING))


@every_config
def test_a_value_without_a_meaning_is_named_whichever_the_field(name):
    config_class, sizes, values = WITHOUT_MEANING[name]
    assert {*values} == {field.name for field in dataclasses.fields(config_class)}
    config_class(**sizes)
    for field, wrong in values.items():
        for value in wrong:
            with pytest.raises(ValueError, match=field) as error:
                config_class(**{**sizes, field: value})
            shown = repr(value)[:20]
            assert shown in str(error.value) or str(value) in str(error.value), (field, value)


@every_config
@pytest.mark.parametrize(
    ("wrong", "right"),
    [
        ("hiden_size", "hidden_size"),
        ("num_atention_heads", "num_attention_heads"),
        ("vocabsize", "vocab_size"),
    ],
)
def test_a_misspelled_field_gets_the_right_name(name, wrong, right):
    config_class = WITHOUT_MEANING[name][0]
    with pytest.raises(TypeError, match=f"unknown {name} field '{wrong}'; did you mean '{right}'"):
        config_class(**{wrong: 8})


@pytest.mark.parametrize(
    ("config_class", "wrong", "right"),
    [
        (GPT2Config, "n_embd", "hidden_size"),
        (GPT2Config, "n_positions", "max_position_embeddings"),
        (GPT2Config, "n_inner", "intermediate_size"),
        (GPT2Config, "resid_pdrop", "hidden_dropout_prob"),
        (GPT2Config, "num_lables", "num_labels"),
        (BartConfig, "d_model", "hidden_size"),
        (BartConfig, "encoder_layers", "num_hidden_layers"),
        (BartConfig, "decoder_ffn_dim", "decoder_intermediate_size"),
        (BartConfig, "label2ids", "label2id"),
        (MarianConfig, "decoder_attention_heads", "num_decoder_attention_heads"),
        (MarianConfig, "dropout", "hidden_dropout_prob"),
        (T5Config, "d_kv", "head_size"),
        (T5Config, "num_layers", "num_hidden_layers"),
        (T5Config, "dropout_rate", "hidden_dropout_prob"),
        (T5Config, "hidden_act", "feed_forward_proj"),
        (T5Config, "d_modl", "hidden_size"),  # misspelled there as well
        (GPT2Config, "n_hed", "num_attention_heads"),
    ],
)
def test_a_name_of_hugging_face_leads_to_ours(config_class, wrong, right):
    with pytest.raises(TypeError, match=f"'{wrong}'; did you mean '{right}'"):
        config_class(**{wrong: 8})


def test_all_names_of_hugging_face_are_said_at_once():
    with pytest.raises(
        TypeError, match="'n_embd'; did you mean 'hidden_size'.*; n_layer is num_hid"
    ):
        GPT2Config(n_embd=8, vocab_size=9, n_layer=2)


@pytest.mark.parametrize(
    ("config_class", "changes", "message"),
    [
        (GPT2Config, {"num_attention_heads": 5}, "hidden_size=12 .* num_attention_heads=5"),
        (BartConfig, {"num_attention_heads": 5}, "hidden_size=12 .* num_attention_heads=5"),
        (
            MarianConfig,
            {"num_decoder_attention_heads": 5},
            "hidden_size=12 .* num_decoder_attention_heads=5",
        ),
    ],
)
def test_heads_that_do_not_divide(config_class, changes, message):
    sizes = WITHOUT_MEANING[config_class.__name__][1]
    with pytest.raises(ValueError, match=message):
        config_class(**{**sizes, **changes})


def test_tokens_may_be_absent_where_nothing_needs_them():
    nothing = {"bos_token_id": None, "eos_token_id": None}
    GPT2Config(**GPT2_SIZES | nothing | {"pad_token_id": None})
    BartConfig(**BART_SIZES | nothing | {"decoder_start_token_id": None})
    T5Config(**T5_SIZES | {"eos_token_id": None, "decoder_start_token_id": None})


@every_config
def test_a_config_is_frozen(name):
    config_class, sizes, _ = WITHOUT_MEANING[name]
    with pytest.raises(
        dataclasses.FrozenInstanceError, match=r"cannot assign hidden_size=24.*replace\(config, "
    ):
        config_class(**sizes).hidden_size = 24


@every_config
def test_a_name_that_a_config_lacks_is_an_error_with_the_one_that_it_has(name):
    config_class, sizes, _ = WITHOUT_MEANING[name]
    config = config_class(**sizes)
    for theirs, ours in {**config.known_elsewhere, "hidden_sizes": "hidden_size"}.items():
        if not hasattr(config, theirs):
            with pytest.raises(AttributeError, match=f"field '{theirs}'; did you mean '{ours}'"):
                getattr(config, theirs)
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config


def test_the_config_of_another_family_is_refused():
    with pytest.raises(TypeError, match="GPT2Model needs a GPT2Config, not a BartConfig"):
        GPT2Model(BartConfig(**BART_SIZES))
    # Marian's fields are BART's, but its models are not.
    with pytest.raises(TypeError, match="BartModel needs a BartConfig, not a MarianConfig"):
        BartModel(MarianConfig(**MARIAN_SIZES))


@pytest.mark.parametrize("name", CLASSES)
def test_an_unknown_implementation_is_named(name):
    with pytest.raises(ValueError, match="attention='flash' is unknown; .*eager.*sdpa"):
        new(name, "flash")
    with pytest.raises(ValueError, match=r"attention='packed' .*optimize\(model\)"):
        new(name, "packed")
