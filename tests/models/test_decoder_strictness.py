"""What decoders would be let through silently elsewhere is one clear error here."""

from typing import Any

import pytest
import torch

from minitransformer import KVCache
from minitransformer.models.base import Encoded
from tests.tiny import (
    CLASSIFIERS,
    DECODER_CLASSES,
    LANGUAGE_MODELS,
    SEQ2SEQ,
    SEQ2SEQ_LMS,
    backbone_of,
    build,
    new,
    random_ids,
    random_sequences,
)

both_variants = pytest.mark.parametrize("variant", ["sdpa", "optimized"])
every_encoder_decoder = pytest.mark.parametrize("name", SEQ2SEQ)
every_seq2seq_lm = pytest.mark.parametrize("name", SEQ2SEQ_LMS)


# --- Arguments


def inputs_of(name: str, ids: Any = None, **changes: Any) -> dict[str, Any]:
    """What a class needs; for an encoder-decoder `ids` are what the decoder reads."""
    ids = random_sequences(2, 3) if ids is None else ids
    if name in SEQ2SEQ:
        return {"input_ids": random_sequences(2, 4), "decoder_input_ids": ids, **changes}
    if name == "BartForSequenceClassification" and isinstance(ids, torch.Tensor) and ids.dim() == 2:
        ids = torch.cat([ids, torch.full_like(ids[:, :1], 2)], dim=1)
    return {"input_ids": ids, **changes}


@both_variants
@pytest.mark.parametrize("name", DECODER_CLASSES)
def test_a_misspelled_argument_gets_the_right_name(name, variant):
    model: Any = build(name, variant)
    inputs = inputs_of(name, atention_mask=None)
    for method in (model, getattr(model, "loss_sum", None), getattr(model, "loss", None)):
        if method is not None:
            labels = {} if method is model else {"labels": random_sequences(2, 3)}
            with pytest.raises(TypeError, match="'atention_mask'; did you mean 'attention_mask'"):
                method(**inputs, **labels)
    for argument in ("past_key_values", "inputs_embeds", "use_cache"):
        with pytest.raises(TypeError, match=f"{argument}=True is not an argument here"):
            model(**inputs_of(name, **{argument: True}))


@both_variants
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_misspelled_argument_of_the_steps_gets_the_right_name(name, variant):
    model: Any = build(name, variant)
    encoded = () if name not in SEQ2SEQ else (model.encode(random_sequences(2, 4)),)
    mask = "decoder_attention_mask" if encoded else "attention_mask"
    with pytest.raises(TypeError, match=f"'{mask[:-1]}'; did you mean '{mask}'"):
        model.next_token_logits(random_sequences(2, 3), *encoded, **{mask[:-1]: None})
    with pytest.raises(TypeError, match="'cach'; did you mean 'cache'"):
        model.next_token_logits(random_sequences(2, 3), *encoded, cach=None)
    if encoded:
        with pytest.raises(TypeError, match="'atention_mask'; did you mean 'attention_mask'"):
            model.encode(random_sequences(2, 4), atention_mask=None)


WRONG_IDS = [
    (torch.tensor([5, 6]), r"has shape \(2,\).*{name}\[None\]"),
    (torch.zeros(1, 2, 3, dtype=torch.int64), r"has shape \(1, 2, 3\)"),
    (torch.tensor([[5.0], [6.0]]), "has dtype torch.float32"),
    (torch.empty(2, 0, dtype=torch.int64), r"has shape \(2, 0\): there is no token"),
    (torch.tensor([[5, 31], [5, 6]]), r"holds 31; the ids go from 0 to 30 \(vocab_size\)"),
    (torch.tensor([[-1, 5], [5, 6]]), "holds -1"),
]


@both_variants
@pytest.mark.parametrize("name", DECODER_CLASSES)
@pytest.mark.parametrize(("ids", "message"), WRONG_IDS)
def test_bad_ids(name, variant, ids, message):
    model = build(name, variant)
    for field in ("input_ids", "decoder_input_ids"):
        if field in inputs_of(name):
            with pytest.raises(ValueError, match=f"^{field} {message.format(name=field)}"):
                model(**inputs_of(name) | {field: ids})
            with pytest.raises(TypeError, match=f"^{field} is a list"):
                model(**inputs_of(name) | {field: [[5, 6]]})


@every_seq2seq_lm
@pytest.mark.parametrize(("ids", "message"), WRONG_IDS)
def test_bad_ids_of_the_decoder_are_named_beside_labels_and_in_steps(name, ids, message):
    model: Any = build(name)
    message = f"decoder_input_ids {message.format(name='decoder_input_ids')}"
    with pytest.raises(ValueError, match=f"^{message}"):
        model.next_token_logits(ids, model.encode(random_sequences(1, 4)))
    if ids.dim() != 2:
        with pytest.raises(ValueError, match=f"^{message}"):
            model(random_sequences(2, 4), decoder_input_ids=ids, labels=random_sequences(2, 3))


WRONG_MASKS = [
    (torch.ones(2, 3), "has dtype torch.float32.*mask == 0"),
    (torch.ones(2, 4, dtype=torch.int64), r"has shape \(2, 4\).*shape of {ids} .*\(2, 3\)"),
    (torch.ones(1, 3, dtype=torch.int64), r"has shape \(1, 3\).*shape of {ids} "),
    (torch.ones(3, dtype=torch.int64), r"has shape \(3,\)"),
    (torch.tensor([[1, 1, 2]] * 2), "holds 2; only 1"),
    (torch.tensor([[0, 0, -10000]] * 2), "holds -10000"),
]


@both_variants
@pytest.mark.parametrize("name", DECODER_CLASSES)
@pytest.mark.parametrize(("mask", "message"), WRONG_MASKS)
def test_bad_masks(name, variant, mask, message):
    model = build(name, variant)
    ids = torch.tensor([[5, 6, 2], [7, 8, 2]])
    with pytest.raises(ValueError, match=f"^attention_mask {message.format(ids='input_ids')}"):
        model(**inputs_of(name) | {"input_ids": ids, "attention_mask": mask})
    if name in SEQ2SEQ:
        message = f"^decoder_attention_mask {message.format(ids='decoder_input_ids')}"
        with pytest.raises(ValueError, match=message):
            model(**inputs_of(name, ids, decoder_attention_mask=mask))
        with pytest.raises(TypeError, match="^decoder_attention_mask is a list"):
            model(**inputs_of(name, ids, decoder_attention_mask=[[1, 1, 1]]))


@both_variants
@pytest.mark.parametrize("name", DECODER_CLASSES)
def test_a_bool_mask_is_as_good_as_an_integer_one(name, variant):
    model = build(name, variant)
    ids = torch.tensor([[5, 6, 2], [7, 8, 2]])
    mask = torch.tensor([[0, 1, 1], [1, 1, 1]])
    inputs = inputs_of(name) | {"input_ids": ids}
    if name in SEQ2SEQ:
        inputs |= {"decoder_input_ids": ids, "decoder_attention_mask": mask}
    outcomes = []
    for attention_mask in (mask, mask.bool(), mask.to(torch.uint8)):
        named = {k: attention_mask if k.endswith("mask") else v for k, v in inputs.items()}
        output = model(**named, attention_mask=attention_mask)
        outcomes.append(getattr(output, "logits", getattr(output, "last_hidden_state", None)))
    assert torch.equal(outcomes[0], outcomes[1])
    assert torch.equal(outcomes[0], outcomes[2])


@pytest.mark.parametrize("name", [*SEQ2SEQ, "BartForSequenceClassification"])
def test_padding_in_the_source_without_a_mask(name):
    model: Any = build(name)
    padding = model.config.pad_token_id
    ids = torch.tensor([[5, 6, 2], [7, padding, 2]])
    with pytest.raises(
        ValueError, match=f"input_ids holds the padding id {padding} .*!= {padding}"
    ):
        model(**inputs_of(name) | {"input_ids": ids})
    # The decoder may begin with it.
    if name in SEQ2SEQ:
        model(**inputs_of(name, torch.full((2, 1), padding)))


def test_padding_in_gpt2_without_a_mask():
    build("GPT2LMHeadModel")(torch.tensor([[0, 5]]))  # it has no padding token
    model: Any = new("GPT2LMHeadModel", pad_token_id=0)
    with pytest.raises(ValueError, match="padding id 0 .*attention_mask"):
        model(torch.tensor([[0, 5]]))
    with torch.no_grad():
        with pytest.raises(ValueError, match="padding id 0 .*attention_mask"):
            model(torch.tensor([[0, 5]]), cache=model.new_cache())  # a prompt as well
        cache = model.new_cache()  # what was generated last may be any token
        model.next_token_logits(torch.tensor([[5]]), cache=cache)
        model.next_token_logits(torch.tensor([[0]]), cache=cache)


# --- Lengths


@torch.no_grad()
def test_a_sequence_too_long_for_gpt2_with_and_without_a_cache():
    model: Any = build("GPT2LMHeadModel")
    with pytest.raises(ValueError, match=r"^input_ids has 25 tokens per sequence.* 24 fit .*=24"):
        model(random_sequences(1, 25))
    cache = model.new_cache()
    model(random_sequences(1, 20), cache=cache)
    model(random_sequences(1, 4), cache=cache)
    with pytest.raises(ValueError, match=r"has 25 tokens per sequence, but 24 fit"):
        model(random_sequences(1, 1), cache=cache)


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "MarianMTModel"])
@torch.no_grad()
def test_a_sequence_too_long_for_either_stack_with_and_without_a_cache(name):
    model: Any = build(name)
    with pytest.raises(ValueError, match=r"^input_ids has 25 tokens per sequence, but 24 fit"):
        model(random_sequences(1, 25), decoder_input_ids=random_sequences(1, 2))
    with pytest.raises(ValueError, match=r"^decoder_input_ids has 25 tokens per sequence.* 24 fit"):
        model(random_sequences(1, 2), decoder_input_ids=random_sequences(1, 25))
    with pytest.raises(ValueError, match=r"25 tokens per sequence, but 24 fit"):
        model(random_sequences(1, 2), labels=random_sequences(1, 25))
    encoded, cache = model.encode(random_sequences(1, 2)), model.new_cache()
    model.next_token_logits(random_sequences(1, 24), encoded, cache=cache)
    with pytest.raises(ValueError, match=r"^decoder_input_ids has 25 tokens per sequence.* 24 fit"):
        model.next_token_logits(random_sequences(1, 1), encoded, cache=cache)


# --- Labels

WRONG_LABELS = [
    (torch.ones(2, 4, dtype=torch.int64), r"has shape \(2, 4\).*shape of {ids} .*\(2, 3\)"),
    (torch.tensor([5, 6, 7]), r"has shape \(3,\)"),
    (torch.tensor([[5, 6, 31]] * 2), "holds 31; a label goes from 0 to 30, or is -100"),
    (torch.tensor([[5, 6, -1]] * 2), "holds -1;"),
    (torch.tensor([[5.0, 6.0, 7.0]] * 2), "has dtype torch.float32; torch.int64"),
]


@both_variants
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@pytest.mark.parametrize(("labels", "message"), WRONG_LABELS)
def test_bad_labels(name, variant, labels, message):
    model: Any = build(name, variant)
    ids = "decoder_input_ids" if name in SEQ2SEQ else "input_ids"
    for call in (model, model.loss, model.loss_sum):
        with pytest.raises(ValueError, match=f"^labels {message.format(ids=ids)}"):
            call(**inputs_of(name), labels=labels)
        if name in SEQ2SEQ and "shape of" not in message:
            with pytest.raises(ValueError, match=f"^labels {message}"):
                call(input_ids=random_sequences(2, 4), labels=labels)


@both_variants
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_labels_at_padding(name, variant):
    model: Any = build(name, variant)
    mask_name = "decoder_attention_mask" if name in SEQ2SEQ else "attention_mask"
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    message = f"labels holds 9 in sequence 1 at position 2, .* -100 where {mask_name} is 0"
    labels = torch.tensor([[5, 6, 7], [5, 6, 9]])
    for call in (model, model.loss, model.loss_sum):
        with pytest.raises(ValueError, match=message):
            call(**inputs_of(name), **{mask_name: mask}, labels=labels)


@both_variants
@pytest.mark.parametrize("name", CLASSIFIERS)
def test_bad_classes(name, variant):
    model: Any = build(name, variant)
    for labels, message in (
        (torch.tensor([0, 3]), "labels holds 3; a label goes from 0 to 2"),
        (torch.tensor([0]), r"labels has shape \(1,\).*\(2,\)"),
        (torch.tensor([0.0, 1.0]), "problem_type"),
    ):
        with pytest.raises(ValueError, match=message):
            model(**inputs_of(name), labels=labels)


# --- What the decoder reads


@every_encoder_decoder
def test_a_decoder_without_anything_to_read(name):
    with pytest.raises(
        ValueError, match="the decoder has nothing to read: pass .*decoder_input_ids"
    ):
        build(name)(random_sequences(2, 4))


@every_seq2seq_lm
def test_a_mask_for_a_decoder_whose_ids_are_not_given(name):
    with pytest.raises(ValueError, match="decoder_attention_mask .* without decoder_input_ids"):
        build(name)(
            random_sequences(2, 4),
            decoder_attention_mask=torch.ones(2, 3, dtype=torch.int64),
            labels=random_sequences(2, 3),
        )


@pytest.mark.parametrize("name", [*SEQ2SEQ_LMS, "BartForSequenceClassification"])
def test_a_config_without_a_start_token(name):
    model: Any = new(name, decoder_start_token_id=None)
    inputs = {"input_ids": torch.tensor([[5, 6, 2]])}
    if name in SEQ2SEQ_LMS:
        model(**inputs, decoder_input_ids=random_sequences(1, 3))
        inputs["labels"] = random_sequences(1, 3)
    with pytest.raises(ValueError, match="decoder_start_token_id=None: .*set it in the config"):
        model(**inputs)


@every_encoder_decoder
def test_sequences_that_are_no_multiple_of_the_sources(name):
    backbone = backbone_of(build(name))
    encoded = backbone.encode(random_sequences(2, 4))
    for number in (3, 1):
        message = (
            f"decoder_input_ids has {number} sequences, which is not a multiple of the 2 sources"
        )
        with pytest.raises(ValueError, match=message):
            backbone.decode(random_sequences(number, 2), encoded)
    output = backbone.decode(random_sequences(4, 2), encoded)  # two for each source
    assert output.last_hidden_state.shape[:2] == (4, 2)


@every_encoder_decoder
def test_forward_takes_one_target_for_each_source(name):
    """Labels for twice as many targets would be learnt with the wrong sources."""
    model: Any = build(name)
    with pytest.raises(
        ValueError, match=r"input_ids has 2 sequences, but .*labels.* 4; it needs one"
    ):
        model(random_sequences(2, 4), decoder_input_ids=random_sequences(4, 2))
    if name in SEQ2SEQ_LMS:
        for call in (model, model.loss, model.loss_sum):
            with pytest.raises(ValueError, match="input_ids has 2 sequences"):
                call(input_ids=random_sequences(2, 4), labels=random_sequences(4, 2))


def test_an_end_token_that_is_missing_is_named_by_its_sequence():
    model = build("BartForSequenceClassification")
    ids = torch.tensor([[5, 2, 1], [5, 6, 2], [5, 6, 7]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1], [1, 1, 1]])
    with pytest.raises(
        ValueError, match="no end token, eos_token_id=2, in sequence 2; .*special tokens"
    ):
        model(ids, mask)
    mask = torch.tensor([[1, 1, 0], [1, 1, 0], [1, 1, 1]])  # an end token at padding is none
    with pytest.raises(ValueError, match="in sequence 1"):
        model(ids, mask)
    model = new("BartForSequenceClassification", eos_token_id=None)
    with pytest.raises(ValueError, match="eos_token_id=None"):
        model(torch.tensor([[5, 6, 2]]))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_token_types_are_refused(name):
    with pytest.raises(ValueError, match="token_type_ids was given, but (GPT-2|BART) has no token"):
        build(name)(**inputs_of(name), token_type_ids=torch.zeros(2, 3, dtype=torch.int64))


@pytest.mark.parametrize("name", [*SEQ2SEQ, "GPT2LMHeadModel", "GPT2Model"])
def test_token_types_are_no_argument_of_the_others(name):
    with pytest.raises(TypeError, match="'token_type_ids'"):
        build(name)(**inputs_of(name), token_type_ids=torch.zeros(2, 3, dtype=torch.int64))


# --- The cache

every_language_model = pytest.mark.parametrize("name", LANGUAGE_MODELS)


def step(name: str, model: Any, count: int, cache: KVCache, encoded: Encoded | None = None) -> Any:
    """One call with a cache, (count, 2) new tokens."""
    if name not in SEQ2SEQ:
        return model.next_token_logits(random_sequences(count, 2), cache=cache)
    encoded = model.encode(random_sequences(1, 4)) if encoded is None else encoded
    return model.next_token_logits(random_sequences(count, 2), encoded, cache=cache)


@both_variants
@every_language_model
def test_a_cache_while_gradients_are_on(name, variant):
    model: Any = build(name, variant)
    cache = model.new_cache()
    with pytest.raises(ValueError, match=r"a cache is for generation: .*torch.no_grad\(\)"):
        step(name, model, 2, cache)
    # What failed has been counted in, so the cache is not to be used again.
    with torch.no_grad(), pytest.raises(ValueError, match="failed; start with a new"):
        step(name, model, 2, cache)


@both_variants
@every_language_model
@torch.no_grad()
def test_a_cache_of_another_number_of_sequences(name, variant):
    model: Any = build(name, variant)
    encoded = model.encode(random_sequences(1, 4)) if name in SEQ2SEQ else None
    cache = model.new_cache()
    step(name, model, 2, cache, encoded)
    with pytest.raises(ValueError, match=r"the cache holds 2 sequences, but got 3; .*select"):
        step(name, model, 3, cache, encoded)
    step(name, model, 2, cache, encoded)  # no harm was done


@both_variants
@every_language_model
@torch.no_grad()
def test_a_cache_of_another_number_of_layers(name, variant):
    with pytest.raises(ValueError, match=r"cache has 7 layers, the decoder .*model.new_cache\(\)"):
        step(name, build(name, variant), 2, KVCache(7))


@both_variants
@every_language_model
@torch.no_grad()
def test_the_cache_of_a_model_with_other_heads(name, variant):
    model: Any = build(name, variant)
    cache = model.new_cache()
    step(name, model, 2, cache)
    field = "num_decoder_attention_heads" if "Bart" in name or "Marian" in name else None
    other = new(name, variant, **{field or "num_attention_heads": 6})
    with pytest.raises(ValueError, match=r"holds \d heads of size \d, but got 6 .* another model"):
        step(name, other, 2, cache)


@both_variants
@every_seq2seq_lm
@torch.no_grad()
def test_a_cache_for_another_source(name, variant):
    """Of any shape: the keys and values of the first source would be used for the second."""
    model: Any = build(name, variant)
    cache, source = model.new_cache(), model.encode(random_sequences(2, 4))
    step(name, model, 2, cache, source)
    step(name, model, 2, cache, source)
    for other in (random_sequences(1, 4), random_sequences(2, 5), random_sequences(2, 4, seed=1)):
        again = model.new_cache()
        step(name, model, 2, again, source)
        with pytest.raises(ValueError, match="the cache belongs to another source; start with"):
            step(name, model, 2, again, model.encode(other))


@pytest.mark.parametrize("mask", [None, [[1, 1, 1], [1, 1, 1]], [[1, 1, 1], [0, 1, 1]]])
def test_a_mask_of_ones_stays_a_mask(mask):
    """A plain model runs the same operations for every mask, so a trace honours another mask."""
    model: Any = build("GPT2Model")
    seen = []
    hook = model.layers[0].register_forward_pre_hook(lambda _layer, inputs: seen.append(inputs[1]))
    model(
        torch.stack([random_ids(3), random_ids(3, 1)]), None if mask is None else torch.tensor(mask)
    )
    hook.remove()
    assert seen[0].shape == (2, 1, 3, 3)
    assert seen[0].dtype == torch.bool
