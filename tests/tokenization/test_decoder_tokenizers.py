"""The tokenizers of T5, GPT-2 and BART, with padding and decoding as generation needs them."""

import copy
import json
import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer.files import CheckpointError
from minitransformer.tokenization import Tokenizer
from minitransformer.tokenization.tokenizer import clean_up_tokenization
from tests.tiny import real_data

pytest.importorskip("tokenizers", reason="the tokenizer wraps the tokenizers library")

TEXTS = [
    "Il gatto dorme sul tavolo, e sogna.",
    "Perché no? L'acqua è fredda : 3 , 5 !",
    "  due  spazi, tab\te\nrighe  ",
    "I don 't know ; it 's here ' now ' . do n't",
    "日本語 text 🙂👩‍👩‍👧",
    "",
]


def vocabulary(name):
    return real_data(f"tokenizers/{name}")


def transformers():
    reason = "transformers is what the ids are compared with"
    return pytest.importorskip("transformers", reason=reason)


def real_lines(count):
    path = real_data("translation/pud-en-it.tsv")
    rows = [row.split("\t") for row in path.read_text(encoding="utf-8").splitlines()]
    lines = [line for row in rows for line in row[1:3]]
    return TEXTS + random.Random(0).sample(lines, count)


@pytest.fixture(scope="module")
def t5():
    return Tokenizer.from_pretrained(vocabulary("t5"))


@pytest.fixture(scope="module")
def gpt2():
    return Tokenizer.from_pretrained(vocabulary("gpt2"))


@pytest.fixture(scope="module")
def bart_files(tmp_path_factory):
    """vocab.json and merges.txt in BART's style, trained here."""
    folder = tmp_path_factory.mktemp("bart")
    (folder / "text.txt").write_text("\n".join(TEXTS * 3), encoding="utf-8")
    trained = Tokenizer.train(folder / "text.txt", 340, show_progress=False)
    model = json.loads(trained.backend.to_str())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]), encoding="utf-8")
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (folder / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def bart(bart_files):
    return Tokenizer.from_pretrained(bart_files)


# ---- T5 ----


def test_t5_adds_an_end_token_and_has_sentinels(t5):
    assert (t5.pad_token_id, t5.eos_token_id, t5.unk_token_id) == (0, 1, 2)
    assert t5.token_to_id("<extra_id_0>") == 32_099
    assert t5.token_to_id("<extra_id_99>") == 32_000
    ids = t5("The <extra_id_0> walks in<extra_id_1> park")["input_ids"]
    assert ids[-1] == 1
    assert ids.count(1) == 1
    assert [token for token in ids if token >= 32_000] == [32_099, 32_098]
    assert set(range(32_000, 32_100)) <= t5.special_ids
    batch = t5(["house", "one two three"], padding=True)
    assert batch["input_ids"] == [[629, 1, 0, 0], [80, 192, 386, 1]]
    assert batch["attention_mask"] == [[1, 1, 0, 0], [1, 1, 1, 1]]


@pytest.mark.parametrize("clean_up", [False, True])
def test_t5_decodes_as_transformers(t5, clean_up):
    folder = str(vocabulary("t5"))
    theirs = transformers().T5TokenizerFast.from_pretrained(
        folder, local_files_only=True, clean_up_tokenization_spaces=clean_up
    )
    ours = copy.deepcopy(t5)
    ours.clean_up_tokenization_spaces = clean_up
    texts = [*real_lines(200), "The <extra_id_0> walks in <extra_id_1> park</s>"]
    ids = ours(texts, padding=True)["input_ids"]
    assert ids == theirs(texts, padding=True)["input_ids"]
    for skip in (False, True):
        assert ours.batch_decode(ids, skip) == theirs.batch_decode(ids, skip_special_tokens=skip)
        if clean_up:  # it makes a difference for these texts
            assert ours.batch_decode(ids, skip) != t5.batch_decode(ids, skip)


# ---- GPT-2 ----


def test_gpt2_adds_nothing_and_has_one_special_token(gpt2):
    text = "Il gatto dorme."
    ids = gpt2(text)["input_ids"]
    assert ids == gpt2(text, add_special_tokens=False)["input_ids"]
    assert gpt2.decode(ids) == text
    assert gpt2.bos_token_id == gpt2.eos_token_id == 50_256
    assert gpt2("a<|endoftext|>b")["input_ids"].count(50_256) == 1
    assert "pad_token" not in gpt2.special_tokens


@pytest.mark.parametrize("side", ["left", "right"])
def test_gpt2_is_padded_on_either_side_by_the_end_token(gpt2, side):
    """As in transformers once `pad_token` is set to `eos_token`, which has none by default."""
    theirs = transformers().GPT2Tokenizer(
        vocab=str(vocabulary("gpt2") / "vocab.json"),
        merges=str(vocabulary("gpt2") / "merges.txt"),
    )
    theirs.pad_token = theirs.eos_token
    options = {"padding": True, "padding_side": side, "return_tensors": "pt"}
    batch = gpt2(TEXTS, **options)
    expected = theirs(TEXTS, **options)
    for name in ("input_ids", "attention_mask"):
        assert torch.equal(batch[name], expected[name])
    assert gpt2.padding_id == 50_256
    with pytest.raises(ValueError, match="has no pad_token"):
        _ = gpt2.pad_token_id  # padding is given by the attention mask, not by an id


def test_padding_needs_one_of_two_tokens(bart):
    assert bart.padding_id == bart.pad_token_id != bart.eos_token_id
    bare = copy.deepcopy(bart)
    bare.special_tokens.pop("pad_token")
    assert bare.padding_id == bart.eos_token_id
    assert bare(["a", "a b c"], padding=True)["input_ids"][0][-1] == bart.eos_token_id
    bare.special_tokens.pop("eos_token")
    with pytest.raises(ValueError, match=r"has no pad_token.*tokenizer.pad_token = "):
        bare(["a", "a b c"], padding=True)


@pytest.mark.parametrize("side", ["left", "right"])
def test_sequences_that_are_batched_later_are_padded_on_either_side(bart, side):
    texts = ["Il gatto", "sogna", "Il gatto dorme sul tavolo"]
    together = bart(texts, padding=True, padding_side=side, return_tensors="pt")
    later = bart(texts).padded_batch([0, 1, 2], bart.padding_id, side)
    assert later.keys() == together.keys()
    for name, value in together.items():
        assert torch.equal(later[name], value)


# ---- BART ----


def test_bart_gives_the_ids_of_transformers(bart, bart_files):
    library = transformers()
    # In the published checkpoints the mask token includes the space before it; loaded from
    # vocab.json and merges.txt by transformers (5.23), it does not.
    theirs = library.BartTokenizer(
        vocab=str(bart_files / "vocab.json"),
        merges=str(bart_files / "merges.txt"),
        mask_token=library.AddedToken("<mask>", lstrip=True, special=True),
    )
    texts = [*TEXTS, "Il <mask> dorme", "<s>x</s>"]
    for pairs in (None, texts[::-1]):
        ours = bart(texts, pairs)
        expected = theirs(texts, pairs, return_offsets_mapping=True)
        assert ours["input_ids"] == expected["input_ids"]
        assert [ours.offsets(i) for i in range(len(texts))] == expected["offset_mapping"]
        for ids in ours["input_ids"]:
            for skip in (False, True):
                assert bart.decode(ids, skip) == theirs.decode(ids, skip_special_tokens=skip)
    ids = bart("Il gatto")["input_ids"]
    assert (ids[0], ids[-1]) == (bart.bos_token_id, bart.eos_token_id)


# ---- decoding ----


def test_the_config_decides_whether_spaces_are_cleaned_up(bart_files, tmp_path):
    tokenizer = Tokenizer.train(bart_files / "text.txt", 60, "unigram", show_progress=False)
    ids = tokenizer("sogna : it 's here .")["input_ids"]
    assert tokenizer.decode(ids, True) == "sogna : it 's here ."
    tokenizer.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["clean_up_tokenization_spaces"] is False

    def load_with(value):
        changed = config | {"clean_up_tokenization_spaces": value}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(changed))
        return Tokenizer.from_pretrained(tmp_path)

    clean = load_with(True)
    assert clean.decode(ids, True) == "sogna : it's here."
    assert clean.batch_decode([ids], True) == ["sogna : it's here."]
    clean.save_pretrained(tmp_path / "again")
    assert Tokenizer.from_pretrained(tmp_path / "again").clean_up_tokenization_spaces
    assert not load_with(None).clean_up_tokenization_spaces
    with pytest.raises(
        CheckpointError, match=r"clean_up_tokenization_spaces='false'; it must be true"
    ):
        load_with("false")


def test_the_spaces_that_are_removed():
    text = "So . Why ? No ! Well , it ' s ' do n't I 'm he 's we 've you 're ; : ( x )  ."
    cleaned = "So. Why? No! Well, it's'don't I'm he's we've you're ; : ( x ) ."
    assert clean_up_tokenization(text) == cleaned


def test_byte_level_text_is_never_cleaned_up(bart):
    """As in transformers: decoding would not restore the original text."""
    tokenizer = Tokenizer(bart.backend, bart.special_tokens, clean_up_tokenization_spaces=True)
    assert tokenizer.decode(tokenizer("late .")["input_ids"], True) == "late ."


def test_a_character_whose_bytes_are_incomplete_is_decoded_as_u_fffd(bart):
    ids = bart("q漢q", add_special_tokens=False)["input_ids"]
    texts = [bart.decode(ids[:length]) for length in range(1, len(ids) + 1)]
    assert texts == ["q", "q\ufffd", "q\ufffd", "q漢", "q漢q"]


@given(text=st.text())
def test_the_text_of_a_prefix_of_the_ids_is_a_prefix_of_the_text(bart, text):
    ids = bart(text)["input_ids"]
    for skip in (False, True):
        whole = bart.decode(ids, skip)
        for length in range(len(ids)):
            assert whole.startswith(bart.decode(ids[:length], skip).rstrip("\ufffd"))


@pytest.mark.parametrize("name", ["gpt2", "t5"])
def test_the_text_of_a_prefix_of_the_ids_is_a_prefix_of_real_text(request, name):
    tokenizer = request.getfixturevalue(name)
    for ids in tokenizer(real_lines(100))["input_ids"]:
        whole = tokenizer.decode(ids)
        for length in range(len(ids)):
            assert whole.startswith(tokenizer.decode(ids[:length]).rstrip("\ufffd"))
