"""config.json as transformers 2.0 to 5.23 wrote it for the seven families, with tiny sizes.

The tables are histories: a version's file has the fields of the versions before it, except those
that a later one changed or, with `...`, no longer wrote. They were read off the files that the
configuration classes of these versions write.
"""

from typing import Any

TWO = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "label2id": {"LABEL_0": 0, "LABEL_1": 1}}
THREE = {
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"},
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2},
}

# Of every family. Since 2.9, save_pretrained leaves out the fields that have these values.
SHARED: dict[str, dict[str, Any]] = {
    "2.0": {
        "finetuning_task": None,
        "num_labels": 2,
        "output_attentions": False,
        "output_hidden_states": False,
        "pruned_heads": {},
        "torchscript": False,
        "use_bfloat16": False,
    },
    "2.1": {"output_past": True},
    "2.2": {"is_decoder": False},
    "2.3": TWO,
    "2.4": {
        "bos_token_id": 0,
        "do_sample": False,
        "eos_token_ids": 0,
        "length_penalty": 1.0,
        "max_length": 20,
        "num_beams": 1,
        "num_return_sequences": 1,
        "pad_token_id": 0,
        "repetition_penalty": 1.0,
        "temperature": 1.0,
        "top_k": 50,
        "top_p": 1.0,
    },
    "2.5": {"bos_token_id": None, "eos_token_ids": None, "pad_token_id": None},
    "2.8": {
        "_num_labels": 2,
        "bad_words_ids": None,
        "decoder_start_token_id": None,
        "early_stopping": False,
        "eos_token_id": None,
        "eos_token_ids": ...,
        "is_encoder_decoder": False,
        "min_length": 0,
        "no_repeat_ngram_size": 0,
        "num_labels": ...,
        "prefix": None,
        "task_specific_params": None,
    },
    "2.9": {"_num_labels": ..., "output_past": ..., "use_cache": True, "xla_device": None},
    "3.5": {
        "_name_or_path": "",
        "add_cross_attention": False,
        "chunk_size_feed_forward": 0,
        "return_dict": False,
        "sep_token_id": None,
        "tie_encoder_decoder": False,
        "tie_word_embeddings": True,
        "tokenizer_class": None,
    },
    "4.0": {"return_dict": True},
    "4.12": {
        "cross_attention_hidden_size": None,
        "diversity_penalty": 0.0,
        "encoder_no_repeat_ngram_size": 0,
        "forced_bos_token_id": None,
        "forced_eos_token_id": None,
        "num_beam_groups": 1,
        "output_scores": False,
        "problem_type": None,
        "remove_invalid_values": False,
        "return_dict_in_generate": False,
        "torch_dtype": "float32",
        "transformers_version": "4.12.5",
        "xla_device": ...,
    },
    "4.24": {
        "begin_suppress_tokens": None,
        "exponential_decay_length_penalty": None,
        "suppress_tokens": None,
        "tf_legacy_loss": False,
        "transformers_version": "4.24.0",
        "typical_p": 1.0,
    },
    "4.46": {"_attn_implementation_autoset": False, "transformers_version": "4.46.3"},
    "4.57": {
        "_attn_implementation_autoset": ...,
        "dtype": "float32",
        "torch_dtype": ...,
        "transformers_version": "4.57.1",
    },
    "5.0": {
        "add_cross_attention": ...,
        "bad_words_ids": ...,
        "begin_suppress_tokens": ...,
        "bos_token_id": ...,
        "cross_attention_hidden_size": ...,
        "decoder_start_token_id": ...,
        "diversity_penalty": ...,
        "do_sample": ...,
        "early_stopping": ...,
        "encoder_no_repeat_ngram_size": ...,
        "exponential_decay_length_penalty": ...,
        "finetuning_task": ...,
        "forced_bos_token_id": ...,
        "forced_eos_token_id": ...,
        "is_decoder": ...,
        "length_penalty": ...,
        "max_length": ...,
        "min_length": ...,
        "no_repeat_ngram_size": ...,
        "num_beam_groups": ...,
        "num_beams": ...,
        "num_return_sequences": ...,
        "output_scores": ...,
        "prefix": ...,
        "pruned_heads": ...,
        "remove_invalid_values": ...,
        "repetition_penalty": ...,
        "return_dict_in_generate": ...,
        "sep_token_id": ...,
        "suppress_tokens": ...,
        "task_specific_params": ...,
        "temperature": ...,
        "tf_legacy_loss": ...,
        "tie_encoder_decoder": ...,
        "tokenizer_class": ...,
        "top_k": ...,
        "top_p": ...,
        "torchscript": ...,
        "transformers_version": "5.0.0",
        "typical_p": ...,
        "use_bfloat16": ...,
        "use_cache": ...,
    },
    "5.23": {"transformers_version": "5.23.0"},
}

BERT = {
    "2.0": {
        "attention_probs_dropout_prob": 0.1,
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.1,
        "hidden_size": 12,
        "initializer_range": 0.02,
        "intermediate_size": 17,
        "layer_norm_eps": 1e-12,
        "max_position_embeddings": 24,
        "num_attention_heads": 3,
        "num_hidden_layers": 2,
        "type_vocab_size": 2,
        "vocab_size": 31,
    },
    "2.4": {"model_type": "bert"},
    "2.8": {"pad_token_id": 0},
    "3.0": {"gradient_checkpointing": False},
    "4.12": {
        "classifier_dropout": None,
        "gradient_checkpointing": ...,
        "position_embedding_type": "absolute",
        "use_cache": True,
    },
    "5.0": {
        "add_cross_attention": False,
        "bos_token_id": None,
        "eos_token_id": None,
        "is_decoder": False,
        "position_embedding_type": ...,
    },
}
BART_TOKENS = {"bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1}
BART = {
    "2.5": {
        "activation_dropout": 0.0,
        "attention_dropout": 0.0,
        "classif_dropout": 0.0,
        "d_model": 12,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 19,
        "decoder_layerdrop": 0.0,
        "decoder_layers": 3,
        "dropout": 0.1,
        "encoder_attention_heads": 3,
        "encoder_ffn_dim": 17,
        "encoder_layerdrop": 0.0,
        "encoder_layers": 2,
        "eos_token_id": 2,
        "init_std": 0.02,
        "max_position_embeddings": 24,
        "model_type": "bart",
        "num_hidden_layers": 2,
        "num_labels": 3,
        "output_past": False,
        "pad_token_id": 1,
        "vocab_size": 31,
        **THREE,
    },
    "2.8": {
        **BART_TOKENS,
        "_num_labels": 3,
        "activation_function": "gelu",
        "is_encoder_decoder": True,
        "num_labels": ...,
    },
    "2.9": {
        "_num_labels": ...,
        "add_bias_logits": False,
        "add_final_layer_norm": False,
        "normalize_before": False,
        "normalize_embedding": True,
        "output_past": ...,
        "scale_embedding": False,
        "static_position_embeddings": False,
    },
    "3.0": {"extra_pos_embeddings": 2},
    "3.5": {
        "classif_dropout": ...,
        "classifier_dropout": 0.0,
        "do_blenderbot_90_layernorm": False,
        "force_bos_token_to_be_generated": False,
    },
    "4.0": {"use_cache": True},
    "4.12": {
        "add_bias_logits": ...,
        "add_final_layer_norm": ...,
        "decoder_start_token_id": 2,
        "do_blenderbot_90_layernorm": ...,
        "extra_pos_embeddings": ...,
        "force_bos_token_to_be_generated": ...,
        "forced_eos_token_id": 2,
        "normalize_before": ...,
        "normalize_embedding": ...,
        "static_position_embeddings": ...,
    },
    "5.0": {"forced_eos_token_id": ..., "is_decoder": False},
    "5.23": {"forced_eos_token_id": 2, "num_hidden_layers": ...},
}
T5 = {
    "2.3": {
        "d_ff": 17,
        "d_kv": 5,
        "d_model": 12,
        "dropout_rate": 0.1,
        "initializer_factor": 1.0,
        "layer_norm_epsilon": 1e-06,
        "n_positions": 512,
        "num_heads": 3,
        "num_layers": 2,
        "relative_attention_num_buckets": 6,
        "vocab_size": 31,
    },
    "2.4": {"model_type": "t5"},
    "2.8": {"eos_token_id": 1, "is_encoder_decoder": True, "pad_token_id": 0},
    "3.5": {"num_decoder_layers": 2},
    "4.0": {"feed_forward_proj": "relu", "n_positions": ..., "use_cache": True},
    "4.24": {
        "dense_act_fn": "relu",
        "is_gated_act": False,
        "relative_attention_max_distance": 128,
    },
    "4.46": {"classifier_dropout": 0.0},
    "5.0": {"is_decoder": False, "scale_decoder_outputs": True, "tie_word_embeddings": True},
}
# Each family's history, and the class whose checkpoint the file belongs to.
HISTORIES: dict[str, tuple[str, dict[str, dict[str, Any]]]] = {
    "bert": ("BertForMaskedLM", BERT),
    "roberta": (
        "RobertaForSequenceClassification",
        {
            **BERT,
            "2.4": {"model_type": "roberta"},
            "2.8": BART_TOKENS,
            "5.0": BERT["5.0"] | BART_TOKENS,
        },
    ),
    "distilbert": (
        "DistilBertForSequenceClassification",
        {
            "2.0": {
                "activation": "gelu",
                "attention_dropout": 0.1,
                "dim": 12,
                "dropout": 0.1,
                "hidden_dim": 17,
                "initializer_range": 0.02,
                "max_position_embeddings": 24,
                "n_heads": 3,
                "n_layers": 2,
                "qa_dropout": 0.1,
                "seq_classif_dropout": 0.2,
                "sinusoidal_pos_embds": False,
                "tie_weights_": True,
                "vocab_size": 31,
            },
            "2.4": {"model_type": "distilbert"},
            "2.5": {"tie_weights_": ...},
            "2.8": {"pad_token_id": 0},
            "5.0": {"bos_token_id": None, "eos_token_id": None},
        },
    ),
    "gpt2": (
        "GPT2LMHeadModel",
        {
            "2.0": {
                "attn_pdrop": 0.1,
                "embd_pdrop": 0.1,
                "initializer_range": 0.02,
                "layer_norm_epsilon": 1e-05,
                "n_ctx": 24,
                "n_embd": 12,
                "n_head": 3,
                "n_layer": 2,
                "n_positions": 24,
                "num_labels": 1,
                "resid_pdrop": 0.1,
                "summary_activation": None,
                "summary_first_dropout": 0.1,
                "summary_proj_to_labels": True,
                "summary_type": "cls_index",
                "summary_use_proj": True,
                "vocab_size": 31,
            },
            "2.3": {"num_labels": 2},
            "2.4": {"model_type": "gpt2"},
            "2.8": {
                "activation_function": "gelu_new",
                "bos_token_id": 30,
                "eos_token_id": 30,
                "num_labels": ...,
            },
            "3.5": {"gradient_checkpointing": False, "n_inner": None},
            "4.0": {"use_cache": True},
            "4.12": {
                "gradient_checkpointing": ...,
                "reorder_and_upcast_attn": False,
                "scale_attn_by_inverse_layer_idx": False,
                "scale_attn_weights": True,
            },
            "4.24": {"n_ctx": ...},
            "5.0": {"add_cross_attention": False, "pad_token_id": None},
        },
    ),
    "bart": ("BartForConditionalGeneration", BART),
    "marian": (
        "MarianMTModel",
        {
            "2.9": {
                **BART["2.5"],
                **BART["2.8"],
                **BART["2.9"],
                "activation_function": "swish",
                "bad_words_ids": [[30]],
                "decoder_start_token_id": 30,
                "eos_token_id": 0,
                "max_length": 512,
                "model_type": "marian",
                "normalize_embedding": False,
                "num_beams": 6,
                "pad_token_id": 30,
                "scale_embedding": True,
                "static_position_embeddings": True,
            },
            "3.0": BART["3.0"],
            "3.5": BART["3.5"],
            "4.0": BART["4.0"],
            "4.12": BART["4.12"] | {"decoder_start_token_id": 30, "forced_eos_token_id": 0} | TWO,
            "4.24": {"decoder_vocab_size": 31, "share_encoder_decoder_embeddings": True},
            "4.57": {"classifier_dropout": ...},
            "5.0": BART["5.0"] | {"bad_words_ids": ..., "max_length": ..., "num_beams": ...},
            "5.23": BART["5.23"] | {"forced_eos_token_id": 0},
        },
    ),
    "t5": ("T5ForConditionalGeneration", T5),
    "t5 1.1": (
        "T5ForConditionalGeneration 1.1",
        {
            "4.0": {
                **T5["2.3"],
                **T5["2.4"],
                **T5["2.8"],
                **T5["3.5"],
                **T5["4.0"],
                "feed_forward_proj": "gated-gelu",
                "tie_word_embeddings": False,
            },
            "4.24": T5["4.24"] | {"dense_act_fn": "gelu_new", "is_gated_act": True},
            "4.46": T5["4.46"],
            "5.0": T5["5.0"] | {"scale_decoder_outputs": False},
        },
    ),
}


def number(version: str) -> tuple[int, ...]:
    """ "4.12" to (4, 12), which is later than (4, 9)."""
    return tuple(map(int, version.split(".")))


def content(family: str, version: str, *, whole: bool = True) -> dict[str, Any]:
    """The config.json of a version, with the fields of every family or without them."""
    name, history = HISTORIES[family]
    fields: dict[str, Any] = {}
    for changes in [SHARED, history] if whole else [history]:
        own: dict[str, Any] = {}
        for written, values in changes.items():
            if number(written) <= number(version):
                own |= values
        fields |= own
    if number(version) >= (2, 4):
        fields["architectures"] = [name.removesuffix(" 1.1")]
    return {field: value for field, value in fields.items() if value is not ...}


def versions(family: str) -> list[str]:
    """The versions in which a family was there."""
    first = number(next(iter(HISTORIES[family][1])))
    return [version for version in SHARED if number(version) >= first]
