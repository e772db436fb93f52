"""generation_config.json, and the generation fields of old config.json files."""

import json
import warnings
from typing import Any

import pytest

from minitransformer.files import CheckpointError
from minitransformer.generation_config import (
    FIELDS,
    IN_MODEL_CONFIG,
    UNSUPPORTED,
    WITHOUT_EFFECT,
    GenerationConfig,
    read_generation_config,
    task_parameters,
    write_generation_config,
)

# Of facebook/bart-large-cnn, as its config.json had them before there was a file of their own.
BART_CNN = {
    "model_type": "bart",
    "vocab_size": 50_264,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "early_stopping": True,
    "length_penalty": 2.0,
    "max_length": 142,
    "min_length": 56,
    "no_repeat_ngram_size": 3,
    "num_beams": 4,
    "output_past": True,
    "task_specific_params": {"summarization": {"max_length": 142, "num_beams": 4}},
}
EVERY_FIELD: dict[str, Any] = {
    "max_new_tokens": 7,
    "min_new_tokens": 2,
    "stop_strings": ["a", "b"],
    "do_sample": True,
    "num_beams": 4,
    "num_return_sequences": 3,
    "early_stopping": "never",
    "length_penalty": 0.5,
    "temperature": 0.7,
    "top_k": 0,
    "top_p": 0.9,
    "min_p": 0.1,
    "typical_p": 0.8,
    "repetition_penalty": 1.1,
    "encoder_repetition_penalty": 1.2,
    "no_repeat_ngram_size": 3,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[1], [2, 3]],
    "suppress_tokens": [4, 5],
    "begin_suppress_tokens": [6],
    "forced_bos_token_id": 7,
    "forced_eos_token_id": [8, 9],
    "exponential_decay_length_penalty": [3, 1.5],
    "renormalize_logits": True,
    "pad_token_id": 10,
    "bos_token_id": 11,
    "eos_token_id": [12, 13],
    "decoder_start_token_id": 14,
    "max_length": 99,
    "min_length": 1,
}


def read(path, content: dict[str, Any] | None = None, config: dict[str, Any] | None = None) -> Any:
    if content is not None:
        (path / "generation_config.json").write_text(json.dumps(content))
    return read_generation_config(path, config or {})


def theirs(path) -> Any:
    """What transformers makes of the same directory, with its defaults put in."""
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers")
    kind = transformers.GenerationConfig
    if (path / "generation_config.json").exists():
        config = kind.from_pretrained(path)
    else:
        config = kind.from_pretrained(path, "config.json", _from_model_config=True)
    defaults = kind._get_default_generation_params() | {"renormalize_logits": False}
    config.update(**defaults, defaults_only=True)
    return config


def assert_same(ours: GenerationConfig, their_config: Any, without: tuple[str, ...] = ()) -> None:
    plain = json.loads(json.dumps({name: getattr(ours, name) for name in FIELDS}))
    plain_theirs = json.loads(json.dumps({name: getattr(their_config, name) for name in FIELDS}))
    for name in without:
        del plain[name], plain_theirs[name]
    assert plain == plain_theirs


def test_every_field_is_read_as_by_transformers(tmp_path):
    assert EVERY_FIELD.keys() == set(FIELDS)
    config = read(tmp_path, EVERY_FIELD)
    assert_same(config, theirs(tmp_path))
    assert config.eos_token_ids == (12, 13)


def test_every_field_is_saved_for_transformers(tmp_path):
    written = read(tmp_path, EVERY_FIELD)
    (tmp_path / "copy").mkdir()
    write_generation_config(written, tmp_path / "copy")
    assert read_generation_config(tmp_path / "copy", {}) == written
    assert_same(written, theirs(tmp_path / "copy"))


@pytest.mark.parametrize("fields", [{}, {"eos_token_id": 2, "num_beams": 3, "max_length": 9}])
def test_only_changed_fields_are_saved(fields, tmp_path):
    config = GenerationConfig(**fields)
    write_generation_config(config, tmp_path)
    assert json.loads((tmp_path / "generation_config.json").read_text()) == fields
    assert read_generation_config(tmp_path, {}) == config
    # The number of new tokens is the one default of theirs that is not ours.
    assert_same(config, theirs(tmp_path), without=() if fields else ("max_length",))


def test_the_defaults_are_those_of_transformers(tmp_path):
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    defaults = theirs_defaults()
    ours = GenerationConfig()
    for name in FIELDS:
        expected = None if name == "max_length" else defaults.get(name)
        if name == "renormalize_logits":
            expected = False
        assert getattr(ours, name) == expected, name


def theirs_defaults() -> dict[str, Any]:
    from transformers import GenerationConfig as Theirs

    return Theirs._get_default_generation_params()


def test_an_old_config_is_read_as_by_transformers(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(BART_CNN))
    config = read(tmp_path, config=BART_CNN)
    assert config.num_beams == 4 and config.max_length == 142
    assert_same(config, theirs(tmp_path))
    # If there is a generation_config.json, the fields in config.json do not count.
    assert read(tmp_path, {"num_beams": 2}, BART_CNN) == GenerationConfig(num_beams=2)


def test_the_oldest_form_of_a_forced_token(tmp_path):
    old = {"bos_token_id": 5, "force_bos_token_to_be_generated": True}
    (tmp_path / "config.json").write_text(json.dumps(old))
    config = read(tmp_path, config=old)
    assert config == GenerationConfig(bos_token_id=5, forced_bos_token_id=5)
    assert_same(config, theirs(tmp_path), without=("max_length",))
    assert read(tmp_path, config=old | {"force_bos_token_to_be_generated": False}) == (
        GenerationConfig(bos_token_id=5)
    )


def test_null_is_not_set(tmp_path):
    assert read(tmp_path, {"num_beams": None, "eos_token_id": None, "top_k": None}) == (
        GenerationConfig()
    )


def test_what_a_checkpoint_may_contradict(tmp_path):
    """Such files exist; from a caller, a temperature without effect would be an error."""
    assert read(tmp_path, {"temperature": 0.7, "top_p": 0.9}).temperature == 0.7


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"num_beam": 4}, "unknown field 'num_beam': did you mean 'num_beams'"),
        ({"num_beam_groups": 2}, "num_beam_groups=2 would change the generated text"),
        ({"penalty_alpha": 0.6, "top_k": 4}, "penalty_alpha=0.6"),
        ({"temperature": -1}, "generation_config.json: temperature=-1 must be a number from"),
        ({"length_penalty": 2**31 - 1}, "length_penalty=2147483647 must be a number from -32 to"),
        ({"eos_token_id": "</s>"}, "eos_token_id='</s>' must be a token id"),
        ({"num_return_sequences": 2}, "greedy search finds only one"),
    ],
    ids=str,
)
def test_what_is_refused(content, message, tmp_path):
    with pytest.raises(CheckpointError, match=message):
        read(tmp_path, content)


def test_a_broken_file(tmp_path):
    (tmp_path / "generation_config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"contains \[\]; it must be a JSON object"):
        read(tmp_path)


def test_what_has_no_effect_is_passed_over(tmp_path):
    neutral = {name: values[0] for name, values in UNSUPPORTED.items() if values}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = read(tmp_path, {**dict.fromkeys(WITHOUT_EFFECT, True), **neutral})
    assert config == GenerationConfig()
    with pytest.warns(UserWarning, match="the field 'invented_here' is unknown and ignored"):
        read(tmp_path, {"invented_here": 1})
    # A name like that of a field which is also given is not taken for a misspelling.
    with pytest.warns(UserWarning, match="the field 'num_beam' is unknown and ignored"):
        assert read(tmp_path, {"num_beam": 4, "num_beams": 2}).num_beams == 2


def test_every_field_of_transformers_is_handled():
    """A field that a new version adds must be supported, rejected or ignored by decision."""
    pytest.importorskip("transformers", reason="the comparison needs transformers")
    from transformers import GenerationConfig as Theirs

    known = {*FIELDS, *UNSUPPORTED, *WITHOUT_EFFECT}
    assert set(vars(Theirs())) <= known
    assert not (set(FIELDS) & UNSUPPORTED.keys() or set(FIELDS) & WITHOUT_EFFECT)
    assert known < IN_MODEL_CONFIG


def test_task_specific_parameters_of_a_config():
    t5 = {"task_specific_params": {"translation_en_to_de": {"prefix": "translate: ", "n": 1}}}
    assert task_parameters(t5, "translation_en_to_de") == {"prefix": "translate: ", "n": 1}
    assert task_parameters(t5, "summarization") == {}
    for content in ({}, {"task_specific_params": None}, {"task_specific_params": [1]}):
        assert task_parameters(content, "summarization") == {}
