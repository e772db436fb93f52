"""Marian's tokenizer, on SentencePiece models trained here: equal to transformers', strict."""

import copy
import io
import json
import pickle
import random
import sys
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from minitransformer.files import CheckpointError
from minitransformer.tokenization import Tokenizer
from tests.tiny import real_data

pytest.importorskip("tokenizers", reason="the tokenizer wraps the tokenizers library")
sentencepiece = pytest.importorskip(
    "sentencepiece", reason="Marian's tokenizer splits texts with it"
)

ENGLISH = [
    "The cat sleeps on the table, and dreams of the garden.",
    "Why not? The water is cold today, but the garden is warm.",
    "She reads a book about the sea; he writes letters to the city.",
    "What a day! They walked along the river and talked until night.",
]
ITALIAN = [
    "Il gatto dorme sul tavolo e sogna il giardino.",
    "Perché no? Oggi l'acqua è fredda, ma il giardino è caldo.",
    "Lei legge un libro sul mare; lui scrive lettere alla città.",
    "Che giornata! Camminarono lungo il fiume e parlarono fino a notte.",
]
# Edge cases: language codes, special tokens, spaces, and what a normalizer changes.
ODD = [
    *("", " ", "\n", "  due  spazi ", "tab\te", ">>fra<< Il mare", ">>fra<<", ">>zzz<< Il mare"),
    *(">> a << b", " >>fra<< x", "il</s> mare <pad>", "</s>>>fra<< il<unk>x</s>", "<</s>>"),
    *("日本語 text 🙂👩‍👩‍👧", "a\u200bb\u0301", "ﬁn ½ e\u0301", "ﷺ mare", "x\u00a0y\u0000z"),
    *("\u1100\u1161\u11a8", "\uff21\uff1c/s\uff1e", "▁▁ il▁mare", "città perché XYZ"),
]


def spm(lines, size, **options):
    """A SentencePiece model of `size` pieces at most, as bytes."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_writer=model,
        vocab_size=size,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


def write_marian(folder, source, target, **config):
    """A checkpoint as transformers' converter makes it: one vocabulary for both models."""
    vocab = {"</s>": 0, "<unk>": 1}
    for model in map(processor, (source, target)):
        for index in range(model.get_piece_size()):
            # Some are left out: they become <unk>.
            if not model.is_control(index) and not model.is_unknown(index) and index % 7:
                vocab.setdefault(model.id_to_piece(index), len(vocab))
    for token in (">>fra<<", ">>ita<<", "<pad>"):
        vocab[token] = len(vocab)
    folder.mkdir(exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    (folder / "source.spm").write_bytes(source)
    (folder / "target.spm").write_bytes(target)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def processor(model):
    return sentencepiece.SentencePieceProcessor(model_proto=model)


@pytest.fixture(scope="session")
def models():
    return spm(ENGLISH * 3, 120), spm(ITALIAN * 3, 120)


@pytest.fixture(scope="session")
def checkpoint(models, tmp_path_factory):
    config = {"source_lang": "eng", "target_lang": "ita", "model_max_length": 512}
    return write_marian(tmp_path_factory.mktemp("marian"), *models, **config)


@pytest.fixture
def writable(checkpoint, tmp_path):
    for path in checkpoint.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


@pytest.fixture(scope="session")
def ours(checkpoint):
    return Tokenizer.from_pretrained(checkpoint)


def their_tokenizer(folder, name="MarianTokenizer"):
    reason = "transformers is what the ids are compared with"
    transformers = pytest.importorskip("transformers", reason=reason)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Recommended: pip install sacremoses")
        return getattr(transformers, name).from_pretrained(folder, local_files_only=True)


@pytest.fixture(scope="session")
def theirs(checkpoint):
    return their_tokenizer(checkpoint)


# ---- against transformers ----


def assert_equal(ours, theirs, texts, **options):
    for side in ("text", "text_target"):
        expected = theirs(**{side: texts}, **options)
        batch = ours(**{side: texts}, **options)
        assert batch["input_ids"] == expected["input_ids"]
        assert batch["attention_mask"] == expected["attention_mask"]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"add_special_tokens": False},
        {"truncation": True, "max_length": 9},
        {"padding": True, "padding_side": "left"},
        {"padding": "max_length", "truncation": True, "max_length": 20},
    ],
)
def test_source_and_target_texts_give_the_ids_of_transformers(ours, theirs, options):
    assert_equal(ours, theirs, ENGLISH + ITALIAN + ODD, **options)


def test_the_two_models_split_texts_differently(ours):
    """So that the test above cannot pass with one model for both."""
    differ = [ours(text)["input_ids"] != ours(text_target=text)["input_ids"] for text in ITALIAN]
    assert all(differ)


def test_pairs_are_joined_as_in_transformers(ours, theirs):
    first, second = ENGLISH + ODD[:4], ODD[-4:] + ITALIAN
    assert ours(first, second)["input_ids"] == theirs(first, second)["input_ids"]


@settings(max_examples=100)
@given(text=st.text())
def test_any_text_gives_the_ids_of_transformers(ours, theirs, text):
    assert_equal(ours, theirs, [text, f">>fra<<{text}", f"il {text} mare"])


def test_decoding_equals_transformers(ours, theirs):
    for batch in (ours(ENGLISH + ODD), ours(text_target=ITALIAN + ODD)):
        for ids in batch["input_ids"]:
            for skip in (False, True):
                # Without the argument, transformers (5.23) decodes by the source's model, which
                # leaves two spaces after "<unk>" if it lacks the piece that follows.
                expected = theirs.decode(ids, skip_special_tokens=skip, use_source_tokenizer=False)
                assert ours.decode(ids, skip) == expected
            assert ours.decode(ids, True) == theirs.decode(ids, skip_special_tokens=True)
    ids = ours(text_target=ITALIAN, padding=True, return_tensors="np")["input_ids"]
    assert ours.batch_decode(ids, True) == theirs.batch_decode(ids, skip_special_tokens=True)


@pytest.mark.parametrize(
    "options",
    [
        {"model_type": "bpe"},
        {"byte_fallback": True},
        {"add_dummy_prefix": False},
        {"normalization_rule_name": "identity", "remove_extra_whitespaces": False},
    ],
)
def test_other_kinds_of_models_equal_transformers(tmp_path, options):
    target = spm(ITALIAN * 3, 400, **options)
    write_marian(tmp_path, spm(ENGLISH * 3, 120), target)
    ours, theirs = Tokenizer.from_pretrained(tmp_path), their_tokenizer(tmp_path)
    texts = ITALIAN + ODD
    assert_equal(ours, theirs, texts)
    batch = ours(text_target=texts)
    for index, ids in enumerate(batch["input_ids"]):
        expected = theirs.decode(ids, skip_special_tokens=True, use_source_tokenizer=False)
        assert ours.decode(ids, True) == expected
        *words, end = batch.word_ids(index)
        assert end is None and words == sorted(words)
        assert set(words) == set(range(len(set(words))))  # numbered without a gap


def test_cleaning_up_equals_transformers(ours, theirs):
    ids = ours("The cat 's cold . Why ?")["input_ids"]
    cleaning = copy.copy(ours)
    cleaning.clean_up_tokenization_spaces = True
    expected = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=True)
    assert cleaning.decode(ids, True) == expected != ours.decode(ids, True)


@pytest.mark.slow
def test_a_thousand_real_pairs_equal_transformers(tmp_path):
    pairs = real_data("translation/pud-en-it.tsv").read_text(encoding="utf-8")
    fields = [line.split("\t") for line in pairs.splitlines()]
    english, italian = [field[1] for field in fields], [field[2] for field in fields]
    write_marian(tmp_path, spm(english[:500], 1000), spm(italian[:500], 1000))
    ours, theirs = Tokenizer.from_pretrained(tmp_path), their_tokenizer(tmp_path)
    texts = english + italian
    assert len(texts) == 2000
    assert_equal(ours, theirs, texts)
    for ids in ours(text_target=texts)["input_ids"]:
        for skip in (False, True):
            expected = theirs.decode(ids, skip_special_tokens=skip, use_source_tokenizer=False)
            assert ours.decode(ids, skip) == expected


# ---- ids ----


def test_an_end_token_is_added_and_no_token_at_the_start(ours):
    assert ours.special_tokens == {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    ids = ours("The cat")["input_ids"]
    assert ids.count(ours.eos_token_id) == 1
    assert ids[-1] == ours.eos_token_id == 0
    assert ours.unk_token_id not in ids
    assert ours.pad_token_id == ours.vocab_size - 1 == len(ours) - 1


def test_a_language_code_is_one_token_known_or_not(ours):
    plain = ours("The cat")["input_ids"]
    assert ours(">>fra<< The cat")["input_ids"] == [ours.token_to_id(">>fra<<"), *plain]
    assert ours(">>zzz<< The cat")["input_ids"] == [ours.unk_token_id, *plain]
    assert ours.decode(ours(">>fra<< The cat")["input_ids"], True) == ">>fra<< The cat"


def test_the_vocabulary_decides_which_pieces_are_known(models, tmp_path):
    """Not the model that split the text: a piece that it lacks may be one of the other model's."""
    source = processor(models[0])
    assert source.piece_to_id("è") == source.unk_id()
    vocab = {"</s>": 0, "<unk>": 1, "▁": 2, "è": 3, "<pad>": 4}
    write_marian(tmp_path, *models)
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert tokenizer("è")["input_ids"] == [2, 3, 0]
    assert tokenizer("the")["input_ids"][-2] == 1  # only in the model
    assert tokenizer.tokenize("the")[-1] == "<unk>"  # transformers shows the piece


@pytest.mark.parametrize("missing", [["<pad>"], ["</s>", "<pad>"]])
def test_a_special_token_without_an_id_gets_the_next_one(writable, missing):
    vocab = json.loads((writable / "vocab.json").read_text(encoding="utf-8"))
    kept = [token for token in vocab if token not in missing]
    vocab = {token: index for index, token in enumerate(kept)}
    (writable / "vocab.json").write_text(json.dumps(vocab))
    tokenizer, theirs = Tokenizer.from_pretrained(writable), their_tokenizer(writable)
    assert_equal(tokenizer, theirs, ENGLISH)
    assert [tokenizer.token_to_id(token) for token in missing] == [
        len(kept) + index for index in range(len(missing))
    ]
    assert tokenizer.pad_token_id == theirs.pad_token_id
    assert tokenizer.eos_token_id == theirs.eos_token_id


def test_an_id_may_be_given_by_the_config_alone(writable):
    vocab = json.loads((writable / "vocab.json").read_text(encoding="utf-8"))
    del vocab["<pad>"]
    (writable / "vocab.json").write_text(json.dumps(vocab))
    config = {"added_tokens_decoder": {"500": {"content": "<pad>", "special": True}}}
    (writable / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = Tokenizer.from_pretrained(writable)
    assert (tokenizer.pad_token_id, tokenizer.vocab_size) == (500, 501)
    assert their_tokenizer(writable).pad_token_id == 500


def test_a_special_token_that_only_the_normalizer_produces_is_not_one(writable, models):
    vocab = json.loads((writable / "vocab.json").read_text(encoding="utf-8"))
    vocab["##"] = vocab.pop("<pad>")
    (writable / "vocab.json").write_text(json.dumps(vocab))
    (writable / "tokenizer_config.json").write_text('{"pad_token": "##"}')
    text = "il \uff03\uff03\uff03 mare"
    assert "###" in processor(models[0]).encode(text, out_type=str)
    tokenizer = Tokenizer.from_pretrained(writable)
    assert_equal(tokenizer, their_tokenizer(writable), [text, "il ### mare"])
    assert tokenizer.pad_token_id not in tokenizer(text)["input_ids"]
    assert tokenizer.pad_token_id in tokenizer("il ### mare")["input_ids"]


# ---- offsets and word ids ----


def test_offsets_are_the_characters_of_the_piece(ours):
    text = ">>fra<< The  cat</s> sleeps\u00a0on è."
    batch = ours(text)
    pieces = [text[start:end] for start, end in batch.offsets()]
    words = ["".join(of_word(batch, pieces, word)) for word in range(7)]
    # A piece that is nothing but a space covers it.
    assert words == [">>fra<<", "The", "cat", "</s>", "sleeps", "\u00a0on", " è."]
    assert "".join(pieces) == "".join(words)
    assert of_word(batch, pieces, 6)[:2] == [" ", "è"]
    assert (batch.offsets()[-1], batch.word_ids()[-1]) == ((0, 0), None)
    assert batch.sequence_ids() == [0] * (len(pieces) - 1) + [None]


def of_word(batch, pieces, word):
    return [p for p, own in zip(pieces, batch.word_ids(), strict=True) if own == word]


def test_offsets_of_target_texts_are_those_of_the_target_model(ours, models):
    for text in ITALIAN:
        pieces = processor(models[1]).encode(text, out_type=str)
        found = [text[start:end] for start, end in ours(text_target=text).offsets()]
        expected = [piece.replace("▁", "") or " " for piece in pieces]
        expected[0] = expected[0].strip()  # the text does not begin with a space
        assert found == [*expected, ""]


@given(text=st.text())
def test_offsets_lie_within_the_text_and_never_decrease(ours, text):
    batch = ours(text)
    spans = batch.offsets()[:-1]
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    assert all(before[0] <= after[0] for before, after in pairwise(spans))
    assert batch.word_ids()[:-1] == sorted(batch.word_ids()[:-1])


def test_offsets_with_padding_windows_and_pairs(ours):
    first, second = "The cat sleeps on the table", "Why not?"
    plain = ours([first, second])
    padded = ours([first, second], padding=True, padding_side="left", return_tensors="pt")
    padding = padded["input_ids"].shape[1] - len(plain["input_ids"][1])
    assert padded.offsets(1) == [(0, 0)] * padding + plain.offsets(1)
    assert padded.word_ids(1) == [None] * padding + plain.word_ids(1)
    char = first.index("table")
    token = plain.char_to_token(0, char)
    assert plain.token_to_chars(0, token)[0] == char
    with pytest.raises(ValueError, match="white space, which belongs to no token"):
        plain.char_to_token(0, char - 1)
    pair = ours(first, second)
    middle = len(plain["input_ids"][0]) - 1
    assert pair.offsets() == plain.offsets(0)[:-1] + plain.offsets(1)
    assert pair.sequence_ids()[middle] == 1
    windows = ours(first, truncation=True, max_length=6, stride=2, return_overflowing_tokens=True)
    whole = plain.offsets(0)[:-1]
    assert len(windows["input_ids"]) > 2
    for index in range(len(windows["input_ids"]) - 1):
        assert windows.offsets(index)[:-1] == whole[3 * index : 3 * index + 5]


# ---- files ----


def test_words_and_their_characters(ours, theirs):
    words = [ENGLISH[0].split(), ["</s>x", ">>fra<<", "il mare"]]
    batch = ours(words, is_split_into_words=True, return_offsets_mapping=True)
    assert batch.input_ids == theirs(words, is_split_into_words=True)["input_ids"]
    for index, text in enumerate(words):
        places = zip(
            batch.tokens(index), batch.word_ids(index), batch.offset_mapping[index], strict=True
        )
        for token, word, (start, end) in list(places)[:-1]:
            assert token in (
                "<unk>",
                "\u2581",
                "\u2581" + text[word][start:end],
                text[word][start:end],
            )
        assert set(batch.word_ids(index)[:-1]) == set(range(len(text)))
    text = ours(ENGLISH[0])
    token = text.char_to_token(5)
    assert text.tokens()[token - 1 : token + 1] == ["\u2581c", "at"]
    assert text.word_to_chars(1) == (4, 7)
    assert text.word_to_tokens(1) == (token - 1, token + 1)
    assert ours(ENGLISH[0], ENGLISH[1]).char_to_token(0, 0, 1) == len(text.tokens()) - 1


def test_the_other_names_of_transformers(ours, theirs):
    options = {"truncation": True, "max_length": 9}
    batch = ours(ENGLISH, text_target=ITALIAN, **options)
    assert dict(batch) == dict(theirs(ENGLISH, text_target=ITALIAN, **options))
    ids = ours(text_target=ITALIAN[0])["input_ids"]
    tokens = ours.convert_ids_to_tokens(ids)
    assert tokens == theirs.convert_ids_to_tokens(ids)
    assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
    assert ours.encode(ENGLISH[0]) == theirs.encode(ENGLISH[0])
    assert ours.get_vocab() == theirs.get_vocab()
    assert ours.all_special_ids == theirs.all_special_ids
    features = [{"input_ids": [3, 4]}, {"input_ids": [3]}]
    assert dict(ours.pad(features)) == dict(theirs.pad(features))
    with pytest.raises(ValueError, match="'Xyz' cannot be added: the tokens of a Marian"):
        ours.add_tokens("Xyz")


def test_what_we_save_loads_here_and_in_transformers(ours, checkpoint, tmp_path):
    ours.save_pretrained(tmp_path / "saved")
    for name in ("source.spm", "target.spm"):
        assert (tmp_path / "saved" / name).read_bytes() == (checkpoint / name).read_bytes()
    vocab = (json.loads((f / "vocab.json").read_text()) for f in (checkpoint, tmp_path / "saved"))
    assert next(vocab) == next(vocab)
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "MarianTokenizer"
    assert (config["source_lang"], config["target_lang"]) == ("eng", "ita")
    again = Tokenizer.from_pretrained(tmp_path / "saved")
    assert again.model_max_length == 512
    texts = ENGLISH + ODD
    assert again(texts) == ours(texts)
    assert again(text_target=texts) == ours(text_target=texts)
    auto = their_tokenizer(tmp_path / "saved", "AutoTokenizer")
    assert type(auto).__name__ == "MarianTokenizer"
    assert_equal(ours, auto, texts)


def test_what_transformers_saves_loads_here(ours, theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again(ENGLISH + ODD) == ours(ENGLISH + ODD)
    assert again.special_tokens == ours.special_tokens


def test_copies_are_the_same_tokenizer(ours):
    texts = [*ENGLISH, "<</s>>"]
    for again in (copy.deepcopy(ours), pickle.loads(pickle.dumps(ours))):
        assert again(texts) == ours(texts)
        assert again(text_target=texts) == ours(text_target=texts)
    batch = pickle.loads(pickle.dumps(ours(texts, padding=True)))
    assert batch.offsets(1) == ours(texts, padding=True).offsets(1)


def test_the_first_marian_checkpoints_call_themselves_bart(ours, writable):
    (writable / "tokenizer_config.json").unlink(missing_ok=True)
    (writable / "config.json").write_text('{"model_type": "bart"}')
    assert Tokenizer.from_pretrained(writable)("The cat") == ours("The cat")


def test_the_config_decides_between_two_tokenizers_in_one_directory(ours, writable):
    (writable / "text.txt").write_text("\n".join(ENGLISH))
    other = Tokenizer.train(writable / "text.txt", 300, show_progress=False)
    other.backend.save(str(writable / "tokenizer.json"))
    assert Tokenizer.from_pretrained(writable)("The cat") == other("The cat")
    (writable / "config.json").write_text('{"model_type": "marian"}')
    assert Tokenizer.from_pretrained(writable)("The cat") == other("The cat")
    (writable / "tokenizer_config.json").write_text('{"tokenizer_class": "MarianTokenizer"}')
    assert Tokenizer.from_pretrained(writable)("The cat") == ours("The cat")
    assert Tokenizer.from_pretrained(writable / "tokenizer.json")("The cat") == other("The cat")
    for last in (other, ours, other):  # what was saved last, over what was there
        last.save_pretrained(writable)
        assert Tokenizer.from_pretrained(writable)("The cat") == last("The cat")


# ---- broken files ----


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("source.spm", None, "source.spm is missing"),
        ("target.spm", None, "target.spm is missing"),
        ("vocab.json", None, "vocab.json is missing"),
        ("source.spm", b"", "source.spm has 0 bytes"),
        ("source.spm", b"no model at all", "source.spm is not a SentencePiece model"),
        ("target.spm", b"\x80\x04\x95.", "target.spm is not a SentencePiece model"),
        ("vocab.json", b"{", "vocab.json is not valid JSON"),
        ("vocab.json", b"[1, 2]", r"vocab.json contains \[1, 2\]; it must be"),
        ("vocab.json", b'{"</s>": 0}', "vocab.json cannot be used: .*has no '<unk>'"),
        ("vocab.json", b'{"<unk>": -1}', "vocab.json cannot be used"),
        ("vocab.json", b'{"<unk>": "a"}', "vocab.json cannot be used"),
        ("vocab.json", b'{"<unk>": 99999999999}', "vocab.json cannot be used"),
        ("vocab.json", b'{"<unk>": 4000000000}', "every token needs its own"),
        ("vocab.json", b'{"<unk>": 1, "a": 1}', "every token needs its own"),
        (
            "tokenizer_config.json",
            b'{"separate_vocabs": true}',
            "separate_vocabs=True, which is not",
        ),
        ("tokenizer_config.json", b'{"sp_model_kwargs": {"alpha": 1}}', "has sp_model_kwargs="),
        (
            "tokenizer_config.json",
            b'{"extra_special_tokens": ["<s>"]}',
            "'<s>' is an added token; .*remove it from .*tokenizer_config.json",
        ),
        (
            "tokenizer_config.json",
            b'{"added_tokens_decoder": {"999": 3}}',
            r"decoder\[999\]=3; a token is",
        ),
        (
            "tokenizer_config.json",
            b'{"added_tokens_decoder": []}',
            r"decoder=\[\]; it must be an object, id to token",
        ),
        ("added_tokens.json", b'{"<new>": 500}', "'<new>' is an added token; .*remove it"),
        ("special_tokens_map.json", b'{"additional_special_tokens": ["<e1>"]}', "'<e1>' is an add"),
        ("tokenizer_config.json", b'{"image_token": "<e1>"}', "'<e1>' is an added token"),
        ("added_tokens.json", b'{"</s>": 5}', "the id 0 here and 5 in added_tokens.json"),
        ("special_tokens_map.json", b'{"unk_token": "<none>"}', "has no '<none>'"),
    ],
)
def test_a_broken_file_is_one_error_that_names_it(name, content, match, writable):
    (writable / name).unlink(missing_ok=True)
    if content is not None:
        (writable / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=match):
        Tokenizer.from_pretrained(writable)


@pytest.mark.parametrize("flag", ["lstrip", "rstrip", "single_word"])
def test_a_special_token_that_strips_spaces_is_refused(flag, writable):
    token = {"content": "</s>", flag: True, "special": True}
    config = {"added_tokens_decoder": {"0": token}}
    (writable / "tokenizer_config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=f"'</s>' with {flag}=true is not supported"):
        Tokenizer.from_pretrained(writable)


def test_a_model_that_is_a_link_out_of_the_directory_is_not_opened(writable, checkpoint):
    (writable / "target.spm").unlink()
    (writable / "target.spm").symlink_to(checkpoint / "target.spm")
    with pytest.raises(CheckpointError, match="leads out of its directory"):
        Tokenizer.from_pretrained(writable)


def test_damaged_models_are_refused_or_work(writable, models):
    """No damage ends the process: a random sample of changed and missing bytes."""
    draw = random.Random(0)
    outcomes = set()
    for _ in range(30):
        damaged = bytearray(models[0])
        for _ in range(draw.choice([1, 20])):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        (writable / "source.spm").write_bytes(damaged[: draw.choice([None, None, 5000])])
        try:
            batch = Tokenizer.from_pretrained(writable)(ENGLISH + ODD)
            outcomes.add(len(batch["input_ids"]))
        except CheckpointError:
            outcomes.add(0)
    assert outcomes == {0, len(ENGLISH + ODD)}


def test_an_id_outside_the_vocabulary(ours):
    with pytest.raises(ValueError, match=rf"not in the vocabulary; ids are 0 to {len(ours) - 1}"):
        ours.decode(np.array([0, len(ours)]))


def test_without_sentencepiece_the_error_names_what_to_install(checkpoint, monkeypatch):
    monkeypatch.delattr(sentencepiece.SentencePieceProcessor, "encode_as_offset_mapping")
    with pytest.raises(ImportError, match=r"does not return the offsets .* 'sentencepiece>=0.2.3'"):
        Tokenizer.from_pretrained(checkpoint)
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(ImportError, match=r"source.spm .* pip install 'sentencepiece>=0.2.3'"):
        Tokenizer.from_pretrained(checkpoint)
