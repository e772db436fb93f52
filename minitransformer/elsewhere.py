"""What a user of Hugging Face types, and what to type here.

Names that mean the same here simply work. The others are in these tables, so that the first mistake
is one error that says what to type. docs/coming_from_huggingface.md shows the usual ones.
"""

from collections.abc import Collection, Mapping
from typing import Any

from minitransformer.names import nearest, shortened

# An argument, the values with which it changes nothing here, and what to type for others.
Arguments = Mapping[str, tuple[Collection[Any], str]]
_EITHER = (True, False, None)
_OFF = (False, None)

IN_THE_CALL = "ask for them in each call, model(..., {}=True), and read output.{}"
ONE_DEVICE = "a model is on one device; pass device='cuda' or device='cpu'"
CHECKPOINTING = (
    "gradient checkpointing belongs to the training loop: TrainingConfig(gradient_checkpointing="
    "True), or the option --gradient-checkpointing of a job"
)
_CONVERT = "convert it once: load it in transformers, of version 4, and save it there"
TO_TUPLE = "an output is an object with names and places; for a tuple, call output.to_tuple()"

# Of from_pretrained and of a config.
LOADING: Arguments = {
    "output_attentions": (_OFF, IN_THE_CALL.format("output_attentions", "attentions")),
    "output_hidden_states": (_OFF, IN_THE_CALL.format("output_hidden_states", "hidden_states")),
    "return_dict": ((True, None), TO_TUPLE),
    "use_cache": (_EITHER, ""),  # generate takes it
    "low_cpu_mem_usage": (_EITHER, ""),  # always so
    "ignore_mismatched_sizes": (_EITHER, ""),  # a head of another size is new, with a warning
    "add_pooling_layer": ((True, None), "load the model, then set model.pooler = None"),
    "use_safetensors": ((True, None), "only safetensors are read; leave it out"),
    "trust_remote_code": (_OFF, "no code of a checkpoint is ever run; leave it out"),
    "from_tf": (_OFF, _CONVERT),
    "from_flax": (_OFF, _CONVERT),
    "device_map": ((None,), ONE_DEVICE),
    "max_memory": ((None,), ONE_DEVICE),
    "offload_folder": ((None,), ONE_DEVICE),
    "gradient_checkpointing": (_OFF, CHECKPOINTING),
    "quantization_config": (
        (None,),
        "load the model, then torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear})",
    ),
    "load_in_8bit": (_OFF, "load the model with dtype=torch.bfloat16, or quantize it afterwards"),
    "load_in_4bit": (_OFF, "load the model with dtype=torch.bfloat16, or quantize it afterwards"),
    "local_files_only": (_OFF, "set HF_HUB_OFFLINE=1 in the environment, or give a directory"),
    "cache_dir": ((None,), "set HF_HOME in the environment"),
    "force_download": (_OFF, "remove it from the hub's cache, in a shell: hf cache rm"),
    "token": (_OFF, "log in once, hf auth login, or set HF_TOKEN in the environment"),
    "use_auth_token": (_OFF, "log in once, hf auth login, or set HF_TOKEN in the environment"),
    "subfolder": ((None, ""), "download the folder, and give its path"),
    "variant": ((None,), "there is one model.safetensors a directory; its dtype is dtype="),
    "state_dict": ((None,), "load the model, then model.load_state_dict(...)"),
}

_A_CACHE = "give a cache, cache=model.new_cache(), which the call fills: docs/generation.md"
_FROM_MASK = "positions are counted from attention_mask; pass the mask, and leave {} out"
_EMBEDDED = "models take token ids; to change what they read, call model.backbone's parts yourself"

# Of a model's forward.
FORWARD: Arguments = {
    "return_dict": (_EITHER, ""),
    "use_cache": (_OFF, _A_CACHE),
    "past_key_values": ((None,), _A_CACHE),
    "cache_position": ((None,), _A_CACHE),
    "position_ids": ((None,), _FROM_MASK.format("position_ids")),
    "decoder_position_ids": ((None,), _FROM_MASK.format("decoder_position_ids")),
    "inputs_embeds": ((None,), _EMBEDDED),
    "decoder_inputs_embeds": ((None,), _EMBEDDED),
    "head_mask": (
        (None,),
        "heads are not masked; set the columns of a head in its attention's output.weight to 0",
    ),
    "encoder_outputs": (
        (None,),
        "encode once with encoded = model.encode(input_ids, attention_mask), then "
        "model.next_token_logits(decoder_input_ids, encoded)",
    ),
    "num_items_in_batch": ((None,), "use model.loss_sum(...), a sum and a number of labels"),
    "masked_lm_labels": ((), "pass labels="),
    "lm_labels": ((), "pass labels="),
}

# Of generate.
GENERATION: Arguments = {
    "output_attentions": (
        _OFF,
        "run the model over the finished text: model(output.sequences, output_attentions=True)",
    ),
    "output_hidden_states": (
        _OFF,
        "run the model over the finished text: model(output.sequences, output_hidden_states=True)",
    ),
    "output_scores": (_OFF, "with beams, the scores of sequences are output.sequences_scores"),
    "output_logits": (_OFF, "run the model over the finished text: model(sequences).logits"),
    "synced_gpus": (_OFF, "each process generates by itself; leave it out"),
    "logits_processor": ((None, []), "the fields of GenerationConfig are the processors there are"),
    "stopping_criteria": (
        (None, []),
        "pass stop_strings=..., eos_token_id=... or max_new_tokens=...",
    ),
    "assistant_model": ((None,), "speculative decoding is not supported; leave it out"),
    "encoder_outputs": ((None,), "pass input_ids, the source"),
    "inputs_embeds": ((None,), "pass input_ids"),
    "decoder_attention_mask": (
        (None,),
        "target prefixes of one call have one length; leave it out",
    ),
    "past_key_values": ((None,), "pass the whole text so far as input_ids"),
    "cache_implementation": ((None, "dynamic"), "optimize(model) chooses the cache; leave it out"),
}

_WHOLE_WORDS = (
    "whole words are masked by minitransformer train mlm --whole-words, and by "
    "train.masking.MaskedBatches(..., whole_words=True)"
)
_SHARES = "of the chosen tokens 80% become the mask token and 10% another one, as in BERT's paper"

# Of a collator.
COLLATING: Arguments = {
    "return_tensors": (("pt", None), "batches are PyTorch's; leave it out"),
    "tf_experimental_compile": (_OFF, "batches are PyTorch's; leave it out"),
    "whole_word_mask": (_OFF, _WHOLE_WORDS),
    "mask_replace_prob": ((0.8,), _SHARES),
    "random_replace_prob": ((0.1,), _SHARES),
    "seed": ((None,), "masks are drawn from PyTorch's generator; call torch.manual_seed(...)"),
}

# Of a tokenizer's call, and of its decode and pad.
TOKENIZING: Arguments = {
    "verbose": (_EITHER, ""),
    "use_source_tokenizer": (_OFF, "a target's ids need no other decoder; leave it out"),
    "spaces_between_special_tokens": (_EITHER, ""),  # fast tokenizers have no such setting
    "split_special_tokens": (_OFF, "special tokens in a text are always one token; leave it out"),
    "pad_to_max_length": (_OFF, "pass padding='max_length'"),
    "truncation_strategy": ((None,), "pass truncation=..."),
    "is_pretokenized": (_OFF, "pass is_split_into_words=True"),
    "add_prefix_space": ((None,), "Tokenizer.from_pretrained(path, add_prefix_space=True)"),
    "text_pair_target": ((None,), "a target is one text: pass text_target=..."),
    "texts": ((), "pass text=..."),
    "text_pairs": ((), "pass text_pair=..."),
}

# Of Tokenizer.train, where courses train a tokenizer of the `tokenizers` library.
TRAINING_TOKENIZERS: Arguments = {
    "special_tokens": (
        (None,),
        "the special tokens are those of RoBERTa or BERT; leave it out, and for more of them call "
        "tokenizer.add_tokens([...], special_tokens=True) afterwards",
    ),
    "iterator": ((), "pass texts=..."),
    "text_iterator": ((), "pass texts=..."),
    "length": ((), "texts are counted as they come; leave it out"),
    "trainer": ((), "pass algorithm='bpe', 'wordpiece' or 'unigram'"),
    "limit_alphabet": ((), "every character is kept; leave it out"),
    "initial_alphabet": ((), "'bpe' begins with all bytes; leave it out"),
}

# Attributes and methods of a tokenizer, and what to type instead.
TOKENIZER: Mapping[str, str] = {
    "added_tokens_decoder": "tokenizer.get_added_vocab(), token to id",
    "added_tokens_encoder": "tokenizer.get_added_vocab()",
    "additional_special_tokens": "tokenizer.all_special_tokens",
    "apply_chat_template": "plain text: none of the models here is a chat model",
    "as_target_tokenizer": "tokenizer(texts, text_target=targets), which adds labels",
    "backend_tokenizer": "tokenizer.backend",
    "_tokenizer": "tokenizer.backend",
    "build_inputs_with_special_tokens": "tokenizer(text, text_pair), which adds them",
    "create_token_type_ids_from_sequences": "tokenizer(text, text_pair)['token_type_ids']",
    "extra_special_tokens": "tokenizer.all_special_tokens",
    "max_len": "model_max_length",
    "max_len_sentences_pair": "model_max_length - num_special_tokens_to_add(pair=True)",
    "max_len_single_sentence": "model_max_length - num_special_tokens_to_add()",
    "do_lower_case": "tokenizer.backend.normalizer; to set it: from_pretrained(path, "
    "do_lower_case=...)",
    "prepare_for_model": "tokenizer(text), with the text instead of its ids",
    "prepare_seq2seq_batch": "tokenizer(texts, text_target=targets, padding=True)",
    "push_to_hub": "save_pretrained(directory), and `hf upload` from the command line",
    "sanitize_special_tokens": "add_tokens or add_special_tokens, which add what is missing",
    "save_vocabulary": "save_pretrained(directory)",
    "train_from_iterator": "Tokenizer.train(texts=texts, vocab_size=...)",
    "train_new_from_iterator": "Tokenizer.train(texts=texts, vocab_size=...)",
}

# Attributes and methods of a model, and what to type instead.
METHODS: Mapping[str, str] = {
    "generate": "it does not generate texts; a GPT2LMHeadModel, a BartForConditionalGeneration, a "
    "MarianMTModel and a T5ForConditionalGeneration do; for masked tokens: pipeline('fill-mask')",
    "gradient_checkpointing_enable": CHECKPOINTING,
    "gradient_checkpointing_disable": CHECKPOINTING,
    "enable_input_require_grads": "call model.get_input_embeddings().requires_grad_(True)",
    "push_to_hub": "save it, model.save_pretrained(path), then in a shell: hf upload NAME path",
    "prune_heads": "heads are not pruned; load fewer layers with num_hidden_layers=...",
    "get_output_embeddings": "the head is model.lm_head, or, tied, model.get_input_embeddings()",
    "set_input_embeddings": "change its weight, or call model.resize_token_embeddings(...)",
    "tie_weights": "tie_word_embeddings of the config says whether weights are tied; leave it out",
    "encoder": "an encoder's layers are model.base_model.layers; the two stacks of an encoder-"
    "decoder are model.backbone.encoder and model.backbone.decoder",
    "decoder": "it is model.backbone.decoder",
    "shared": "it is model.get_input_embeddings()",
    "wte": "it is model.get_input_embeddings()",
    "h": "its layers are model.base_model.layers",
    "cls": "it is model.lm_head",
    "num_labels": "it is model.config.num_labels",
    "prepare_decoder_input_ids_from_labels": "give labels=, from which the model makes them",
    "get_encoder": "the encoder is model.backbone.encoder",
    "get_decoder": "the decoder is model.backbone.decoder",
    "add_adapter": "adapters are not supported; freeze parts with --freeze instead",
    "to_bettertransformer": "call minitransformer.optimize(model)",
    "set_attn_implementation": "load or build the model with attention='eager' or 'sdpa'",
}

_LOOP = "write the loop with train.train(model, data, train.TrainingConfig(...)), or run a job"
_SCHEDULE = (
    "set TrainingConfig(schedule={0!r}, warmup=...), or --schedule {0} of a job; in a loop of your "
    "own, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: "
    "train.SCHEDULES[{0!r}](step, total_steps, warmup_steps))"
)
_DATA = "read the text with torch.utils.data, or give the file to a job: minitransformer train mlm"
_BYTE_LEVEL = "Tokenizer.train(files), then save_pretrained(path)"

# Names that are imported from transformers (and from the packages that courses use with it).
NAMES: Mapping[str, str] = {
    "Trainer": _LOOP,
    "Seq2SeqTrainer": _LOOP,
    "TrainingArguments": "use train.TrainingConfig(...), or the options of a job",
    "Seq2SeqTrainingArguments": "use train.TrainingConfig(...), or the options of a job",
    "TrainerCallback": "pass functions: train.train(..., callbacks=[...])",
    "EarlyStoppingCallback": "set TrainingConfig(patience=...), or --patience of a job",
    "EvalPrediction": "pass train.Evaluator(model, data, config, compute_metrics) to train.train",
    "AdamW": "use torch.optim.AdamW, or TrainingConfig, with which train.train makes it",
    "Adafactor": "use torch.optim.Adafactor",
    "get_scheduler": _SCHEDULE.format("linear"),
    "get_linear_schedule_with_warmup": _SCHEDULE.format("linear"),
    "get_cosine_schedule_with_warmup": _SCHEDULE.format("cosine"),
    "get_constant_schedule": _SCHEDULE.format("constant"),
    "get_constant_schedule_with_warmup": _SCHEDULE.format("constant"),
    "get_inverse_sqrt_schedule": _SCHEDULE.format("inverse-sqrt"),
    **{
        name: f"from train import {name}"
        for name in (
            "DataCollatorWithPadding",
            "DataCollatorForLanguageModeling",
            "DataCollatorForTokenClassification",
            "DataCollatorForSeq2Seq",
            "default_data_collator",
        )
    },
    "DataCollatorForWholeWordMask": _WHOLE_WORDS,
    "DefaultDataCollator": "from train import default_data_collator",
    "LineByLineTextDataset": _DATA,
    "TextDataset": _DATA,
    "load_dataset": _DATA,
    "Dataset": _DATA,
    "ByteLevelBPETokenizer": _BYTE_LEVEL,
    "BertWordPieceTokenizer": "Tokenizer.train(files, algorithm='wordpiece'), then save_pretrained",
    "TextStreamer": "use for text in minitransformer.stream(model, tokenizer, ...)",
    "TextIteratorStreamer": "use for text in minitransformer.stream(model, tokenizer, ...)",
    "PreTrainedModel": "a model here is a minitransformer.models.base.Model",
    "PretrainedConfig": "a config here is a minitransformer.models.config.Config",
    "PreTrainedTokenizerBase": "from minitransformer import Tokenizer",
    "AutoModelWithLMHead": "use AutoModelForMaskedLM, ...CausalLM or ...Seq2SeqLM",
    "AutoModelForPreTraining": "use AutoModelForMaskedLM or AutoModelForCausalLM",
    "BitsAndBytesConfig": LOADING["quantization_config"][1],
    "EncoderDecoderModel": "use a BartForConditionalGeneration, made from a config",
    "logging": "messages are warnings: warnings.filterwarnings('ignore', category=UserWarning)",
}


def without(arguments: Mapping[str, Any], table: Arguments) -> dict[str, Any]:
    """The arguments without those of the table whose values change nothing here.

    Raises:
        TypeError: another value was given to one; the message says what to type instead.
    """
    kept = {}
    for name, value in arguments.items():
        if name not in table:
            kept[name] = value
            continue
        harmless, instead = table[name]
        if not any(type(value) is type(known) and value == known for known in harmless):
            raise TypeError(f"{name}={shortened(value)} is not an argument here: {instead}")
    return kept


def advice(name: str, public: Collection[str]) -> str | None:
    """What to import instead of a name that the package does not have; None if that is unknown.

    Args:
        name: that is not there.
        public: the names that are.
    """
    if name in NAMES:
        return NAMES[name]
    if (bare := name.removeprefix("TF").removeprefix("Flax")) != name and bare in public:
        return f"models are PyTorch's; use {bare}"
    near = nearest(name, [*public, *NAMES], cutoff=0.85)
    # What begins otherwise is no misspelling, but of another family, as AlbertModel is.
    if near is not None and near[:2].lower() == name[:2].lower():
        return f"did you mean {near}?" + (f" {NAMES[near]}" if near in NAMES else "")
    if not name[0].isupper():
        return None
    known = [public_name.removesuffix("Config") for public_name in public]
    families = [family for family in known if f"{family}Model" in public and family != "Auto"]
    for family in families:
        if name.startswith(family):
            classes = sorted(
                public_name for public_name in public if public_name.startswith(family)
            )
            return f"it is not supported; of {family} there are {', '.join(classes)}"
    return f"it is not supported; the families are {', '.join(sorted(families))}"
