"""The fields of GenerationConfig: names, values, and combinations."""

import dataclasses
import json
import math
import warnings
from typing import Any

import pytest
import torch

from minitransformer.files import CheckpointError
from minitransformer.generation import generate
from minitransformer.generation_config import FIELDS, GenerationConfig, read_generation_config
from minitransformer.models.gpt2 import GPT2Config
from minitransformer.models.t5 import T5Config
from tests.tiny import language_model, prompts


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be an integer from 1 to 2147483647"),
        ({"max_new_tokens": 2.0}, "max_new_tokens=2.0 must be an integer"),
        ({"num_beams": True}, "num_beams=True must be an integer"),
        ({"num_beams": None}, "num_beams=None must be an integer"),
        ({"min_length": None}, "min_length=None must be an integer from 0 to"),
        ({"top_k": -1}, "top_k=-1"),
        (
            {"temperature": 0.0},
            "temperature=0.0 .*to always take the likeliest token, use do_sample",
        ),
        ({"temperature": float("nan")}, "temperature=nan must be a number from 1e-10 to"),
        ({"repetition_penalty": 0}, "repetition_penalty=0 must be a number from 1e-05 to 100000"),
        ({"length_penalty": float("inf")}, "length_penalty=inf must be a number from -32 to 32"),
        ({"length_penalty": "long"}, "length_penalty='long'"),
        ({"top_p": 1.1}, "top_p=1.1 must be a number from 0 to 1"),
        ({"top_p": None}, "top_p=None"),
        ({"min_p": -0.1}, "min_p=-0.1"),
        ({"typical_p": 0}, "typical_p=0"),
        (
            {"early_stopping": "sometimes"},
            "early_stopping='sometimes' must be True, False or 'never'",
        ),
        ({"early_stopping": 1}, "early_stopping=1"),
        ({"do_sample": 1}, "do_sample=1 must be True or False"),
        ({"pad_token_id": -1}, "pad_token_id=-1 must be a token id"),
        ({"pad_token_id": [1]}, "pad_token_id=\\(1,\\) must be a token id$"),
        ({"eos_token_id": "</s>"}, "eos_token_id='</s>' must be a token id or a list"),
        ({"eos_token_id": [2, None]}, "eos_token_id=\\(2, None\\)"),
        ({"bad_words_ids": [3]}, "bad_words_ids=.* must be a list of lists of token ids"),
        ({"bad_words_ids": [[]]}, "bad_words_ids=.* must be a list of lists of token ids"),
        ({"stop_strings": ["a", ""]}, "stop_strings=.* must be a non-empty string or a list"),
        ({"exponential_decay_length_penalty": 3}, "exponential_decay_length_penalty=3"),
        (
            {"num_beams": 2, "num_return_sequences": 3},
            "is more than num_beams=2; set num_beams to at least 3",
        ),
        ({"num_return_sequences": 3}, "greedy search finds only one"),
        (
            {"forced_eos_token_id": [3, 4], "suppress_tokens": [3, 4, 5]},
            "forced_eos_token_id=\\(3, 4\\) is also in suppress_tokens; .* both forced and",
        ),
    ],
    ids=str,
)
def test_values_without_a_meaning(fields, message):
    with pytest.raises(ValueError, match=message):
        GenerationConfig(**fields)


def test_names():
    with pytest.raises(TypeError, match="did you mean 'temperature'"):
        GenerationConfig(temprature=0.7)
    with pytest.raises(TypeError, match="penalty_alpha is not supported; the fields are: max_new"):
        GenerationConfig(penalty_alpha=0.6)
    with pytest.raises(TypeError, match="did you mean 'num_beams'"):
        GenerationConfig(beam_size=4)


def test_nothing_inside_can_change():
    words = [[1, 2], [3]]
    config = GenerationConfig(bad_words_ids=words, stop_strings="end", eos_token_id=[4, 5])
    words[0].append(9)
    assert config.bad_words_ids == ((1, 2), (3,))
    assert config.stop_strings == ("end",)
    assert config.eos_token_ids == config.eos_token_id == (4, 5)
    assert GenerationConfig(eos_token_id=4).eos_token_ids == (4,)
    assert GenerationConfig(suppress_tokens=[]) == GenerationConfig()
    assert hash(config) == hash(dataclasses.replace(config))


def test_a_model_has_the_special_tokens_of_its_config():
    gpt2 = GPT2Config(vocab_size=9, bos_token_id=0, eos_token_id=2)
    assert GenerationConfig.from_model_config(gpt2) == GenerationConfig(
        bos_token_id=0, eos_token_id=2
    )
    assert GenerationConfig.from_model_config(T5Config()) == GenerationConfig(
        pad_token_id=0, eos_token_id=1, decoder_start_token_id=0
    )


HOSTILE: list[Any] = [
    True, False, None, 0, 1, -1, 400, 2**31 - 1, 1 - 2**31, 2**31, 10**400, 10**5000, 0.5, 1000.0,
    5e-324, 1e-38, 1e38, math.nan, math.inf, -math.inf, "x", "", [], [[]], [None], [2**40], {},
    [-(2**31), 2.0], [1, 2**31 - 1.0], [-(10**400), 0.5], [[1], [-1]],
    torch.tensor([1, 2]), object(),
]  # fmt: skip
SEARCHES: list[dict[str, Any]] = [{}, {"num_beams": 2, "do_sample": True}]


@pytest.mark.parametrize("field", FIELDS)
def test_any_value_gives_a_result_or_one_error_that_names_the_field(field, tmp_path):
    model, batch = language_model("GPT2"), prompts("GPT2", [4, 2])
    for number, value in enumerate(HOSTILE):
        for fields in SEARCHES:
            given = {"max_new_tokens": 2, "pad_token_id": 1, **fields, field: value}
            if field == "max_length":
                del given["max_new_tokens"]
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    output = generate(model, **batch, **given, seed=0)
            except (TypeError, ValueError) as error:
                assert_clear(str(error), field)
            else:
                assert output.new_tokens.shape[1] >= 1
                assert output.sequences_scores is None or output.sequences_scores.isfinite().all()
        directory = tmp_path / str(number)
        directory.mkdir()
        try:
            (directory / "generation_config.json").write_text(json.dumps({field: value}))
            read_generation_config(directory, {})
        except CheckpointError as error:
            assert_clear(
                str(error).removeprefix(f"{directory}/"), f"generation_config.json: {field}"
            )
        except (TypeError, ValueError) as error:
            assert "generation_config" not in str(error)  # only json.dumps may refuse a value


def assert_clear(message: str, field: str) -> None:
    fields = {field, field.replace("max_length", "max_new_tokens")}
    assert any(name in message for name in fields)
    assert len(message) < 400


def test_a_change_says_what_to_type():
    config = GenerationConfig()
    with pytest.raises(
        dataclasses.FrozenInstanceError,
        match=r"cannot assign top_k=3, .* generate\(.*replace\(model.generation_config, ...\)",
    ):
        config.top_k = 3
    assert dataclasses.replace(config, top_k=3).top_k == 3
