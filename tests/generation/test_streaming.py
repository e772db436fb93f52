"""Streamed text: whole characters, correct spaces, and stop strings."""

import random
from typing import Any

import pytest
import torch

from minitransformer import Tokenizer
from minitransformer.generation import generate, stream
from minitransformer.generation.stopping import StoppingCriteria, StopStrings
from minitransformer.generation.streaming import TextPieces
from minitransformer.generation_config import GenerationConfig
from minitransformer.models.base import DecodingSession
from minitransformer.tokenization import pipelines
from tests.tiny import LANGUAGE_MODELS, real_tokenizer
from tests.tiny import new as new_model

tokenizers = pytest.importorskip("tokenizers")

# "do n ' t" is cleaned up to "don't", and only when its last token comes.
WORDS = ["[UNK]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "do", "n", "'", "t", "##s", ".", "ve", "è"]


def bytes_alone() -> Tokenizer:
    """Every byte a token: a character that is no ASCII takes two to four of them."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    vocab = {byte: number for number, byte in enumerate(alphabet)}
    backend = pipelines.byte_level({**vocab, "<|endoftext|>": 256}, [])
    return Tokenizer(backend, {"eos_token": "<|endoftext|>"})


def wordpiece(**settings: Any) -> Tokenizer:
    vocab = {word: number for number, word in enumerate(WORDS)}
    return Tokenizer(pipelines.wordpiece(vocab, False), pipelines.BERT, **settings)


def unigram() -> Tokenizer:
    pieces = ["<s>", "<pad>", "</s>", "<unk>", "<mask>", "\u2581", "\u2581a", "b", "\u2581bc", "c."]
    return Tokenizer(pipelines.unigram([(piece, -1.0) for piece in pieces]), pipelines.ROBERTA)


TOKENIZERS = {
    "bytes": bytes_alone(),
    "wordpiece": wordpiece(),
    "cleaned": wordpiece(clean_up_tokenization_spaces=True),
    "unigram": unigram(),
}


def check_pieces(tokenizer: Tokenizer, ids: list[int], *, after: int, skip: bool) -> None:
    """Pieces of all tokens, and of those after a beginning that is shown already."""
    whole = tokenizer.decode(ids, skip_special_tokens=skip)
    for start in (0, after):
        shown = tokenizer.decode(ids[:start], skip_special_tokens=skip).rstrip("\ufffd")
        pieces = TextPieces(tokenizer, ids[:start], skip_special_tokens=skip)
        joined = "".join([pieces.add(token) for token in ids[start:]]) + pieces.rest()
        if tokenizer.clean_up_tokenization_spaces and start:
            continue  # what was shown may change afterwards
        assert shown + joined == whole, (ids, start)


@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("name", TOKENIZERS)
def test_the_pieces_join_to_the_whole_text(name, skip):
    tokenizer, chance = TOKENIZERS[name], random.Random(0)
    for _ in range(400):
        ids = [chance.randrange(tokenizer.vocab_size) for _ in range(chance.randint(1, 12))]
        check_pieces(tokenizer, ids, after=chance.randrange(len(ids)), skip=skip)


@pytest.mark.parametrize("name", ["gpt2", "t5", "bert-base-uncased"])
def test_the_pieces_of_real_tokenizers(name):
    tokenizer, chance = real_tokenizer(name), random.Random(1)
    for _ in range(200):
        ids = [chance.randrange(tokenizer.vocab_size) for _ in range(chance.randint(1, 12))]
        check_pieces(tokenizer, ids, after=chance.randrange(len(ids)), skip=True)


def test_a_character_is_never_split():
    tokenizer = TOKENIZERS["bytes"]
    text = "già 日本 🙂!"
    pieces = TextPieces(tokenizer)
    got = [pieces.add(token) for token in tokenizer(text)["input_ids"]]
    assert [piece for piece in got if piece] == list(text)
    assert got.count("") == len(text.encode()) - len(text)
    assert pieces.rest() == ""


def test_a_character_that_is_never_finished_is_shown_at_the_end():
    tokenizer = TOKENIZERS["bytes"]
    ids = tokenizer("a🙂")["input_ids"][:-1]
    pieces = TextPieces(tokenizer)
    assert [pieces.add(token) for token in ids] == ["a", "", "", ""]
    assert pieces.rest() == tokenizer.decode(ids)[1:] != ""


def test_spaces_are_those_between_prompt_and_answer():
    tokenizer = TOKENIZERS["wordpiece"]
    ids = [WORDS.index(word) for word in ("do", "##s", "n", ".")]
    for start, expected in ((0, ["do", "s", " n", "."]), (1, ["s", " n", "."]), (2, [" n", "."])):
        pieces = TextPieces(tokenizer, ids[:start])
        assert [pieces.add(token) for token in ids[start:]] == expected


def language_model(tokenizer: Tokenizer, **changes: Any) -> Any:
    size = tokenizer.vocab_size
    special = {"bos_token_id": size - 1, "eos_token_id": size - 1}
    return new_model("GPT2LMHeadModel", vocab_size=size, **special, **changes)


def test_a_stream_is_what_generate_gives():
    tokenizer = TOKENIZERS["bytes"]
    model = language_model(tokenizer)
    prompt = tokenizer("ciao", return_tensors="pt")["input_ids"]
    for fields in ({"max_new_tokens": 12}, {"max_new_tokens": 12, "do_sample": True, "seed": 1}):
        written = generate(model, prompt, **fields).new_tokens[0]
        expected = tokenizer.decode(written, skip_special_tokens=True)
        for source in ("ciao", prompt, prompt[0], prompt[0].tolist()):
            pieces = list(stream(model, tokenizer, source, **fields))
            assert "".join(pieces) == expected
            assert len(pieces) > 1 and all(pieces)


def test_an_encoder_decoder_streams_what_it_generates():
    tokenizer = TOKENIZERS["wordpiece"]
    model = new_model("T5ForConditionalGeneration", vocab_size=tokenizer.vocab_size)
    source = torch.tensor([[5, 6, 7]])
    fields: dict[str, Any] = {"max_new_tokens": 8, "suppress_tokens": [0, 1, 2, 3, 4]}
    written = generate(model, source, **fields).new_tokens[0]
    pieces = stream(model, tokenizer, source, **fields)
    assert "".join(pieces) == tokenizer.decode(written, skip_special_tokens=True) != ""


def test_a_stream_is_checked_before_it_is_read():
    tokenizer = TOKENIZERS["bytes"]
    model = language_model(tokenizer)
    with pytest.raises(ValueError, match="the number of tokens to generate is not set"):
        stream(model, tokenizer, "ciao")
    with pytest.raises(ValueError, match="it yields one text"):
        stream(model, tokenizer, "ciao", max_new_tokens=2, num_beams=2)
    with pytest.raises(ValueError, match="text_or_ids has shape \\(2, 3\\), but stream takes one"):
        stream(model, tokenizer, torch.ones(2, 3, dtype=torch.int64), max_new_tokens=2)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_a_stream_takes_padding_tokens_as_any_other(name):
    tokenizer = TOKENIZERS["bytes"]
    model: Any = new_model(name, vocab_size=tokenizer.vocab_size)
    ids = torch.tensor([[70, 71, model.config.pad_token_id or 0, 72]])
    fields: dict[str, Any] = {"max_new_tokens": 4, "eos_token_id": None}
    written = generate(model, ids, torch.ones_like(ids), **fields).new_tokens[0]
    pieces = stream(model, tokenizer, ids, **fields)
    assert "".join(pieces) == tokenizer.decode(written, skip_special_tokens=True)


@pytest.mark.parametrize("source", [["a", "b"], None, {}, [[70], [71, 72]]], ids=str)
def test_a_source_that_is_no_text_and_no_ids(source):
    tokenizer = TOKENIZERS["bytes"]
    with pytest.raises(
        TypeError, match=f"text_or_ids is a {type(source).__name__} that is not a sequence"
    ):
        stream(language_model(tokenizer), tokenizer, source, max_new_tokens=2)


def test_a_tokenizer_that_is_none():
    model: Any = language_model(TOKENIZERS["bytes"])
    for tokenizer in (None, "gpt2", model):
        with pytest.raises(
            TypeError, match=f"tokenizer is a {type(tokenizer).__name__}; it must be a minit"
        ):
            stream(model, tokenizer, "ciao", max_new_tokens=2)


def test_tokens_that_the_tokenizer_does_not_have_have_no_text():
    """T5 scores 28 more ids than its tokenizer has; transformers' `decode` skips them too."""
    tokenizer = TOKENIZERS["bytes"]
    model = new_model("GPT2LMHeadModel", vocab_size=300, bos_token_id=256, eos_token_id=256)
    known = [[token] for token in range(257)]
    fields: dict[str, Any] = {"max_new_tokens": 4, "eos_token_id": None, "bad_words_ids": known}
    assert list(stream(model, tokenizer, "ciao", **fields)) == []
    assert list(stream(model, tokenizer, [70, 299], **fields, stop_strings="x")) == []
    result = generate(model, torch.tensor([[70]]), **fields, stop_strings="x", tokenizer=tokenizer)
    assert (result.new_tokens >= 257).all() and result.new_tokens.shape == (1, 4)
    grave = tokenizer("\u00ec")["input_ids"]  # a character of two tokens
    ids = [257, tokenizer("a")["input_ids"][0], 299, grave[0], 280, grave[1], 257]
    pieces = TextPieces(tokenizer, ids[:1])
    assert [pieces.add(token) for token in ids[1:]] == ["a", "", "", "", "\u00ec", ""]
    assert pieces.rest() == ""
    assert tokenizer.backend.decode(ids) == "a\u00ec"


def test_a_session_is_closed_with_its_stream(monkeypatch):
    tokenizer = TOKENIZERS["bytes"]
    model = language_model(tokenizer)
    calls = []
    monkeypatch.setattr(DecodingSession, "close", lambda _: calls.append("close"))
    pieces = stream(model, tokenizer, "ciao", max_new_tokens=12, eos_token_id=None)
    next(pieces)
    assert calls == [] and torch.is_grad_enabled()
    pieces.close()
    assert calls == ["close"]
    list(stream(model, tokenizer, "ciao", max_new_tokens=2))
    assert calls == ["close"] * 2


def test_a_stream_refuses_a_model_in_training_mode_at_once():
    tokenizer = TOKENIZERS["bytes"]
    model = language_model(tokenizer).train()
    with pytest.raises(ValueError, match="in training mode, .*dropout .*call model.eval"):
        stream(model, tokenizer, "ciao", max_new_tokens=2)
    assert model.training


def test_a_stream_with_defaults_of_its_own():
    tokenizer = TOKENIZERS["bytes"]
    model = language_model(tokenizer)
    task = GenerationConfig(max_new_tokens=5, suppress_tokens=(70, 256))
    before = model.generation_config
    ids = tokenizer("ciao", return_tensors="pt")["input_ids"]
    expected = generate(model, ids, defaults=task).new_tokens[0]
    pieces = stream(model, tokenizer, "ciao", defaults=task)
    assert "".join(pieces) == tokenizer.decode(expected, skip_special_tokens=True)
    assert model.generation_config is before


@pytest.mark.parametrize("first_to_end", [0, 1])
def test_two_streams_that_are_read_in_turn(first_to_end):
    tokenizer = TOKENIZERS["bytes"]
    model = language_model(tokenizer)
    fields: dict[str, Any] = {"max_new_tokens": 9, "eos_token_id": None}
    fields["suppress_tokens"] = list(range(94, 256))  # ASCII remains: each token is a piece
    alone = ["".join(stream(model, tokenizer, text, **fields)) for text in ("ciao", "addio")]
    pieces = [stream(model, tokenizer, text, **fields) for text in ("ciao", "addio")]
    got = [next(one) for one in pieces]
    for number in (first_to_end, 1 - first_to_end):
        got[number] += "".join(pieces[number])
    assert got == alone


def test_ctrl_c_ends_a_stream_after_what_was_generated(monkeypatch):
    tokenizer = TOKENIZERS["bytes"]
    model = language_model(tokenizer)
    fields: dict[str, Any] = {"max_new_tokens": 9, "eos_token_id": None}
    whole = "".join(stream(model, tokenizer, "ciao", **fields))
    runs, forward = [], type(model).next_token_logits

    def interrupted(*arguments: Any, **named: Any) -> Any:
        runs.append(1)
        if len(runs) == 5:
            raise KeyboardInterrupt
        return forward(*arguments, **named)

    monkeypatch.setattr(type(model), "next_token_logits", interrupted)
    got = "".join(stream(model, tokenizer, "ciao", **fields))
    written = generate(model, tokenizer("ciao", return_tensors="pt")["input_ids"], **fields)
    assert got == tokenizer.decode(written.new_tokens[0, :4], skip_special_tokens=True)
    assert 0 < len(got) < len(whole)


# ---- texts that end a sequence ----


def test_a_stop_string_is_found_across_tokens():
    tokenizer = TOKENIZERS["bytes"]
    ids = tokenizer("così, è così.")["input_ids"]
    found = StopStrings(["è c", "sì."], tokenizer, 257)
    ends = [end for end in range(1, len(ids) + 1) if found.match_at_end(ids[:end])]
    assert [tokenizer.decode(ids[:end]) for end in ends] == ["così, è c", "così, è così."]
    # A token without text completes no stop string; the token before it did.
    found = StopStrings(["è c"], tokenizer, 300)
    assert found.match_at_end([*ids[:6], 299, *ids[6:11]]) and not found.match_at_end(
        [*ids[:11], 299]
    )
    half = StopStrings(["\u00ec,"], tokenizer, 257)
    assert [end for end in range(1, len(ids) + 1) if half.match_at_end(ids[:end])] == [6]


@pytest.mark.parametrize("text", ["日本語を話します", "🙂🙃🙂🙃🙂"])
def test_a_text_of_long_characters_is_looked_for_among_enough_tokens(text):
    """A character takes three or four tokens, so that the text has many more than characters."""
    tokenizer = TOKENIZERS["bytes"]
    found = StopStrings([text], tokenizer, 257)
    ids = tokenizer(f"これは{text}")["input_ids"]
    assert found.match_at_end(ids) and not found.match_at_end(ids[:-1])
    criteria = StoppingCriteria((), found, torch.device("cpu"))
    other = tokenizer(f"これは{text[1:]}{text[0]}")["input_ids"]
    assert criteria.ended(torch.tensor([ids, other])).tolist() == [True, False]


def test_only_what_the_last_token_completes_counts():
    tokenizer = TOKENIZERS["wordpiece"]
    found = StopStrings(["dos"], tokenizer, 13)
    do, s, n = (WORDS.index(word) for word in ("do", "##s", "n"))
    assert (
        found.match_at_end([do, s])
        and found.match_at_end([n, do, s])
        and found.match_at_end([13, 13, do, s])
    )
    assert (
        not found.match_at_end([do, s, n])
        and not found.match_at_end([do])
        and not found.match_at_end([s])
    )
    assert StopStrings(["n"], tokenizer, 13).match_at_end([do, s, n])
    assert StopStrings([" n"], tokenizer, 13).match_at_end([do, n])
    # Padding is what comes after the model's ids, also where the tokenizer has more.
    assert StopStrings(["do è"], tokenizer, 13).match_at_end([do, 12])
    assert not StopStrings(["do è"], tokenizer, 12).match_at_end([do, 12])


def test_every_step_is_read_where_a_stop_string_may_be_the_end(monkeypatch):
    """Only the host can decode the tokens, so it has to look at each."""
    tokenizer = TOKENIZERS["bytes"]
    model, is_read = language_model(tokenizer), []
    open_session = type(model).decoding_session

    def noted(self: Any, *inputs: Any, **settings: Any) -> DecodingSession:
        is_read.append(settings["read_every_step"])
        return open_session(self, *inputs, **settings)

    monkeypatch.setattr(type(model), "decoding_session", noted)
    prompt = tokenizer("ciao", return_tensors="pt")["input_ids"]
    generate(model, prompt, max_new_tokens=2)
    generate(model, prompt, max_new_tokens=2, stop_strings="x", tokenizer=tokenizer)
    assert is_read == [False, True]


def theirs_with(tokenizer: Tokenizer) -> Any:
    transformers = pytest.importorskip("transformers", reason="the comparison needs transformers")
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend, eos_token="<|endoftext|>", pad_token="<|endoftext|>"
    )


def test_texts_are_found_where_transformers_finds_them():
    tokenizer = TOKENIZERS["bytes"]
    from_theirs = pytest.importorskip("transformers.generation.stopping_criteria")
    theirs, chance = theirs_with(tokenizer), random.Random(0)
    text = "La città è là: “già” così, così. 日本語"
    ids = tokenizer(text)["input_ids"]
    for _ in range(6):
        start = chance.randrange(len(text) - 5)
        string = text[start : start + chance.randint(1, 5)]
        expected = from_theirs.StopStringCriteria(theirs, [string])
        found = StopStrings([string], tokenizer, 257)
        for end in range(1, len(ids) + 1):
            there = bool(expected(torch.tensor([ids[:end]]), None))
            assert found.match_at_end(ids[:end]) == there, (string, tokenizer.decode(ids[:end]))


@pytest.mark.parametrize("beams", [1, 3])
def test_sequences_end_at_texts_as_in_transformers(beams, tmp_path):
    tokenizer = TOKENIZERS["bytes"]
    theirs_tokenizer = theirs_with(tokenizer)
    transformers = pytest.importorskip("transformers")
    model = language_model(tokenizer).float()
    model.save_pretrained(tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    prompt = tokenizer(["ciao", "addi"], return_tensors="pt")["input_ids"]
    fields: dict[str, Any] = {"max_new_tokens": 12, "num_beams": beams, "pad_token_id": 256}
    fields |= {"suppress_tokens": list(range(94, 256)), "no_repeat_ngram_size": 2}  # ASCII remains
    free = generate(model, prompt, **fields).new_tokens[0]
    fields |= {"stop_strings": tokenizer.decode(free[3:5]), "num_return_sequences": min(beams, 2)}
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), tokenizer=theirs_tokenizer, **fields
    )
    result = generate(model, prompt, **fields, tokenizer=tokenizer)
    assert result.sequences.tolist() == expected.tolist()
    texts = tokenizer.batch_decode(result.new_tokens, skip_special_tokens=True)
    assert any(text.endswith(fields["stop_strings"]) and len(text) < 12 for text in texts)


@pytest.mark.parametrize("beams", [1, 3])
def test_a_text_that_begins_in_the_prompt_ends_a_sequence_as_in_transformers(beams, tmp_path):
    tokenizer = TOKENIZERS["bytes"]
    theirs_tokenizer = theirs_with(tokenizer)
    transformers = pytest.importorskip("transformers")
    model = language_model(tokenizer).float()
    model.save_pretrained(tmp_path)
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    prompt = tokenizer(["ciao", "addi"], return_tensors="pt")["input_ids"]
    fields: dict[str, Any] = {"max_new_tokens": 6, "num_beams": beams, "pad_token_id": 256}
    fields |= {"suppress_tokens": list(range(94, 256))}  # ASCII remains
    if beams > 1:
        fields |= {"length_penalty": -5.0}  # the shortest hypothesis wins
    free = generate(model, prompt, **fields).new_tokens
    fields |= {"stop_strings": ["ao" + tokenizer.decode(free[0, :1])]}
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), tokenizer=theirs_tokenizer, **fields
    )
    result = generate(model, prompt, **fields, tokenizer=tokenizer)
    assert result.sequences.tolist() == expected.tolist()
    assert result.num_new_tokens.tolist() == [1, 6]
    # A text that ends with the prompt was there before: no new token completes it.
    fields |= {"stop_strings": ["iao"]}
    result = generate(model, prompt, **fields, tokenizer=tokenizer)
    assert torch.equal(result.new_tokens, free)


def test_sequences_that_texts_end_need_something_to_be_filled_up_with():
    tokenizer = TOKENIZERS["bytes"]
    model = language_model(tokenizer)
    ids = torch.tensor([[70, 71], [72, 73]])
    fields: dict[str, Any] = {"stop_strings": ["x"], "max_new_tokens": 2, "tokenizer": tokenizer}
    with pytest.raises(
        ValueError, match="pad_token_id=None, but sequences that a stop string ends"
    ):
        generate(model, ids, eos_token_id=None, **fields)
    assert generate(model, ids[:1], eos_token_id=None, **fields).new_tokens.shape == (1, 2)
