"""What one types with transformers: the same names, forms and results, or one error that helps."""

import copy
import json
import os
import re
import signal
import threading
import time
import warnings

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from minitransformer.elsewhere import TOKENIZER, TOKENIZING
from minitransformer.files import CheckpointError
from minitransformer.tokenization import BatchEncoding, Tokenizer
from minitransformer.tokenization.tokenizer import _BACKEND_LOCK

pytest.importorskip("tokenizers", reason="the tokenizer wraps the tokenizers library")

TEXTS = [
    "Il gatto dorme sul tavolo, e sogna.",
    "Perché no? L'acqua è fredda.",
    "il mare, il gatto; il giardino",
]
ALGORITHMS = ["bpe", "wordpiece", "unigram"]
SIZES = {"bpe": 300, "wordpiece": 60, "unigram": 60}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A tokenizer of each kind; byte-level BPE adds a space, so it takes words."""
    tokenizers = {}
    for algorithm in ALGORITHMS:
        folder = tmp_path_factory.mktemp(algorithm)
        options = {"algorithm": algorithm, "show_progress": False}
        Tokenizer.train(texts=TEXTS * 3, vocab_size=SIZES[algorithm], **options).save_pretrained(
            folder
        )
        settings = {"add_prefix_space": True} if algorithm == "bpe" else {}
        tokenizers[algorithm] = Tokenizer.from_pretrained(folder, **settings)
    return tokenizers


@pytest.fixture(params=ALGORITHMS)
def both(request, trained):
    """Our tokenizer and transformers', of one vocabulary."""
    transformers = pytest.importorskip("transformers", reason="results are compared with its own")
    ours = copy.deepcopy(trained[request.param])
    theirs = transformers.PreTrainedTokenizerFast(
        tokenizer_object=copy.deepcopy(ours.backend),
        model_input_names=ours.model_input_names,
        **ours.special_tokens,
    )
    return ours, theirs


@pytest.fixture
def bert(trained):
    return trained["wordpiece"]


def assert_same(batch, expected):
    assert list(batch) == list(expected)
    for name, value in expected.items():
        if isinstance(value, list):
            assert batch[name] == value, name
        else:
            assert torch.equal(torch.as_tensor(batch[name]), torch.as_tensor(value)), name


# ---- a call ----

WORDS = [text.split() for text in TEXTS]
WINDOWS = {"truncation": "only_first", "max_length": 16, "stride": 2}
EXTRAS = ("offsets_mapping", "special_tokens_mask", "length", "token_type_ids")
OPTIONS = [
    {},
    {f"return_{name}": True for name in EXTRAS},
    {"return_attention_mask": False, "return_token_type_ids": False},
    {"padding": True, "pad_to_multiple_of": 8, "return_tensors": "pt"},
    {"padding": "max_length", "max_length": 91, "pad_to_multiple_of": 8},
    {
        "padding": True,
        "return_offsets_mapping": True,
        "return_length": True,
        "return_tensors": "np",
    },
    {**WINDOWS, "return_overflowing_tokens": True, "return_offsets_mapping": True},
    {"padding": "do_not_pad", "truncation": None, "return_attention_mask": None, "verbose": True},
]


@pytest.mark.parametrize("options", OPTIONS)
def test_calls_return_what_they_return_in_transformers(both, options):
    ours, theirs = both
    words = {"is_split_into_words": True}
    for inputs, keywords in (
        ((TEXTS,), {}),
        ((TEXTS[0],), {}),
        ((TEXTS[0], "e"), {}),
        ((list(zip(TEXTS, "abc", strict=True)),), {}),
        ((WORDS,), words),
        ((WORDS[0],), words),
        ((WORDS, [["il"]] * 3), words),
    ):
        batch = ours(*inputs, **keywords, **options)
        expected = theirs(*inputs, **keywords, **options)
        assert_same(batch, expected)
        for index in range(len(batch.encodings)):
            assert batch.word_ids(index) == expected.word_ids(index)
    assert_same(ours(text=TEXTS, text_pair=TEXTS), theirs(text=TEXTS, text_pair=TEXTS))


def test_arrays_and_series_of_texts_are_lists_of_texts(bert):
    expected = bert(TEXTS)
    assert bert(np.array(TEXTS)) == bert(np.array(TEXTS, dtype=object)) == bert(tuple(TEXTS))
    assert bert(np.array(TEXTS)) == expected

    class Series:  # as far as a pandas Series is concerned here
        def tolist(self):
            return TEXTS

    assert bert(Series()) == expected
    assert bert(np.array(TEXTS[0])) == bert(TEXTS[0])
    with pytest.raises(TypeError, match=r"not generator: pass list\(text\)"):
        bert(text for text in TEXTS)


def test_words_need_a_tokenizer_that_keeps_them_apart(trained, tmp_path):
    trained["bpe"].save_pretrained(tmp_path)
    joins = Tokenizer.from_pretrained(tmp_path, add_prefix_space=False)
    with pytest.raises(ValueError, match=r"from_pretrained\(path, add_prefix_space=True\)"):
        joins(WORDS, is_split_into_words=True)
    with pytest.raises(TypeError, match=r"text\[1\] must be a list of words, not str"):
        joins([WORDS[0], "il"], is_split_into_words=True)
    batch = trained["bpe"](WORDS[0], is_split_into_words=True)
    with pytest.raises(ValueError, match="given as words"):
        batch.char_to_token(0)


@pytest.mark.parametrize("padding", [False, True])
def test_targets_beside_texts_are_labels(both, padding):
    ours, theirs = both
    options = {"truncation": True, "max_length": 9, "max_target_length": 7, "padding": padding}
    batch = ours(TEXTS, text_target=["il", *TEXTS[1:]], **options)
    expected = theirs(TEXTS, text_target=["il", *TEXTS[1:]], **options)
    pad, labels = ours.pad_token_id, batch.pop("labels")
    assert [[pad if i == -100 else i for i in ids] for ids in labels] == expected.pop("labels")
    assert (labels[0][-1] == -100) == padding
    assert_same(batch, expected)
    assert ours("il", text_target="mare").labels == ours("mare").input_ids


def test_arguments_that_contradict_each_other_are_named(bert):
    for match, options in (
        ("pad_to_multiple_of=8 has no effect", {"pad_to_multiple_of": 8}),
        ("pad_to_multiple_of=0 must", {"pad_to_multiple_of": 0, "padding": True}),
        (
            "max_length=9 is not a multiple of pad_to_multiple_of=8",
            {"pad_to_multiple_of": 8, "padding": "max_length", "truncation": True, "max_length": 9},
        ),
        (
            "one target, and no windows",
            {"text_target": "il", **WINDOWS, "return_overflowing_tokens": True},
        ),
    ):
        with pytest.raises(ValueError, match=match):
            bert(TEXTS[0], **options)
    for name, (harmless, instead) in TOKENIZING.items():
        for value in harmless:
            assert bert(TEXTS[0], **{name: value}) == bert(TEXTS[0])
        if instead:
            with pytest.raises(TypeError, match=re.escape(instead)):
                bert(TEXTS[0], **{name: "x"})
    for method in (bert, bert.encode_plus, bert.pad, bert.decode, bert.batch_decode):
        with pytest.raises(TypeError, match="unknown argument 'paddin'; "):
            method([], paddin=True)
    with pytest.raises(TypeError, match="two texts in each tuple"):
        bert([("il", "mare"), "il"])


# ---- the batch ----


def test_the_values_of_a_batch_are_attributes_and_keys(bert):
    batch = bert(TEXTS[:2], padding=True, return_tensors="pt")
    assert batch.input_ids is batch["input_ids"] is batch.data["input_ids"]
    assert list(batch.keys()) == ["input_ids", "token_type_ids", "attention_mask"]
    batch.update({"start_positions": [1, 2]})
    assert batch.start_positions == [1, 2]
    assert batch[1].ids == batch.input_ids[1].tolist()
    assert len(batch[:2]) == 2
    assert not hasattr(batch, "labels")
    with pytest.raises(AttributeError, match=r"no 'labels', only input_ids, token_type_ids, att"):
        _ = batch.labels
    for name, argument in (
        ("offset_mapping", "return_offsets_mapping=True"),
        ("overflow_to_sample_mapping", "return_overflowing_tokens=True"),
    ):
        with pytest.raises(KeyError, match=argument):
            batch[name]
    plain = BatchEncoding({"input_ids": [[1], [2]], "score": [0.5, 1.0]}, tensor_type="pt")
    assert plain.input_ids.dtype == torch.int64
    assert plain.score.dtype == torch.float32
    with pytest.raises(ValueError, match=r"no texts of sequence 0: only what the tokenizer"):
        plain.tokens()
    with pytest.raises(ValueError, match="no texts of sequence 7: it has 2"):
        batch.offsets(7)


def test_indices_in_one_sequence_or_in_several_are_those_of_transformers(both):
    ours, theirs = both
    several, one = ours(TEXTS, TEXTS[::-1]), ours(TEXTS[0], TEXTS[1])
    expected = theirs(TEXTS, TEXTS[::-1])
    methods = {
        "char_to_token": len(TEXTS[0]),
        "char_to_word": len(TEXTS[0]),
        "token_to_chars": len(several.tokens()),
        "token_to_word": len(several.tokens()),
        "token_to_sequence": len(several.tokens()),
        "word_to_tokens": 5,
        "word_to_chars": 5,
    }
    seconds = {"char_to_token", "char_to_word", "word_to_tokens", "word_to_chars"}
    for method, count in methods.items():
        for index in range(count):
            for arguments in [(0, index), (0, index, 1)] if method in seconds else [(0, index)]:
                theirs_is = getattr(expected, method)(*arguments)
                try:
                    found = getattr(several, method)(*arguments)
                except ValueError:
                    found = None
                assert found == theirs_is, (method, arguments)
        index = count // 2
        try:
            alone = getattr(one, method)(index)
        except ValueError:
            continue
        assert alone == getattr(ours(TEXTS[0], TEXTS[1]), method)(0, index)
        with pytest.raises(ValueError, match=rf"has 3: {method}\(batch_index, {index}\)"):
            getattr(several, method)(index)
    assert one.token_to_chars(2).start == one.offsets()[2][0]
    with pytest.raises(ValueError, match="tokens, so none with index 999"):
        one.token_to_chars(999)
    with pytest.raises(ValueError, match="no token of sequence 0 belongs to word 99"):
        one.word_to_tokens(99)
    with pytest.raises(ValueError, match=r"has 1 text\(s\)"):
        ours(TEXTS[0]).char_to_token(0, 0, 1)


# ---- texts, tokens and ids ----


def test_the_steps_of_a_call_are_those_of_transformers(both):
    ours, theirs = both
    for text in (*TEXTS, "漢字 il"):
        assert ours.tokenize(text) == theirs.tokenize(text)
        ids = ours.encode(text, "il mare")
        assert ids == theirs.encode(text, "il mare") == ours.encode_plus(text, "il mare").input_ids
        tokens = ours.convert_ids_to_tokens(ids)
        assert tokens == theirs.convert_ids_to_tokens(ids)
        some = ours.convert_ids_to_tokens(torch.tensor(ids), skip_special_tokens=True)
        assert some == theirs.convert_ids_to_tokens(ids, skip_special_tokens=True)
        assert ours.convert_tokens_to_ids([*tokens, "?!"]) == theirs.convert_tokens_to_ids(
            [*tokens, "?!"]
        )
        assert ours.convert_tokens_to_string(tokens) == theirs.convert_tokens_to_string(tokens)
        mask = ours.get_special_tokens_mask(ids, already_has_special_tokens=True)
        assert mask == theirs.get_special_tokens_mask(ids, already_has_special_tokens=True)
    assert ours.encode(TEXTS[0], return_tensors="pt").shape == (1, len(ours.encode(TEXTS[0])))
    assert ours.convert_ids_to_tokens(5) == theirs.convert_ids_to_tokens(5)
    for pair in (False, True):
        assert ours.num_special_tokens_to_add(pair) == theirs.num_special_tokens_to_add(pair)
    assert ours.get_vocab() == ours.vocab == theirs.get_vocab()
    assert ours.get_added_vocab() == theirs.get_added_vocab()
    for name in (
        "all_special_tokens",
        "all_special_ids",
        "model_input_names",
        "special_tokens_map",
    ):
        assert getattr(ours, name) == getattr(theirs, name), name
    with pytest.raises(TypeError, match=r"for text in texts"):
        ours.tokenize(TEXTS)


def test_ids_in_every_form_are_decoded_as_in_transformers(both):
    ours, theirs = both
    ids = ours.encode(TEXTS[0])
    rows = [ids, ids[::-1]]
    for form in (rows, np.array(rows), torch.tensor(rows), [torch.tensor(row) for row in rows]):
        assert ours.decode(form) == ours.batch_decode(form) == theirs.decode(rows)
    for form in (ids, np.array(ids), [np.int64(i) for i in ids], [torch.tensor(i) for i in ids]):
        assert ours.decode(form) == theirs.decode(ids)
        assert ours.batch_decode(form) == theirs.batch_decode(ids)
    clean = {"skip_special_tokens": True, "clean_up_tokenization_spaces": True}
    assert ours.decode(ids, **clean) == theirs.decode(ids, **clean)


# ---- pad ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"padding": "max_length", "max_length": 40},
        {"pad_to_multiple_of": 8, "return_tensors": "pt"},
        {"padding_side": "left", "return_attention_mask": False, "verbose": False},
    ],
)
def test_pad_does_what_it_does_in_transformers(both, options):
    ours, theirs = both
    texts = [TEXTS[0], "il", "il mare"]
    dicts = [dict(ours(text, return_special_tokens_mask=True)) for text in texts]
    lists = {name: [one[name] for one in dicts] for name in dicts[0]}
    forms = (
        (dicts, dicts),
        (lists, lists),
        (ours(texts), theirs(texts)),
        ([{"input_ids": one["input_ids"], "score": 2} for one in dicts],) * 2,
        ([ours("il"), ours("il mare")], [theirs("il"), theirs("il mare")]),
        ([{"input_ids": torch.tensor(one["input_ids"])} for one in dicts],) * 2,
    )
    for form, same in forms:
        expected = theirs.pad(copy.deepcopy(same), **options)
        if options.get("return_attention_mask") is False:  # theirs keeps it, and does not pad it
            expected.pop("attention_mask", None)
        assert_same(ours.pad(form, **options), expected)
    if "return_tensors" not in options and "return_attention_mask" not in options:
        assert_same(ours.pad(dicts[0], **options), theirs.pad(copy.deepcopy(dicts[0]), **options))


def test_labels_are_padded_too(bert):
    of_tokens = [{"input_ids": [5, 6, 7], "labels": [1, 2, 3]}, {"input_ids": [5], "labels": [4]}]
    batch = bert.pad(of_tokens, pad_to_multiple_of=4, return_tensors="pt")
    assert batch.labels.tolist() == [[1, 2, 3, -100], [4, -100, -100, -100]]
    of_texts = [{"input_ids": [5, 6, 7], "labels": [1]}, {"input_ids": [5], "labels": [4, 2]}]
    batch = bert.pad(of_texts, padding_side="left")
    assert batch.labels == [[-100, 1], [4, 2]]
    classes = [{"input_ids": [5, 6], "labels": 1}, {"input_ids": [5], "labels": 0}]
    assert bert.pad(classes, return_tensors="pt").labels.tolist() == [1, 0]


def test_what_cannot_be_padded_is_named(bert):
    with pytest.raises(ValueError, match="needs input_ids in each dict; one has only labels"):
        bert.pad([{"labels": [1]}])
    with pytest.raises(TypeError, match="call the tokenizer with padding=True"):
        bert.pad(TEXTS)
    ragged = [{"input_ids": [5], "words": [1]}, {"input_ids": [5], "words": [1, 2]}]
    with pytest.raises(ValueError, match="1 to 2 tokens in words do not fit"):
        bert.pad(ragged, return_tensors="pt")
    with pytest.raises(ValueError, match="words contains no numbers"):
        bert.pad([{"input_ids": [5], "words": "il"}], return_tensors="pt")


# ---- added tokens ----


def test_added_tokens_have_the_ids_of_transformers_and_are_saved(both, tmp_path):
    ours, theirs = both
    size = len(ours)
    roles = {"bos_token": "[B]", "additional_special_tokens": ["<q>", "<w>"]}
    for tokenizer in both:
        assert tokenizer.add_tokens(["Xyzzy", "pl ugh"]) == 2
        assert tokenizer.add_tokens("Frob", special_tokens=True) == 1
        assert tokenizer.add_special_tokens(dict(roles)) == 3
    assert ours.add_tokens(["Xyzzy"]) == 0
    ours.save_pretrained(tmp_path)
    text = "il Xyzzy xyzzy pl ugh Frob [B] <q>mare<w>"
    for tokenizer in (ours, Tokenizer.from_pretrained(tmp_path)):
        assert len(tokenizer) == tokenizer.vocab_size == size + 6
        assert tokenizer.get_vocab() == theirs.get_vocab()
        assert tokenizer.encode(text) == theirs.encode(text)
        assert tokenizer.bos_token_id == theirs.bos_token_id
        assert {size + 2, size + 3, size + 4, size + 5} <= tokenizer.special_ids
        assert size not in tokenizer.special_ids
    vocabulary = sorted(ours.get_vocab().items())
    known = next(token for token, number in vocabulary if token.isalpha() and number < size)
    assert (ours.add_tokens(known), theirs.add_tokens(known)) == (0, 1)


def test_tokens_that_cannot_be_added_are_named(bert):
    bert = copy.deepcopy(bert)
    with pytest.raises(ValueError, match="'pad_tokn'; did you mean 'pad_token'"):
        bert.add_special_tokens({"pad_tokn": "x"})
    for wrong in (5, [5]):
        with pytest.raises(TypeError, match="a token is a str or an AddedToken, not 5"):
            bert.add_tokens(wrong)
        with pytest.raises(TypeError, match="a token is a str, not 5"):
            bert.convert_tokens_to_ids(wrong)
    with pytest.raises(ValueError, match="cannot be empty"):
        bert.add_tokens("")
    with pytest.raises(ValueError, match=r"add_special_tokens\(\{'eos_token': '<new>'\}\)"):
        bert.eos_token = "<new>"
    bert.eos_token_id = bert.sep_token_id
    assert bert.eos_token == "[SEP]"


# ---- names that are not there ----


def test_names_of_transformers_that_are_not_here_say_what_to_type(bert):
    for name, instead in (*TOKENIZER.items(), ("vocabsize", "did you mean 'vocab_size'")):
        assert not hasattr(bert, name)
        with pytest.raises(AttributeError, match=re.escape(instead)):
            getattr(bert, name)
    with pytest.raises(AttributeError, match="has no bos_token"):
        _ = bert.bos_token
    with pytest.raises(ValueError, match="already_has_special_tokens=True"):
        bert.get_special_tokens_mask([5])
    with pytest.raises(TypeError, match=r"from_pretrained\(path\)"):
        Tokenizer("vocab.txt")


# ---- from_pretrained and train ----


def test_settings_of_a_call_replace_those_of_the_files(bert, tmp_path):
    bert.save_pretrained(tmp_path)
    vocab = sorted(bert.get_vocab().items(), key=lambda item: item[1])
    (tmp_path / "vocab.txt").write_text("\n".join(token for token, _ in vocab) + "\n")
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": "[UNK]"}))
    for path in (tmp_path, tmp_path / "vocab.txt", str(tmp_path / "tokenizer.json")):
        upper, lower = (
            Tokenizer.from_pretrained(path, use_fast=False, do_lower_case=does, max_len=9)
            for does in (False, True)
        )
        assert lower.encode("IL") == lower.encode("il") == upper.encode("il") != upper.encode("IL")
        assert (lower.model_max_length, lower.name_or_path, lower.is_fast) == (9, str(path), True)
    given = {"truncation_side": "left", "pad_token": "[MASK]", "model_input_names": ["input_ids"]}
    changed = Tokenizer.from_pretrained(tmp_path, **given)
    assert (changed.truncation_side, changed.pad_token) == ("left", "[MASK]")
    with pytest.raises(TypeError, match="'do_lowercase'; did you mean 'do_lower_case'"):
        Tokenizer.from_pretrained(tmp_path, do_lowercase=True)
    harmless = {"cache_dir": None, "trust_remote_code": False, "use_auth_token": None}
    assert Tokenizer.from_pretrained(tmp_path, **harmless).get_vocab() == bert.get_vocab()
    with pytest.raises(TypeError, match="no code of a checkpoint is ever run"):
        Tokenizer.from_pretrained(tmp_path, trust_remote_code=True)
    with pytest.raises(CheckpointError, match="given add_prefix_space=True, but the tokenizer in"):
        Tokenizer.from_pretrained(tmp_path, add_prefix_space=True)
    with pytest.raises(CheckpointError, match="from_pretrained has do_lower_case='no'"):
        Tokenizer.from_pretrained(tmp_path, do_lower_case="no")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_texts_in_memory_give_the_vocabulary_of_a_file(algorithm, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(TEXTS * 3), encoding="utf-8")
    options = {"vocab_size": SIZES[algorithm], "algorithm": algorithm, "show_progress": False}
    expected = Tokenizer.train(tmp_path / "text.txt", **options).backend.to_str()
    for texts in (TEXTS * 3, iter(TEXTS * 3), (TEXTS for _ in range(3)), np.array(TEXTS * 3)):
        assert Tokenizer.train(texts=texts, **options).backend.to_str() == expected


def test_what_is_neither_a_file_nor_a_text_is_named(tmp_path):
    for error, match, arguments in (
        (ValueError, "either files or texts", {}),
        (ValueError, "either files or texts", {"files": "a", "texts": ["a"]}),
        (ValueError, r"in memory: Tokenizer.train\(texts=texts\)", {"files": TEXTS}),
        (ValueError, r"in memory: Tokenizer.train\(texts=texts\)", {"files": ["il " * 999]}),
        (TypeError, "iterable of texts, not 'il'", {"texts": "il"}),
        (TypeError, "iterable of texts, not {'text': 'il'}", {"texts": {"text": "il"}}),
        (TypeError, "text 1 must be a str, not int: 5", {"texts": ["il", 5]}),
        (TypeError, r"not dict: .* texts=\(item\['text'\]", {"texts": [{"text": "il"}]}),
        (TypeError, "not bytes: b'il'", {"texts": [b"il"]}),
        (ValueError, "text 0 contains a lone surrogate", {"texts": ["\ud800"]}),
        (ValueError, "no text to train on", {"texts": [" ", ""]}),
        (ValueError, "no text to train on", {"texts": iter(())}),
        (ValueError, "5 is not a file", {"files": 5}),
        (ValueError, "vocab_size='300' must be an integer", {"texts": TEXTS, "vocab_size": "300"}),
        (ValueError, "min_frequency=-1 must be", {"texts": TEXTS, "min_frequency": -1}),
        (ValueError, "did you mean 'bpe'", {"files": "missing", "algorithm": "bpee"}),
        (TypeError, "did you mean 'vocab_size'", {"texts": TEXTS, "vocabsize": 300}),
        (TypeError, r"add_tokens\(", {"texts": TEXTS, "special_tokens": ["<s>"]}),
    ):
        with pytest.raises(error, match=match):
            Tokenizer.train(**arguments)


# ---- workers ----


class Encoded(torch.utils.data.Dataset):
    def __init__(self, tokenizer):
        self.tokenizer = tokenizer

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return dict(self.tokenizer(TEXTS[index % 3]))


def test_the_workers_of_a_dataloader_use_a_tokenizer_without_a_warning(bert, capfd, monkeypatch):
    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(2):
            expected = bert(TEXTS, padding=True).input_ids  # with threads of the library
            batches = DataLoader(Encoded(bert), 3, num_workers=2, collate_fn=bert.pad)
            assert [batch.input_ids for batch in batches] == [expected, expected]
    assert capfd.readouterr().err == ""


def test_a_worker_that_is_forked_during_a_call_in_another_thread_can_call(bert):
    def hold(lock):
        with lock:
            held.set()
            time.sleep(0.2)

    held = threading.Event()
    thread = threading.Thread(target=hold, args=(_BACKEND_LOCK,))
    thread.start()
    held.wait()
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)  # ends a child that waits for the lock
        bert(TEXTS)
        os._exit(0)
    thread.join()
    assert os.waitpid(pid, 0)[1] == 0
