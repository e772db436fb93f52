"""What `generate` accepts and refuses; the decoding loop; nothing of the model is changed."""

import copy
import sys
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from minitransformer import BertConfig, BertForMaskedLM
from minitransformer.generation import generate
from minitransformer.generation.generate import Decoding
from minitransformer.generation.logits_processors import make_processors
from minitransformer.generation.stopping import StoppingCriteria
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import DecodingSession
from minitransformer.models.gpt2 import GPT2Config, GPT2LMHeadModel
from tests.tiny import (
    GENERATING,
    LANGUAGE_MODELS,
    build,
    language_model,
    pad,
    perturb,
    prompts,
    random_ids,
)

# The function has the module's name, so that `import ... as` would find the function.
generate_module = sys.modules["minitransformer.generation.generate"]
IDS = torch.tensor([[9, 20, 31], [40, 9, 7]])


def tiny(**changes: Any) -> GPT2LMHeadModel:
    sizes: dict[str, Any] = {
        "vocab_size": 50,
        "hidden_size": 12,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }
    torch.manual_seed(0)
    return perturb(GPT2LMHeadModel(GPT2Config(**sizes | changes)))


@pytest.fixture(scope="module")
def model() -> GPT2LMHeadModel:
    return tiny()


def with_config(model: Any, **fields: Any) -> Any:
    """A model whose generation config has these fields."""
    other = copy.copy(model)
    other.generation_config = replace(model.generation_config, **fields)
    return other


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "number of tokens to generate is not set; pass max_new_tokens"),
        ({"max_length": 3}, "max_length=3 leaves no room for a new token after a prompt of 3"),
        ({"max_new_tokens": 14}, "3 prompt tokens and 14 new ones exceed .* 16 .* at most 13"),
        ({"max_length": 17}, "set max_new_tokens to at most 13"),
        ({"max_new_tokens": 4, "max_length": 9}, "set the same limit"),
        ({"max_new_tokens": 4, "min_new_tokens": 5}, "at least 5 new tokens, .* at most 4"),
        ({"max_length": 6, "min_length": 8}, "at least 5 new tokens, .* at most 3"),
        ({"max_new_tokens": 4, "temperature": 0.7}, "temperature=0.7 has no effect without do_s"),
        ({"max_new_tokens": 4, "top_k": 5}, "top_k=5 has no effect without do_sample=True"),
        ({"max_new_tokens": 4, "length_penalty": 2.0}, "no effect without num_beams of at least 2"),
        ({"max_new_tokens": 4, "early_stopping": True}, "no effect without num_beams"),
        ({"max_new_tokens": 4, "num_return_sequences": 2}, "greedy search finds only one"),
        ({"max_new_tokens": 4, "stop_strings": "x"}, "pass tokenizer="),
        (
            {"max_new_tokens": 4, "eos_token_id": [3, 50]},
            "eos_token_id contains 50, but vocab_size=50",
        ),
        ({"max_new_tokens": 4, "bad_words_ids": [[3, 77]]}, "bad_words_ids contains 77"),
        ({"max_new_tokens": 4, "seed": -1}, "seed=-1 must be an integer"),
        ({"max_new_tokens": 4, "seed": True}, "seed=True must be an integer"),
    ],
    ids=str,
)
def test_invalid_arguments(model, fields, message):
    with pytest.raises(ValueError, match=message):
        generate(model, IDS, **fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_new_token": 4}, "'max_new_token'; did you mean 'max_new_tokens'"),
        ({"max_tokens": 4}, "did you mean 'max_new_tokens'"),
        ({"num_beam_groups": 2}, "num_beam_groups is not supported"),
        ({"config": {"max_new_tokens": 3}}, "config is a dict; it must be a GenerationConfig"),
    ],
    ids=str,
)
def test_names_that_are_wrong(model, fields, message):
    with pytest.raises(TypeError, match=message):
        generate(model, IDS, **fields)


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (IDS[0], None, "pass input_ids\\[None\\]"),
        (IDS + 48, None, "input_ids holds"),
        (IDS, torch.tensor([[1, 1, 1], [0, 0, 0]]), "sequence 1 of input_ids is all padding"),
        (IDS, torch.ones(2, 2), "attention_mask has shape"),
        (
            torch.tensor([[1, 5]]),
            None,
            "input_ids holds the padding id 1 but there is no attention",
        ),
    ],
    ids=lambda value: "",
)
def test_prompts_that_are_wrong(model, ids, mask, message):
    with pytest.raises(ValueError, match=message):
        generate(model, ids, mask, max_new_tokens=2)


def test_an_encoder_does_not_generate():
    encoder = BertForMaskedLM(
        BertConfig(vocab_size=9, hidden_size=8, num_attention_heads=2, num_hidden_layers=1)
    )
    for inputs in ({}, {"token_type_ids": torch.zeros_like(IDS)}):
        with pytest.raises(TypeError, match="a BertForMaskedLM does not generate text"):
            generate(encoder, IDS, max_new_tokens=2, **inputs)


def test_a_padding_token_that_is_the_end_token_may_be_part_of_a_prompt(model):
    assert (
        generate(model, torch.tensor([[2, 5]]), max_new_tokens=2, pad_token_id=2).sequences[0, 0]
        == 2
    )


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_mask_of_ones_allows_the_padding_token(name, beams):
    model = build(name)
    padding = model.config.pad_token_id or 0
    ids = torch.tensor([[5, 6, padding, 7, 4]])
    written = [
        generate(
            model, ids, mask, max_new_tokens=3, num_beams=beams, pad_token_id=padding
        ).new_tokens
        for mask in (torch.ones_like(ids), torch.ones_like(ids).bool())
    ]
    assert torch.equal(*written)
    with pytest.raises(ValueError, match="input_ids holds the padding id"):
        generate(model, ids, max_new_tokens=3, num_beams=beams, pad_token_id=padding)


@pytest.mark.parametrize("name", [name for name in LANGUAGE_MODELS if name != "GPT2LMHeadModel"])
def test_a_decoder_needs_a_token_to_begin_with(name):
    without = with_config(build(name), decoder_start_token_id=None)
    with pytest.raises(ValueError, match="decoder_start_token_id=None: .*set it in the config"):
        generate(without, torch.tensor([[5, 6]]), max_new_tokens=2)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"tokenizer": "t5", "stop_strings": "x"},
            "tokenizer is a str; it must be a minitransformer.Token",
        ),
        ({"tokenizer": 3}, "tokenizer is a int"),
        ({"streamer": print}, "streamer is a builtin_function.* put\\(tokens\\) and end"),
        ({"streamer": SimpleNamespace(put=print)}, "streamer is a SimpleNamespace"),
        ({"streamer": SimpleNamespace(end=print)}, "streamer is a SimpleNamespace"),
    ],
    ids=str,
)
def test_helpers_that_are_none(model, fields, message):
    with pytest.raises(TypeError, match=message):
        generate(model, IDS, max_new_tokens=2, **fields)


def test_nothing_runs_before_all_is_checked(model, monkeypatch):
    monkeypatch.setattr(GPT2LMHeadModel, "next_token_logits", None)
    with pytest.raises(ValueError, match="exceed the model's 16"):
        generate(model, IDS, max_new_tokens=14)


def test_the_last_position_can_be_generated(model):
    assert generate(model, IDS, max_new_tokens=13, eos_token_id=None).sequences.shape == (2, 16)
    # Padding in every sequence takes no positions.
    ids, mask = torch.nn.functional.pad(IDS, (4, 0), value=1), torch.tensor([[0] * 4 + [1] * 3] * 2)
    result = generate(model, ids, mask, max_new_tokens=13, eos_token_id=None)
    assert result.sequences.shape == (2, 20)


def test_the_checkpoint_s_config(model):
    custom = with_config(model, max_new_tokens=4, eos_token_id=None, num_beams=2, temperature=0.5)
    assert generate(custom, IDS).new_tokens.shape == (
        2,
        4,
    )  # a checkpoint's temperature is accepted
    assert generate(custom, IDS).sequences_scores is not None
    assert generate(custom, IDS, num_beams=1).sequences_scores is None
    # A caller's length replaces the checkpoint's, in either form.
    assert generate(custom, IDS, max_length=5).new_tokens.shape == (2, 2)
    longest = with_config(model, max_length=5, eos_token_id=None)
    assert generate(longest, IDS).new_tokens.shape == (2, 2)
    assert generate(longest, IDS, max_new_tokens=6).new_tokens.shape == (2, 6)


def test_a_config_replaces_the_checkpoints(model):
    words = [[token] for token in range(50) if token != 7]
    custom = with_config(
        model, num_beams=3, max_new_tokens=7, eos_token_id=None, bad_words_ids=words
    )
    config = GenerationConfig(max_new_tokens=4, num_return_sequences=2, do_sample=True)
    result = generate(custom, IDS, config=config, seed=0)
    assert result.new_tokens.shape == (4, 4)
    assert result.sequences_scores is None
    assert (result.new_tokens == 7).all()  # where the config has None, the checkpoint's value stays
    forbidden = [(token,) for token in range(50) if token != 5]
    only = generate(custom, IDS, config=config, bad_words_ids=forbidden, seed=0)
    assert (only.new_tokens == 5).all()
    with pytest.raises(ValueError, match="temperature=0.5 has no effect"):
        generate(custom, IDS, config=GenerationConfig(max_new_tokens=4, temperature=0.5))
    # Fields that come from the checkpoint are not the caller's.
    accepted = with_config(custom, temperature=0.5)
    generate(accepted, IDS, config=replace(accepted.generation_config, num_beams=1))


def test_defaults_replace_the_checkpoints_config(model):
    custom = with_config(model, num_beams=3, max_new_tokens=7, eos_token_id=None)
    task = GenerationConfig(max_new_tokens=4, temperature=0.5, pad_token_id=1)
    result = generate(custom, IDS, defaults=task)
    assert result.new_tokens.shape == (2, 4)
    assert result.sequences_scores is None
    longer = generate(custom, IDS, defaults=task, max_new_tokens=5, num_beams=2)
    assert longer.new_tokens.shape == (2, 5) and longer.sequences_scores is not None
    other = GenerationConfig(num_return_sequences=2, num_beams=2)
    assert generate(custom, IDS, defaults=task, config=other).new_tokens.shape == (4, 4)
    assert custom.generation_config.num_beams == 3
    with pytest.raises(TypeError, match="defaults is a dict; it must be a GenerationConfig"):
        generate(custom, IDS, defaults={"max_new_tokens": 3})


def test_a_minimum_of_the_checkpoint_that_is_too_long_gives_a_warning(model):
    long = with_config(model, min_length=12)
    with pytest.warns(
        UserWarning, match="at least 9 new tokens, .* at most 2; 2 will be generated"
    ) as seen:
        assert generate(long, IDS, max_new_tokens=2).new_tokens.shape == (2, 2)
    assert seen[0].filename == __file__


def test_sequences_that_have_ended_are_filled_up(model):
    free = generate(model, IDS, max_new_tokens=8, eos_token_id=None).new_tokens
    first = next(t for t in free[0].tolist() if t not in free[1].tolist())
    end = free[0].tolist().index(first)
    fields: dict[str, Any] = {"max_new_tokens": 8, "eos_token_id": first}
    ended = generate(model, IDS, **fields).new_tokens
    assert ended[0].tolist() == [*free[0, : end + 1].tolist(), *[1] * (7 - end)]
    assert torch.equal(ended[1], free[1])
    without = with_config(model, pad_token_id=None)
    assert (generate(without, IDS, **fields).new_tokens[0, end:] == first).all()
    # All have ended: nothing more is computed.
    assert generate(model, IDS[:1], **fields).new_tokens.shape == (1, end + 1)


def test_the_model_is_left_as_it_was():
    model = tiny(hidden_dropout_prob=0.5)
    before = [dict(vars(module)) for module in model.modules()]
    weights = copy.deepcopy(model.state_dict())
    for fields in ({}, {"num_beams": 2}, {"do_sample": True}, {"use_cache": False}):
        generate(model, IDS, max_new_tokens=3, eos_token_id=None, **fields)
    assert [dict(vars(module)) for module in model.modules()] == before
    torch.testing.assert_close(model.state_dict(), weights, rtol=0, atol=0)
    assert torch.is_grad_enabled()
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("beams", [1, 2])
def test_dropout_would_change_the_answer(beams, monkeypatch):
    model = tiny(hidden_dropout_prob=0.5)
    expected = generate(model, IDS, max_new_tokens=3, num_beams=beams).sequences
    with monkeypatch.context() as patch:
        patch.setattr(GPT2LMHeadModel, "next_token_logits", None)
        for part in (model, model.transformer.layers[1]):
            part.train()
            with pytest.raises(ValueError, match="in training mode, .*dropout .*call model.eval"):
                generate(model, IDS, max_new_tokens=3, num_beams=beams)
            assert part.training
            model.eval()
    assert torch.equal(generate(model, IDS, max_new_tokens=3, num_beams=beams).sequences, expected)


@pytest.mark.parametrize("family", ["GPT2", "T5"])
def test_token_types_are_refused_by_name(family):
    """transformers adds their embeddings to GPT-2's input, and refuses them for the others."""
    model = language_model(family)
    with pytest.raises(
        ValueError, match="no token types; .* set tokenizer.token_types = False"
    ) as e:
        generate(model, IDS, token_type_ids=torch.zeros_like(IDS), max_new_tokens=2)
    assert f"but {type(model).__name__} has no" in str(e.value)


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"do_sample": True},
        {"do_sample": True, "top_k": 0, "top_p": 0.9, "min_p": 0.1, "typical_p": 0.9},
        {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "suppress_tokens": [9, 10]},
    ],
    ids=str,
)
def test_logits_that_are_no_numbers(fields, beams, number):
    """Of the second sequence, after its first new token."""
    model = tiny()
    logits = GPT2LMHeadModel.next_token_logits

    def broken(self: Any, input_ids: torch.Tensor, **settings: Any) -> torch.Tensor:
        result = logits(self, input_ids, **settings)
        if input_ids.shape[1] == 1:  # not the prompt
            result[beams, 7] = number
        return result

    model.next_token_logits = broken.__get__(model)
    message = "the logits of sequence 1 after 1 new tokens contain NaN .* weights .* are finite: "
    with pytest.raises(ValueError, match=message):
        generate(model, IDS, max_new_tokens=4, num_beams=beams, eos_token_id=None, **fields)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_weight_that_is_no_number_is_named(beams):
    model = tiny()
    with torch.no_grad():
        model.transformer.final_norm.bias[3] = torch.nan
    message = "logits of sequence 0 after 0 new tokens .* and so does the weight .*final_norm.bias"
    with pytest.raises(ValueError, match=message):
        generate(model, IDS, max_new_tokens=2, num_beams=beams)


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
def test_sequences_that_do_not_fit_into_memory(model, name, monkeypatch):
    fields: dict[str, Any] = {name: 999_999_999, "max_new_tokens": 2}
    fields["do_sample"] = name == "num_return_sequences"
    with monkeypatch.context() as patch:
        patch.setattr(GPT2LMHeadModel, "next_token_logits", None)
        with pytest.raises(ValueError, match=f"{name}=999999999 gives 1999999998 sequences, whose"):
            generate(model, IDS, **fields)
    # Three float32 of 50 tokens for two prompts: 1,200 bytes.
    monkeypatch.setattr(generate_module, "memory_size", lambda device: 5 * 1200)
    generate(model, IDS, **fields | {name: 5})
    with pytest.raises(ValueError, match=f"do not fit into .* of cpu; set {name} to at most 5"):
        generate(model, IDS, **fields | {name: 6})


@pytest.mark.parametrize("beams", [1, 2])
@pytest.mark.parametrize(
    "fields",
    [
        {"do_sample": True, "temperature": 1e-10, "top_k": 0},
        {"do_sample": True, "temperature": 2.0**31 - 1},
        {"repetition_penalty": 1e-5, "encoder_repetition_penalty": 1e5},
        {"exponential_decay_length_penalty": (0, 2.0**31 - 1)},
        {"exponential_decay_length_penalty": (-(2**31) + 1, 1.01)},
        {"no_repeat_ngram_size": 2**31 - 1, "encoder_no_repeat_ngram_size": 2**31 - 1},
    ],
    ids=str,
)
def test_extreme_numbers_give_tokens(model, fields, beams):
    output = generate(model, IDS, max_new_tokens=6, num_beams=beams, seed=0, **fields)
    assert output.num_new_tokens.min() >= 1
    if "exponential_decay_length_penalty" in fields:
        assert (
            output.num_new_tokens == 2 - (fields["exponential_decay_length_penalty"][0] < 0)
        ).all()
    if fields.get("temperature") == 1e-10 and beams == 1:
        assert torch.equal(output.sequences, generate(model, IDS, max_new_tokens=6).sequences)


def test_the_length_decides_under_an_extreme_penalty(model):
    fields: dict[str, Any] = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 9}
    fields["eos_token_id"] = list(range(2, 30))
    shortest, longest = (
        generate(model, IDS, length_penalty=penalty, **fields) for penalty in (-32, 32.0)
    )
    for output, best in ((shortest, torch.amin), (longest, torch.amax)):
        lengths = output.num_new_tokens.view(2, 4)
        assert (lengths[:, 0] == best(lengths, dim=1)).all()
        assert output.sequences_scores.isfinite().all()
    assert shortest.num_new_tokens.sum() < longest.num_new_tokens.sum()


class Script(DecodingSession):
    """Fixed scores: sequence 0 ends at once, and has no scores after that."""

    def __init__(self) -> None:
        self.prompt = torch.tensor([[5], [6]])
        self.cache = None

    def start(self) -> torch.Tensor:
        return torch.eye(9)[[2, 7]]

    def step(self, history: torch.Tensor) -> torch.Tensor:
        return torch.stack([torch.full((9,), torch.nan), torch.eye(9)[history.shape[1]]])


def decoding(session: type[DecodingSession], device: str = "cpu", **fields: Any) -> Decoding:
    config = GenerationConfig(pad_token_id=1, **fields)
    prompt = session().prompt
    return Decoding(
        model=tiny(),
        open_session=lambda read_every_step: session(),
        prompt=prompt,
        config=config,
        processors=make_processors(config, prompt_length=prompt.shape[1], source_ids=prompt),
        stopping=StoppingCriteria(config.eos_token_ids, None, torch.device(device)),
        generator=None,
    )


def test_a_sequence_that_has_ended_needs_no_scores():
    columns, running = zip(
        *decoding(Script, max_new_tokens=3, eos_token_id=2).tokens(), strict=True
    )
    assert torch.stack(columns, dim=1).tolist() == [[2, 1], [7, 2]]
    assert torch.stack(running, dim=1).tolist() == [[True, False], [True, True]]


@pytest.mark.parametrize("beams", [1, 2, 4])
@pytest.mark.parametrize("sampled", [False, True])
def test_a_sequence_in_which_everything_is_forbidden(model, sampled, beams):
    fields: dict[str, Any] = {"num_beams": beams, "seed": 0}
    fields |= {
        "max_new_tokens": 8,
        "suppress_tokens": list(range(3, 50)),
        "no_repeat_ngram_size": 1,
    }
    fields |= {"do_sample": sampled, "eos_token_id": None}
    with pytest.raises(
        ValueError,
        match="sequence 0 cannot be continued after 3 new tokens: every token is forbidden; "
        "allow more of them in no_repeat_ngram_size or suppress_tokens$",
    ):
        generate(model, IDS, **fields)
    # A sequence that has ended needs no further token.
    written = generate(model, IDS, **fields | {"eos_token_id": [0, 1, 2]}).new_tokens
    assert written.shape == (2, 1)


@pytest.mark.parametrize("sampled", [False, True])
def test_the_source_that_nothing_can_follow_is_named(model, sampled):
    """Only sequence 1 has a beginning that no token may follow."""
    fields: dict[str, Any] = {"num_beams": 2, "do_sample": sampled, "eos_token_id": None}
    fields |= {"bad_words_ids": [[7, token] for token in range(50)], "max_new_tokens": 3}
    with pytest.raises(ValueError, match="sequence 1 cannot be continued after 0 new tokens"):
        generate(model, IDS, **fields)


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The decoding sessions that a test opens, with their settings and number of closings."""
    opened = []
    open_session = GPT2LMHeadModel.decoding_session

    def noted(self: Any, *inputs: Any, **settings: Any) -> DecodingSession:
        session: Any = open_session(self, *inputs, **settings)
        session.settings, session.closed = settings, 0

        def close() -> None:
            session.closed += 1

        session.close = close
        opened.append(session)
        return session

    monkeypatch.setattr(GPT2LMHeadModel, "decoding_session", noted)
    return opened


@pytest.mark.parametrize("beams", [1, 2])
def test_a_session_is_closed_after_an_error_too(model, sessions, beams, monkeypatch):
    generate(model, IDS, max_new_tokens=4, num_beams=beams)
    monkeypatch.setattr(GPT2LMHeadModel, "next_token_logits", None)
    with pytest.raises(TypeError):
        generate(model, IDS, max_new_tokens=4, num_beams=beams)
    assert [session.closed for session in sessions] == [1, 1]


def test_a_session_is_told_whether_each_step_is_read(model, sessions):
    generate(model, IDS, max_new_tokens=2)
    generate(model, IDS, max_new_tokens=2, streamer=Recorder())
    generate(model, IDS, max_new_tokens=2, num_beams=2)
    assert [session.settings["read_every_step"] for session in sessions] == [False, True, True]
    assert sessions[0].settings["config"].max_new_tokens == 2


WAYS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "sampling": {"do_sample": True, "seed": 3, "top_k": 0},
    "several each": {"do_sample": True, "seed": 5, "num_return_sequences": 3, "top_p": 0.9},
    "processors": {"repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "min_new_tokens": 4},
    "ends": {"eos_token_id": list(range(3, 60)), "min_new_tokens": 1},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", GENERATING)
def test_a_rare_look_at_the_end_changes_nothing(family, way, monkeypatch):
    batch = prompts(family, [3, 7, 5])
    fields: dict[str, Any] = {"max_new_tokens": 20, "pad_token_id": 1, **WAYS[way]}
    expected = generate(language_model(family), **batch, **fields)
    monkeypatch.setattr(DecodingSession, "eos_check_interval", 16)
    result = generate(language_model(family), **batch, **fields)
    assert torch.equal(result.sequences, expected.sequences)
    assert torch.equal(result.num_new_tokens, expected.num_new_tokens)


@pytest.mark.parametrize("do_sample", [False, True])
@pytest.mark.parametrize("interval", [1, 16])
def test_the_sequence_that_nothing_can_follow_is_named_later(do_sample, interval, monkeypatch):
    monkeypatch.setattr(DecodingSession, "eos_check_interval", interval)
    # After the first tokens, 97 or 98, only the other one is left, then none.
    fields: dict[str, Any] = {"max_new_tokens": 20, "no_repeat_ngram_size": 1, "seed": 0}
    fields |= {"bad_words_ids": [[token] for token in range(97)], "do_sample": do_sample}
    with pytest.raises(ValueError, match="sequence 0 cannot be continued after 2 new"):
        generate(language_model("GPT2"), **prompts("GPT2", [5, 5]), eos_token_id=None, **fields)


FIELDS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "top_k": 5, "typical_p": 0.9},
    {"do_sample": True, "top_p": 0.8, "min_p": 0.1, "temperature": 0.7},
    {
        "repetition_penalty": 1.3,
        "encoder_repetition_penalty": 1.1,
        "no_repeat_ngram_size": 2,
        "encoder_no_repeat_ngram_size": 3,
        "bad_words_ids": ((4,), (5, 6)),
        "min_new_tokens": 4,
        "forced_eos_token_id": 2,
        "suppress_tokens": (7,),
        "begin_suppress_tokens": (8,),
        "exponential_decay_length_penalty": (2, 1.1),
    },
]


class Unreadable(DecodingSession):
    """Shapes without numbers."""

    eos_check_interval = 16

    def __init__(self) -> None:
        self.prompt = torch.randint(0, 1999, (3, 4), device="meta")
        self.cache = None

    def start(self) -> torch.Tensor:
        return torch.randn(3, 2000, device="meta")

    def step(self, history: torch.Tensor) -> torch.Tensor:
        return self.start()


@pytest.mark.parametrize("fields", FIELDS, ids=str)
def test_between_two_checks_the_host_waits_for_nothing(fields):
    tokens = decoding(Unreadable, "meta", max_new_tokens=20, eos_token_id=[2, 3], **fields).tokens()
    for _ in range(15):
        next(tokens)
    with pytest.raises(RuntimeError, match="meta"):
        next(tokens)


class Recorder:
    """A streamer that is interrupted after some tokens."""

    def __init__(self, stop_after: int = 99) -> None:
        self.got: list[Any] = []
        self.stop_after = stop_after

    def put(self, value: torch.Tensor) -> None:
        self.got.append(value.tolist())
        if len(self.got) > self.stop_after:
            raise KeyboardInterrupt

    def end(self) -> None:
        self.got.append("end")


def test_a_streamer_gets_the_prompt_then_each_token(model):
    recorder = Recorder()
    result = generate(model, IDS, max_new_tokens=4, eos_token_id=None, streamer=recorder)
    assert recorder.got == [IDS.tolist(), *result.new_tokens.T.tolist(), "end"]
    with pytest.raises(ValueError, match="a streamer needs num_beams=1"):
        generate(model, IDS, max_new_tokens=4, num_beams=2, streamer=recorder)


def test_ctrl_c_leaves_what_was_generated_with_the_streamer(model, sessions):
    recorder = Recorder(stop_after=2)
    # What was caught keeps the frames alive, and with them all that is not closed.
    with pytest.raises(KeyboardInterrupt) as caught:
        generate(model, IDS, max_new_tokens=9, eos_token_id=None, streamer=recorder)
    assert caught.value.__traceback__ is not None
    assert [type(got) for got in recorder.got] == [list, list, list, str]
    assert [session.closed for session in sessions] == [1]
    assert torch.is_grad_enabled()


def test_the_cache_is_not_moved_where_no_beam_moves(model, monkeypatch):
    from minitransformer.layers.kv_cache import KVCache

    selected = []
    select = KVCache.select
    monkeypatch.setattr(
        KVCache,
        "select",
        lambda self, sequences: (selected.append(sequences.tolist()), select(self, sequences)),
    )
    # One token is always forced, so that every beam continues itself.
    only = [[token] for token in range(50) if token not in (7, 8)]
    generate(model, IDS[:1], max_new_tokens=2, num_beams=2, bad_words_ids=only)
    assert selected in ([[0, 0]], [[0, 0], [0, 0]])
    generate(model, IDS, max_new_tokens=9, num_beams=2, eos_token_id=None)
    assert selected[-1] != [0, 1, 2, 3]
    assert all(rows != [0, 1, 2, 3] for rows in selected)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
@settings(max_examples=5)
@given(
    lengths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    seed=st.integers(0, 1000),
    beams=st.integers(1, 4),
    sides=st.permutations([True, False]),
    sampled=st.booleans(),
)
def test_cached_is_uncached_with_padding_on_either_side(name, lengths, seed, beams, sides, sampled):
    model = build(name)
    texts = [random_ids(length, seed + row) for row, length in enumerate(lengths)]
    filling = 1 if model.config.pad_token_id is None else model.config.pad_token_id
    fields: dict[str, Any] = {"max_new_tokens": 7, "num_beams": beams, "eos_token_id": [7, 8, 9]}
    if sampled:
        fields |= {"do_sample": True, "seed": seed, "top_k": 10}
    quick, slow = (
        generate(model, *pad(texts, filling, left=left), **fields, use_cache=use_cache)
        for left, use_cache in zip(sides, (True, False), strict=True)
    )
    assert torch.equal(quick.new_tokens, slow.new_tokens)
    if beams > 1:
        torch.testing.assert_close(
            quick.sequences_scores, slow.sequences_scores, rtol=1e-5, atol=1e-5
        )


def test_half_precision_is_scored_in_single(model):
    half = tiny().bfloat16()
    result = generate(half, IDS, max_new_tokens=4, num_beams=2)
    assert result.sequences_scores.dtype == torch.float32


@pytest.mark.parametrize("beams", [1, 2])
def test_the_number_of_new_tokens_of_each_sequence(beams):
    """Padding is no token of a sequence, though its id may be that of another one."""
    model = tiny(pad_token_id=5)
    ids = torch.tensor([[7, 8], [9, 10], [11, 12]])
    whole = generate(model, ids, max_new_tokens=6, num_beams=beams).new_tokens
    end = int(whole[0, 1])
    output = generate(model, ids, max_new_tokens=6, num_beams=beams, eos_token_id=end)
    for ids, count in zip(output.new_tokens.tolist(), output.num_new_tokens.tolist(), strict=True):
        assert end not in ids[: count - 1]
        assert count == 6 or ids[count - 1] == end
        assert set(ids[count:]) <= {5}
    assert output.num_new_tokens.min() < 6
