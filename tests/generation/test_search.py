"""Greedy and beam search, compared with transformers' generate token by token."""

import copy
import random
import warnings
from typing import Any

import pytest
import torch

from minitransformer.generation import generate
from tests.tiny import GENERATING, as_variant, language_model, language_models, prompts

pytest.importorskip("transformers", reason="the comparison needs transformers")

# One example of each setting of a search.
ASKED: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 9},
    "max_length": {"max_length": 12},
    "several ends": {"max_new_tokens": 12, "eos_token_id": [2, 11, 30, 31, 56, 57, 80]},
    "at least": {"max_new_tokens": 9, "eos_token_id": list(range(2, 90)), "min_new_tokens": 4},
    "min_length": {"max_new_tokens": 9, "eos_token_id": list(range(2, 90)), "min_length": 8},
    # Without the padding token, whose n-grams at the left of a sequence transformers counts.
    "n-grams": {"max_new_tokens": 14, "no_repeat_ngram_size": 2, "bad_words_ids": [[1]]},
    "repetition": {"max_new_tokens": 12, "repetition_penalty": 1.7},
    "forced": {"max_new_tokens": 6, "forced_bos_token_id": 7, "forced_eos_token_id": 9},
    "suppressed": {
        "max_new_tokens": 8,
        "suppress_tokens": list(range(40)),
        "begin_suppress_tokens": list(range(40, 80)),
    },
    "beams": {"num_beams": 4, "max_new_tokens": 9, "num_return_sequences": 3},
    "most end": {
        "num_beams": 2,
        "early_stopping": "never",
        "length_penalty": 5.0,
        "eos_token_id": list(range(2, 90)),
    },
    "early": {"num_beams": 3, "early_stopping": True, "eos_token_id": list(range(2, 30))},
    "never": {"num_beams": 3, "early_stopping": "never", "eos_token_id": list(range(2, 30))},
    "long": {"num_beams": 4, "length_penalty": 3.0, "eos_token_id": list(range(2, 30))},
    "short": {"num_beams": 4, "length_penalty": -1.0, "eos_token_id": list(range(2, 30))},
    "normalized": {
        "num_beams": 3,
        "bad_words_ids": [[5], [8, 9], [30, 31, 32]],
        "renormalize_logits": True,
        "exponential_decay_length_penalty": (2, 1.5),
    },
}


def their_generate(model: Any, batch: dict[str, torch.Tensor], **fields: Any) -> Any:
    """What transformers generates, with padding where it pads with something else.

    Its beams fill up with the end token where the padding token is number 0.
    """
    result = model.generate(
        **batch,
        **fields,
        return_dict_in_generate=True,
        output_scores=fields.get("num_beams", 1) > 1,
    )
    ends = fields.get("eos_token_id", model.generation_config.eos_token_id)
    ends = [ends] if isinstance(ends, int) else ends or []
    pad = fields.get("pad_token_id", model.generation_config.pad_token_id)
    prefix = fields.get("decoder_input_ids", torch.empty(1, 0))
    is_encoder_decoder = model.config.is_encoder_decoder
    start = 1 + prefix.shape[1] if is_encoder_decoder else batch["input_ids"].shape[1]
    for sequence in result.sequences:
        for position in range(start, len(sequence)):
            if int(sequence[position]) in ends:
                sequence[position + 1 :] = pad
                break
    return result


def check(family: str, batch: dict[str, torch.Tensor], **fields: Any) -> None:
    """Ours = theirs, and ours = ours without a cache and with padding on the other side."""
    our_model, their_model = language_models(family)
    padding = our_model.config.pad_token_id
    padding = 1 if padding is None else padding  # GPT-2 has none
    fields = {"max_new_tokens": 12, "pad_token_id": padding, **fields}
    if "max_length" in fields:
        del fields["max_new_tokens"]
    expected = their_generate(their_model, batch, **fields)
    result = generate(our_model, **batch, **fields)
    assert result.sequences.tolist() == expected.sequences.tolist(), fields
    if fields.get("num_beams", 1) > 1:
        torch.testing.assert_close(
            result.sequences_scores, expected.sequences_scores, rtol=1e-5, atol=1e-5
        )
    else:
        assert result.sequences_scores is None
    slowly = generate(our_model, **batch, **fields, use_cache=False)
    assert torch.equal(slowly.sequences, result.sequences), fields
    flipped = generate(our_model, **flip(batch), **fields)
    assert torch.equal(flipped.new_tokens, result.new_tokens), fields


def flip(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The same sequences with their padding on the other side."""
    flipped = []
    for ids, mask in zip(batch["input_ids"], batch["attention_mask"].bool(), strict=True):
        left = not mask[0]
        parts = [ids[mask], ids[~mask]] if left else [ids[~mask], ids[mask]]
        flags = [mask[mask], mask[~mask]] if left else [mask[~mask], mask[mask]]
        flipped.append((torch.cat(parts), torch.cat(flags)))
    ids, masks = zip(*flipped, strict=True)
    return {"input_ids": torch.stack(ids), "attention_mask": torch.stack(masks)}


@pytest.mark.parametrize("asked", ASKED)
def test_a_decoder_generates_what_transformers_generates(asked):
    check("GPT2", prompts("GPT2", [6, 2, 4]), **ASKED[asked])


@pytest.mark.parametrize("asked", ["greedy", "several ends", "forced", "beams", "long"])
@pytest.mark.parametrize("family", ["Bart", "Marian", "T5"])
def test_an_encoder_decoder_generates_what_transformers_generates(family, asked):
    check(family, prompts(family, [6, 2]), **ASKED[asked])


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", ["GPT2", "T5"])
def test_what_looks_at_the_source(family, beams):
    """Without padding, which transformers takes for tokens of the source."""
    batch = prompts(family, [7, 7])
    fields: dict[str, Any] = {"num_beams": beams}
    check(family, batch, **fields, encoder_repetition_penalty=3.0)
    check(family, batch, **fields, encoder_no_repeat_ngram_size=2, encoder_repetition_penalty=9.0)


def test_sequences_of_a_batch_are_generated_as_if_alone():
    model = language_model("GPT2")
    batch = prompts("GPT2", [6, 1, 4])
    fields = {"pad_token_id": 1, "max_new_tokens": 10, "eos_token_id": list(range(2, 20))}
    for beams in (1, 3):
        together = generate(model, **batch, **fields, num_beams=beams)
        for row in range(3):
            length = int(batch["attention_mask"][row].sum())
            alone = generate(
                model, batch["input_ids"][row : row + 1, -length:], **fields, num_beams=beams
            )
            new = together.new_tokens[row, : alone.new_tokens.shape[1]]
            assert torch.equal(new, alone.new_tokens[0])
            assert (together.new_tokens[row, alone.new_tokens.shape[1] :] == 1).all()


def test_padding_forbids_nothing():
    """In transformers it does: there the n-gram of two padding tokens counts."""
    model = language_model("GPT2")
    ids = torch.tensor([[9, 20]])
    padded = {
        "input_ids": torch.tensor([[1, 1, 1, 9, 20], [4, 5, 6, 7, 8]]),
        "attention_mask": torch.tensor([[0, 0, 0, 1, 1], [1, 1, 1, 1, 1]]),
    }
    fields: dict[str, Any] = {"pad_token_id": 1, "max_new_tokens": 6, "no_repeat_ngram_size": 1}
    fields |= {"repetition_penalty": 0.2, "encoder_repetition_penalty": 0.5}
    fields |= {
        "suppress_tokens": [token for token in range(99) if token not in (1, 9, *range(20, 30))]
    }
    alone = generate(model, ids, **fields).new_tokens[0]
    assert 1 in alone
    assert torch.equal(generate(model, **padded, **fields).new_tokens[0], alone)


def test_columns_that_are_padding_everywhere_change_nothing():
    model = language_model("GPT2")
    batch = prompts("GPT2", [5, 3])
    wide = {name: torch.nn.functional.pad(value, (2, 0)) for name, value in batch.items()}
    for fields in ({"max_new_tokens": 6}, {"max_new_tokens": 6, "num_beams": 3}):
        near = generate(model, **batch, **fields, pad_token_id=1, eos_token_id=30)
        far = generate(model, **wide, **fields, pad_token_id=1, eos_token_id=30)
        assert torch.equal(near.new_tokens, far.new_tokens)
        assert far.sequences.shape[1] == near.sequences.shape[1] + 2
    # Lengths that count the prompt count it as it was given, as in transformers.
    assert generate(model, **wide, max_length=9, eos_token_id=None).new_tokens.shape == (2, 2)


def test_fewer_hypotheses_than_requested():
    """One token, and it is forced: there is one hypothesis. transformers repeats it here."""
    result = generate(
        language_model("GPT2"),
        torch.tensor([[5, 6]]),
        max_new_tokens=1,
        num_beams=3,
        num_return_sequences=3,
        forced_eos_token_id=9,
        pad_token_id=1,
    )
    assert result.new_tokens.tolist() == [[9], [1], [1]]
    assert result.sequences_scores.tolist() == [0.0, -torch.inf, -torch.inf]


def random_fields(chance: random.Random, encoder_decoder: bool) -> dict[str, Any]:
    fields: dict[str, Any] = {"max_new_tokens": chance.randint(3, 14)}
    if chance.random() < 0.7:
        beams = chance.randint(2, 5)
        fields |= {
            "num_beams": beams,
            "num_return_sequences": chance.randint(1, beams),
            "early_stopping": chance.choice([True, False, "never"]),
            "length_penalty": chance.choice([1.0, 0.0, 2.0, -1.0, 0.5]),
        }
    choices: list[tuple[float, dict[str, Any]]] = [
        (0.5, {"eos_token_id": chance.sample(range(10, 97), chance.randint(1, 25))}),
        (0.3, {"repetition_penalty": chance.choice([1.3, 0.7])}),
        (0.3, {"no_repeat_ngram_size": chance.randint(2, 3), "bad_words_ids": [[1]]}),
        (0.3, {"bad_words_ids": [[1], chance.sample(range(2, 97), chance.randint(1, 3))]}),
        (0.3, {"min_new_tokens": chance.randint(0, fields["max_new_tokens"])}),
        (0.2, {"forced_eos_token_id": 9}),
        (0.2, {"suppress_tokens": chance.sample(range(10, 97), 30)}),
        (0.2, {"begin_suppress_tokens": chance.sample(range(10, 97), 30)}),
        (0.2, {"exponential_decay_length_penalty": (chance.randint(0, 4), 1.2)}),
        (0.2, {"renormalize_logits": True}),
    ]
    if encoder_decoder:
        choices.append((0.2, {"forced_bos_token_id": 8}))
    for share, field in choices:
        if chance.random() < share:
            fields |= field
    return fields


@pytest.mark.slow
@pytest.mark.parametrize("family", GENERATING)
def test_any_settings(family):
    for trial in range(40):
        chance = random.Random(trial)
        lengths = [chance.randint(1, 7) for _ in range(chance.randint(1, 3))]
        batch = prompts(family, lengths, seed=trial)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check(family, batch, **random_fields(chance, family != "GPT2"))


@pytest.mark.parametrize(
    ("family", "asked", "variant"),
    [
        ("Bart", "max_length", "sdpa"),
        ("Bart", "min_length", "sdpa"),
        ("Bart", "forced", "sdpa"),
        ("Bart", "beams", "optimized"),
        ("Marian", "beams", "sdpa"),
        ("Marian", "greedy", "optimized"),
        ("T5", "greedy", "optimized"),
        ("T5", "long", "sdpa"),
    ],
)
def test_a_target_prefix_is_continued_as_in_transformers(family, asked, variant):
    ours, theirs = language_models(family)
    ours = as_variant(copy.deepcopy(ours), variant)
    batch, prefix = prompts(family, [6, 2]), torch.tensor([[11, 12, 13], [40, 41, 42]])
    fields = {"decoder_input_ids": prefix, "max_new_tokens": 9, **ASKED[asked]}
    if "max_length" in fields:
        del fields["max_new_tokens"]
    start = ours.config.decoder_start_token_id
    expected = their_generate(theirs, batch, **fields)
    result = generate(ours, **batch, **fields)
    assert result.sequences.tolist() == expected.sequences.tolist()
    assert result.sequences[0, :4].tolist() == [start, 11, 12, 13]
    assert result.prompt_length == 4
    with_start = torch.nn.functional.pad(prefix, (1, 0), value=start)
    fields["decoder_input_ids"] = with_start.to(torch.int32)
    for use_cache in (True, False):
        again = generate(ours, **batch, **fields, use_cache=use_cache)
        assert torch.equal(again.sequences, result.sequences)
        if asked in ("beams", "long"):
            torch.testing.assert_close(
                again.sequences_scores, expected.sequences_scores, rtol=1e-5, atol=1e-5
            )


def test_a_target_prefix_is_continued_by_sampling():
    """The first new token is drawn from the scores that the model gives after the prefix."""
    model, source = language_model("T5"), torch.tensor([[7, 8, 9]])
    prefix = torch.tensor([[model.config.decoder_start_token_id, 11, 12]])
    draws = generate(
        model,
        source,
        decoder_input_ids=prefix,
        do_sample=True,
        top_k=3,
        max_new_tokens=1,
        num_return_sequences=3000,
        seed=0,
    )
    with torch.no_grad():
        scores = model(source, decoder_input_ids=prefix).logits[0, -1]
    best, tokens = scores.topk(3)
    found = draws.new_tokens[:, 0].bincount(minlength=len(scores))
    assert found.sum() == found[tokens].sum() == 3000
    torch.testing.assert_close(found[tokens] / 3000, best.softmax(0), rtol=0, atol=0.03)


@pytest.mark.parametrize(
    ("family", "prefix", "message"),
    [
        ("GPT2", [[11, 12]], "a GPT2LMHeadModel continues its input_ids; put them there"),
        ("Bart", [[11, 12], [11, 12]], "2 prefixes for 1 sources"),
        ("Bart", [[11, 99]], "decoder_input_ids holds 99; the ids go from 0 to 98"),
        ("Bart", [11, 12], r"decoder_input_ids has shape \(2,\); \(B, T\) is needed"),
        ("Bart", [[11, 1, 12]], "contains padding, pad_token_id=1; prefixes of one call have one"),
        ("Bart", [[11] * 39], "40 prompt tokens and 3 new ones exceed the model's 40 positions"),
    ],
)
def test_a_target_prefix_that_cannot_be_continued(family, prefix, message):
    with pytest.raises(ValueError, match=message):
        generate(
            language_model(family),
            torch.tensor([[5, 6]]),
            decoder_input_ids=torch.tensor(prefix),
            max_new_tokens=3,
        )


def test_target_prefixes_begin_with_the_start_token_or_none_does():
    model = language_model("Bart")
    start = model.config.decoder_start_token_id
    sources, prefixes = torch.tensor([[5, 6], [7, 8]]), torch.tensor([[start, 11], [11, 12]])
    with pytest.raises(ValueError, match="in some sequences only; give it in all of them or in"):
        generate(model, sources, decoder_input_ids=prefixes, max_new_tokens=3)
