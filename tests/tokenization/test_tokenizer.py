"""The tokenizer: equal to Hugging Face's on real text, strict about mistakes, deterministic."""

import base64
import copy
import json
import logging
import pickle
import random
import subprocess
import sys
import threading
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from minitransformer.files import CheckpointError
from minitransformer.names import nearest, unexpected_name
from minitransformer.tokenization import Tokenizer
from minitransformer.tokenization.tokenizer import MissingTokenError
from tests.tiny import real_data

pytest.importorskip("tokenizers", reason="the tokenizer wraps the tokenizers library")

ALGORITHMS = ["bpe", "wordpiece", "unigram"]
UNICODE = settings(derandomize=True, deadline=None, max_examples=200)
SYLLABLES = ["ca", "ro", "mi", "fer", "nel", "to", "più", "sa", "vé", "bu", "gli", "or"]


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    """Pseudo-Italian, with characters so rare that the trainers must break ties between them."""
    draw = random.Random(0)
    words = ["".join(draw.choices(SYLLABLES, k=draw.randint(1, 4))) for _ in range(400)]
    lines = [" ".join(draw.choices(words, k=12)).capitalize() + ", sì." for _ in range(400)]
    path = tmp_path_factory.mktemp("corpus") / "testo.txt"
    path.write_text("\n".join(lines) + "\nXYZ QWK 0123456789 #@%&*àòù\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def trained(corpus):
    return {a: Tokenizer.train(corpus, 400, a, show_progress=False) for a in ALGORITHMS}


@pytest.fixture(params=ALGORITHMS)
def tokenizer(request, trained):
    return trained[request.param]


@pytest.fixture
def bpe(trained):
    return trained["bpe"]


# ---- training ----


@pytest.mark.slow
def test_the_same_files_give_the_same_tokenizer_in_every_process(corpus, trained):
    """The library's hash tables have a different seed in each process, and in each training."""
    program = (
        "import sys; from minitransformer.tokenization import Tokenizer\n"
        "for algorithm in sys.argv[2:]:\n"
        "  tokenizer = Tokenizer.train(sys.argv[1], 400, algorithm, show_progress=False)\n"
        "  print(ascii(tokenizer.backend.to_str()))"
    )
    command = [sys.executable, "-c", program, str(corpus), *ALGORITHMS]
    lines = subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()
    for algorithm, line in zip(ALGORITHMS, lines, strict=True):
        expected = trained[algorithm].backend.to_str()
        assert line == ascii(expected)
        for _ in range(2):
            again = Tokenizer.train([corpus], 400, algorithm, show_progress=False)
            assert again.backend.to_str() == expected


def test_training_fills_the_vocabulary_and_adds_the_special_tokens(trained):
    assert {len(t) for t in trained.values()} == {400} == {t.vocab_size for t in trained.values()}
    for algorithm in ("bpe", "unigram"):
        tokenizer = trained[algorithm]
        first = [tokenizer.id_to_token(i) for i in range(5)]
        assert first == ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
        assert tokenizer("caro", "mio").tokens().count("</s>") == 3
        assert tokenizer("caro")["input_ids"][0] == tokenizer.cls_token_id == 0
        assert "token_type_ids" not in tokenizer("caro")
    bert = trained["wordpiece"]
    first = [bert.id_to_token(i) for i in range(5)]
    assert first == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    batch = bert("caro", "mio")
    ids, types = batch["input_ids"], batch["token_type_ids"]
    cut = ids.index(bert.sep_token_id) + 1
    assert (ids[0], ids[-1]) == (bert.cls_token_id, bert.sep_token_id)
    assert types == [0] * cut + [1] * (len(ids) - cut)


def test_byte_level_pairs_are_joined_as_in_roberta(bpe):
    a, b = (bpe(text, add_special_tokens=False)["input_ids"] for text in ("caro", "mio"))
    assert bpe("caro", "mio")["input_ids"] == [0, *a, 2, 2, *b, 2]


def test_mask_includes_the_space_before_it_and_is_one_token(tokenizer):
    text = f"caro {tokenizer.mask_token} mio"
    ids = tokenizer(text)["input_ids"]
    assert ids.count(tokenizer.mask_token_id) == 1
    if tokenizer.mask_token == "<mask>":  # no other token represents the space before it
        before = tokenizer("caro", add_special_tokens=False)["input_ids"]
        assert ids[1 : ids.index(4)] == before


def test_lowercase_is_for_wordpiece(corpus):
    lower = Tokenizer.train(corpus, 300, "wordpiece", lowercase=True, show_progress=False)
    assert lower("CARO")["input_ids"] == lower("caro")["input_ids"]
    with pytest.raises(ValueError, match="lowercase=True needs algorithm='wordpiece'"):
        Tokenizer.train(corpus, 300, "bpe", lowercase=True)


@pytest.mark.parametrize("algorithm", ["bpe", "wordpiece"])
def test_a_pair_that_is_too_rare_is_not_merged(algorithm, corpus):
    options = {"min_frequency": 10**6, "show_progress": False}
    tokenizer = Tokenizer.train(corpus, 400, algorithm, **options)
    assert len(tokenizer("caro", add_special_tokens=False)["input_ids"]) == 4


def test_training_mistakes_are_one_clear_error(corpus, tmp_path):
    def fails(match, *arguments):
        with pytest.raises(ValueError, match=match):
            Tokenizer.train(*arguments, show_progress=False)

    empty, latin = tmp_path / "empty.txt", tmp_path / "latin.txt"
    empty.write_text(" \n")
    latin.write_bytes(b"caro\n" * 300_000 + "perché".encode("latin-1"))
    fails(r"unknown algorithm 'wordpeice'; did you mean 'wordpiece'", corpus, 400, "wordpeice")
    fails(r"nowhere.txt is not a file", [corpus, tmp_path / "nowhere.txt"], 400)
    fails(r"empty.txt contains no text", [corpus, empty], 400)
    fails(r"latin.txt, line 300001 is not UTF-8", [corpus, latin], 400)
    fails(r"files is empty", [], 400)
    fails(r"vocab_size=260 is too small for bpe; it needs at least 261", corpus, 260)
    fails(r"vocab_size=20 is too small", corpus, 20, "wordpiece")
    fails(r"make vocab_size=20 larger", corpus, 20, "unigram")


# ---- against transformers, on real vocabularies and real text ----


@pytest.fixture(scope="session")
def real_lines():
    files = [
        *sorted(real_data("italian").glob("*.txt")),
        *sorted(real_data("english").glob("*.txt")),
    ]
    draw, lines = random.Random(1), []
    for file in files:
        whole = [line for line in file.read_text(encoding="utf-8").split("\n") if line.strip()]
        lines += draw.sample(whole, min(len(whole), 10_000 // len(files) + 50))
    extra = [
        "",
        " ",
        "  due  spazi ",
        "tab\te\r",
        "naïve Œuvre ﬁn ½",
        "日本語 text 🙂👩‍👩‍👧",
        "a\u200bb\u0301",
    ]
    return extra + draw.sample(lines, 10_000 - len(extra))


@pytest.fixture(scope="session", params=["bert-base-uncased", "gpt2", "t5"])
def real(request):
    """Our tokenizer and Hugging Face's, from the same files."""
    reason = "transformers is what the ids are compared with"
    transformers = pytest.importorskip("transformers", reason=reason)
    folder = real_data(f"tokenizers/{request.param}")
    if request.param == "bert-base-uncased":
        theirs = transformers.BertTokenizer(vocab=str(folder / "vocab.txt"))
    elif request.param == "gpt2":
        files = {"vocab": str(folder / "vocab.json"), "merges": str(folder / "merges.txt")}
        theirs = transformers.GPT2Tokenizer(**files)
    else:
        theirs = transformers.T5Tokenizer.from_pretrained(str(folder), local_files_only=True)
    return Tokenizer.from_pretrained(folder), theirs


@pytest.mark.slow
@pytest.mark.parametrize("special", [True, False])
def test_ten_thousand_lines_of_real_text_give_the_ids_of_transformers(real, real_lines, special):
    ours, theirs = real
    assert len(real_lines) == 10_000
    expected = theirs(real_lines, add_special_tokens=special)
    batch = ours(real_lines, add_special_tokens=special)
    assert batch["input_ids"] == expected["input_ids"]
    assert batch["attention_mask"] == expected["attention_mask"]
    if ours.token_types:
        assert batch["token_type_ids"] == expected["token_type_ids"]


@pytest.mark.slow
def test_pairs_windows_offsets_and_decoding_equal_transformers(real, real_lines):
    ours, theirs = real
    first, second = ([line[:300] for line in real_lines[i : i + 300]] for i in (0, 300))
    options = {"truncation": "only_second", "max_length": 400, "stride": 5}
    options |= {"return_overflowing_tokens": True}
    for texts, pairs, kw in (
        (first, second, {}),
        (first, [text * 9 for text in second], {"truncation": True, "max_length": 60}),
        (first, [text * 9 for text in second], options),
    ):
        expected = theirs(texts, pairs, return_offsets_mapping=True, **kw)
        batch = ours(texts, pairs, **kw)
        assert batch["input_ids"] == expected["input_ids"]
        indices = range(len(batch["input_ids"]))
        assert [batch.offsets(i) for i in indices] == expected["offset_mapping"]
        assert [batch.sequence_ids(i) for i in indices] == [
            expected.sequence_ids(i) for i in indices
        ]
        assert [batch.word_ids(i) for i in indices] == [expected.word_ids(i) for i in indices]
        if kw is options:
            assert batch.overflow_to_sample == expected["overflow_to_sample_mapping"]
            assert len(indices) > len(first)
    for ids in ours(first)["input_ids"]:
        for skip in (False, True):
            expected = theirs.decode(ids, skip, clean_up_tokenization_spaces=False)
            assert ours.decode(ids, skip_special_tokens=skip) == expected


def test_special_tokens_of_the_real_vocabularies(real):
    ours, theirs = real
    roles = {role: token for role in SEVEN if (token := getattr(theirs, role)) is not None}
    assert ours.special_tokens == roles
    for role in roles:
        assert getattr(ours, f"{role}_id") == getattr(theirs, f"{role}_id")
    assert ours.vocab_size == len(ours) == len(theirs)
    assert set(theirs.all_special_ids) == ours.special_ids == set(ours.all_special_ids)
    assert ours.get_vocab() == theirs.get_vocab()


def test_the_token_of_every_character_is_that_of_transformers(real, real_lines):
    ours, theirs = real
    lines = [line[:200] for line in real_lines[:40]]
    batch, expected = ours(lines), theirs(lines)
    for index, line in enumerate(lines):
        assert ours.tokenize(line) == theirs.tokenize(line)
        for char in range(len(line)):
            try:
                token = batch.char_to_token(index, char)
            except ValueError:
                token = None
            assert token == expected.char_to_token(index, char)


SEVEN = [f"{role}_token" for role in ("bos", "eos", "unk", "sep", "pad", "cls", "mask")]


# ---- saving and loading ----


def loads_in_transformers(folder, tokenizer, text):
    """AutoTokenizer's tokenizer, after a check that loading it gave no warning."""
    reason = "what we save is loaded by transformers"
    transformers = pytest.importorskip("transformers", reason=reason)
    messages: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: messages.append(record.getMessage())
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            theirs = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
            ids = theirs(text, text)["input_ids"]
    finally:
        logger.removeHandler(handler)
    assert messages == [] == [str(warning.message) for warning in caught]
    assert ids == tokenizer(text, text)["input_ids"]
    return theirs


@pytest.mark.parametrize("family", [None, "bert", "roberta", "bart", "gpt2", "t5", "distilbert"])
def test_what_we_save_loads_in_transformers_without_a_warning(tokenizer, family, tmp_path):
    """A `model_type` in config.json must not make transformers rebuild the backend."""
    tokenizer.save_pretrained(tmp_path / "saved")
    if family:
        (tmp_path / "saved" / "config.json").write_text(json.dumps({"model_type": family}))
    text = f"Caro mio, {tokenizer.mask_token}  più\nsù. 🙂"
    theirs = loads_in_transformers(tmp_path / "saved", tokenizer, text)
    for role in tokenizer.special_tokens:
        assert getattr(theirs, f"{role}_id") == getattr(tokenizer, f"{role}_id")
    assert len(theirs) == len(tokenizer)
    assert ("token_type_ids" in theirs(text)) == tokenizer.token_types


def test_real_vocabularies_survive_saving_and_loading(real, real_lines, tmp_path):
    ours, _ = real
    ours.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again(real_lines[:300]) == ours(real_lines[:300])
    loads_in_transformers(tmp_path, ours, real_lines[9])


def test_a_round_trip_keeps_everything(tokenizer, tmp_path):
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length, tokenizer.padding_side = 77, "left"
    tokenizer.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again.backend.to_str() == tokenizer.backend.to_str()
    assert again.special_tokens == tokenizer.special_tokens
    assert again.special_ids == tokenizer.special_ids
    assert (again.model_max_length, again.padding_side) == (77, "left")
    assert again.token_types == tokenizer.token_types
    given = Tokenizer.from_pretrained(tmp_path, model_max_length=9, padding_side="right")
    assert (given.model_max_length, given.padding_side) == (9, "right")


def test_a_tokenizer_can_be_pickled_and_its_batch_too(tokenizer):
    again = pickle.loads(pickle.dumps(tokenizer))
    batch = pickle.loads(pickle.dumps(again(["caro", "mio"], padding=True, return_tensors="pt")))
    assert batch.tokens(1) == tokenizer(["caro", "mio"], padding=True).tokens(1)


def test_a_tokenizer_json_alone_is_enough_and_its_padding_is_not_used(bpe, tmp_path):
    content = json.loads(bpe.backend.to_str())
    padding = {"strategy": {"Fixed": 10**10}, "direction": "Right", "pad_id": 1}
    padding |= {"pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "<pad>"}
    content["padding"] = padding
    content["truncation"] = {"max_length": 3, "stride": 9, "strategy": "nonsense"}
    (tmp_path / "any.json").write_text(json.dumps(content))
    loaded = Tokenizer.from_pretrained(tmp_path / "any.json")
    assert loaded("caro mio per sempre") == bpe("caro mio per sempre")
    assert loaded.special_tokens == bpe.special_tokens


def test_padding_and_truncation_of_a_given_backend_are_switched_off(bpe):
    backend = copy.deepcopy(bpe.backend)
    backend.enable_padding(length=50)
    backend.enable_truncation(3)
    text = "caro mio per sempre"
    assert Tokenizer(backend, bpe.special_tokens)(text) == bpe(text)


def test_special_tokens_come_from_the_old_map_then_the_config_then_the_vocabulary(bpe, tmp_path):
    """The old map comes first, as in transformers, unless the config lists the added tokens."""
    bpe.save_pretrained(tmp_path)
    config = {"mask_token": {"content": "<unk>", "lstrip": True}, "cls_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    legacy = {"mask_token": "<pad>", "sep_token": {"content": "<s>"}}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(legacy))
    loaded = Tokenizer.from_pretrained(tmp_path)
    assert (loaded.mask_token, loaded.sep_token, loaded.pad_token) == ("<pad>", "<s>", "<pad>")
    config["added_tokens_decoder"] = {}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    listed = Tokenizer.from_pretrained(tmp_path)
    assert (listed.mask_token, listed.sep_token, listed.pad_token) == ("<unk>", "</s>", "<pad>")
    assert "cls_token" not in loaded.special_tokens


def write_wordpiece(folder, tokens, **config):
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    (folder / "vocab.txt").write_text("\n".join(specials + tokens) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_pretrained(folder)


def test_whether_vocab_txt_is_lower_cased_is_inferred_from_it(tmp_path):
    lower = write_wordpiece(tmp_path, ["caro", "\u2028", "mio"])
    assert lower("CARO MIO")["input_ids"] == [2, 5, 7, 3]
    cased = write_wordpiece(tmp_path, ["caro", "Mio"])
    assert cased("Mio mio")["input_ids"] == [2, 6, 1, 3]
    told = write_wordpiece(tmp_path, ["caro", "Mio"], do_lower_case=True, model_max_length=1e30)
    assert told("Caro")["input_ids"] == [2, 5, 3]
    assert told.model_max_length is None


def test_the_settings_of_the_normalizer_are_read(tmp_path):
    words = ["perché", "perche", "日本", "日", "本"]

    def tokens(text, **config):
        return write_wordpiece(tmp_path, words, do_lower_case=True, **config)(text).tokens()[1:-1]

    assert tokens("PERCHÉ") == ["perche"]
    assert tokens("PERCHÉ", strip_accents=False) == ["perché"]
    assert tokens("日本") == ["日", "本"]
    assert tokens("日本", tokenize_chinese_chars=False) == ["日本"]


def test_distilbert_takes_no_token_types(tmp_path):
    assert write_wordpiece(tmp_path, ["caro"]).token_types
    assert not write_wordpiece(
        tmp_path, ["caro"], tokenizer_class="DistilBertTokenizer"
    ).token_types
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}')
    assert list(write_wordpiece(tmp_path, ["caro"])("caro")) == ["input_ids", "attention_mask"]


def test_vocab_json_and_merges_are_roberta_or_gpt2(bpe, tmp_path):
    model = json.loads(bpe.backend.to_str())["model"]
    merges = ["#version: 0.2", *(" ".join(pair) for pair in model["merges"])]
    (tmp_path / "merges.txt").write_text("\n".join(merges) + "\n", encoding="utf-8")
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    text = f"caro <mask> mio {SYLLABLES}"
    roberta = Tokenizer.from_pretrained(tmp_path)
    assert roberta(text, text) == bpe(text, text)
    assert roberta.special_tokens == bpe.special_tokens
    vocab = {
        "<|endoftext|>" if token == "</s>" else token: i for token, i in model["vocab"].items()
    }
    (tmp_path / "vocab.json").write_text(json.dumps(vocab))
    gpt2 = Tokenizer.from_pretrained(tmp_path)
    assert gpt2("caro")["input_ids"] == bpe("caro", add_special_tokens=False)["input_ids"]
    assert gpt2.bos_token_id == gpt2.eos_token_id == gpt2.unk_token_id == 2
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    spaced = Tokenizer.from_pretrained(tmp_path)("caro")["input_ids"]
    assert spaced == gpt2(" caro")["input_ids"] != gpt2("caro")["input_ids"]
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(CheckpointError, match=r"no vocab.json with merges.txt"):
        Tokenizer.from_pretrained(tmp_path)


# ---- unsafe and broken files ----


def broken(name):
    """The content of a tokenizer.json with one thing wrong."""
    vocab = {"<s>": 0, "</s>": 1, "a": 2, "b": 3}
    content = {"version": "1.0", "added_tokens": [], "normalizer": None, "pre_tokenizer": None}
    content |= {"post_processor": None, "decoder": None}
    content["model"] = {"type": "WordLevel", "vocab": vocab, "unk_token": "a"}
    if name == "duplicate ids":
        vocab["b"] = 2
    elif name == "huge id":
        vocab["b"] = 4_294_967_295
    elif name == "negative id":
        vocab["b"] = -1
    elif name == "no token":
        vocab.clear()
    elif name.startswith("charsmap of "):
        size = int(name.removeprefix("charsmap of "))
        table = base64.b64encode(size.to_bytes(4, "little") + b"abcd").decode()
        inner = {"type": "Precompiled", "precompiled_charsmap": table}
        content["normalizer"] = {"type": "Sequence", "normalizers": [inner]}
    elif name == "charsmap panic":
        content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}
    elif name == "unknown model":
        content["model"]["type"] = "Hal9000"
    return content


FLAWS = ["duplicate ids", "huge id", "negative id", "no token", "unknown model"]


@pytest.mark.parametrize("name", [*FLAWS, "charsmap panic"])
def test_a_broken_tokenizer_json_is_a_checkpoint_error_that_names_it(name, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken("nothing")))
    Tokenizer.from_pretrained(tmp_path)  # without the flaw it loads
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken(name)))
    with pytest.raises(CheckpointError, match=tmp_path.name):
        Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("size", [5, 2**32 - 4])
def test_a_charsmap_that_declares_more_bytes_than_it_has_is_refused(size, tmp_path):
    (tmp_path / "tokenizer.json").write_text(json.dumps(broken(f"charsmap of {size}")))
    with pytest.raises(CheckpointError, match="shorter than its header declares"):
        Tokenizer.from_pretrained(tmp_path)


def test_a_panic_while_encoding_is_a_checkpoint_error(tmp_path):
    content = broken("nothing")
    pattern = {"Regex": r"^(([a-z])+.)+[A-Z]([a-z])+$"}
    content["pre_tokenizer"] = {"type": "Split", "pattern": pattern}
    content["pre_tokenizer"] |= {"behavior": "Isolated", "invert": False}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=tmp_path.name):
        tokenizer("a" * 200)


def test_an_interrupt_is_not_swallowed(bpe):
    class Interrupted:
        model = None

        def encode_batch(self, *_, **__):
            raise KeyboardInterrupt

        def no_truncation(self):
            pass

    bpe = copy.copy(bpe)
    bpe.backend = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        bpe("caro")


def test_contradictions_between_files_are_named(bpe, tmp_path):
    bpe.save_pretrained(tmp_path)
    config = tmp_path / "tokenizer_config.json"
    config.write_text('{"padding_side": "lft"}')
    with pytest.raises(CheckpointError, match=r"'lft'; did you mean 'left'"):
        Tokenizer.from_pretrained(tmp_path)
    config.write_text('{"auto_map": {"AutoTokenizer": ["evil.Tokenizer", null]}}')
    assert Tokenizer.from_pretrained(tmp_path)("caro") == bpe("caro")
    config.write_text("{")
    with pytest.raises(CheckpointError, match=r"tokenizer_config.json is not valid JSON"):
        Tokenizer.from_pretrained(tmp_path)


def test_missing_files_and_links_out_of_the_directory_are_refused(bpe, tmp_path):
    with pytest.raises(CheckpointError, match=r"has no tokenizer.json"):
        Tokenizer.from_pretrained(tmp_path)
    bpe.save_pretrained(tmp_path / "away")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "tokenizer.json").symlink_to(tmp_path / "away" / "tokenizer.json")
    with pytest.raises(CheckpointError, match=r"leads out of its directory"):
        Tokenizer.from_pretrained(tmp_path / "here")
    (tmp_path / "vocab.txt").write_text("caro\nmio\n")
    with pytest.raises(CheckpointError, match=r"vocab.txt .*has no '\[UNK\]'"):
        Tokenizer.from_pretrained(tmp_path)


# ---- the arguments of a call ----


def test_one_text_gives_a_flat_list_but_a_two_dimensional_tensor(tokenizer):
    flat = tokenizer("caro mio")
    assert all(isinstance(value, list) for value in flat.values())
    assert set(flat["attention_mask"]) == {1}
    for kind, array in (("pt", torch.Tensor), ("np", np.ndarray)):
        batch = tokenizer("caro mio", return_tensors=kind)
        assert isinstance(batch["input_ids"], array)
        assert all(value.shape == (1, len(flat["input_ids"])) for value in batch.values())
        assert str(batch["input_ids"].dtype).endswith("int64")
        assert batch["input_ids"][0].tolist() == flat["input_ids"]
    assert tokenizer(["caro mio"])["input_ids"] == [flat["input_ids"]]
    assert tokenizer([])["input_ids"] == []


def test_to_moves_in_place_and_returns_the_batch(bpe):
    batch = bpe(["caro", "mio"], padding=True, return_tensors="pt")
    assert batch.to("meta") is batch
    assert batch["input_ids"].device.type == "meta"
    assert batch.tokens(0)[0] == "<s>"
    with pytest.raises(ValueError, match="return_tensors='pt'"):
        bpe("caro").to("cpu")


def test_target_texts_are_encoded_like_texts_unless_the_tokenizer_is_marians(tokenizer):
    texts = ["caro mio", "per sempre"]
    assert tokenizer(text_target=texts) == tokenizer(texts)
    assert tokenizer(text_target=texts[0]) == tokenizer(texts[0])
    cut = {"truncation": True, "max_length": 3, "padding": "max_length"}
    assert tokenizer(text_target=texts, **cut) == tokenizer(texts, **cut)


def test_mistakes_in_a_call(bpe):
    def fails(error, match, *arguments, **keywords):
        with pytest.raises(error, match=match):
            bpe(*arguments, **keywords)

    two = ["caro", "caro mio per sempre"]
    fails(TypeError, r"'paddng'; did you mean 'padding'", "caro", paddng=True)
    fails(TypeError, r"'max_len'; did you mean 'max_length'", "caro", max_len=3)
    fails(ValueError, r"padding 'longst'; did you mean 'longest'", "caro", padding="longst")
    fails(ValueError, r"truncation 'only_frist'", "caro", truncation="only_frist")
    fails(ValueError, r"padding=0 must be one of", "caro", padding=0)
    fails(ValueError, r"padding_side 'rigth'; did you mean 'right'", "caro", padding_side="rigth")
    fails(ValueError, r"return_tensors 'tf'", "caro", return_tensors="tf")
    fails(
        ValueError,
        r"sequences of \d+ to \d+ tokens .*: pass padding=True",
        two,
        return_tensors="pt",
    )
    fails(ValueError, r"at least one text", [], return_tensors="pt")
    fails(TypeError, r"text must be a str .*not NoneType", None)
    fails(TypeError, r"text must be a str .*not int", 5)
    fails(TypeError, r"text\[1\] must be a str, not NoneType", ["caro", None])
    fails(TypeError, r"text\[0\] must be a str, not float: nan", [float("nan")])
    fails(TypeError, r"text\[0\] must be a str, not list.*is_split_into_words=True", [["caro"]])
    fails(TypeError, r"text_pair\[0\] must be a str, not int", ["caro"], [3])
    fails(ValueError, r"surrogate", ["mio", "caro \ud83d"])
    fails(TypeError, r"text_target must be a str .*not int", text_target=5)
    fails(TypeError, r"text_target\[0\] must be a str, not NoneType", text_target=[None])
    fails(ValueError, r"text_target has no second texts", None, "caro", text_target="mio")
    fails(ValueError, r"1 target texts for 2 sequences", two, text_target=["mio"])
    fails(ValueError, r"2 texts \(list\) and 1 in text_pair \(list\)", two, ["mio"])
    fails(ValueError, r"1 texts \(list\) and 1 in text_pair \(str\)", ["caro"], "mio")
    fails(ValueError, r"no model_max_length: pass max_length", "caro", truncation=True)
    fails(ValueError, r"no model_max_length: pass max_length", "caro", padding="max_length")
    fails(ValueError, r"max_length=5 has no effect", "caro", max_length=5)
    fails(ValueError, r"max_length=0 must be a positive", "caro", max_length=0, truncation=True)
    fails(ValueError, r"room for 0 tokens besides 2 special", "caro", max_length=2, truncation=True)
    fails(ValueError, r"room for 0 .* 4 special", "caro", "mio", max_length=3, truncation=True)
    fails(ValueError, r"stride needs", "caro", max_length=5, truncation=True, stride=1)
    fails(ValueError, r"needs text_pair", "caro", max_length=5, truncation="only_second")
    assert len(bpe("caro mio", max_length=3, truncation=True)["input_ids"]) == 3
    windows = {"max_length": 8, "return_overflowing_tokens": True}
    fails(ValueError, r"stride=6 must be", "caro", truncation=True, stride=6, **windows)
    fails(ValueError, r"stride=-1 must be", "caro", truncation=True, stride=-1, **windows)
    fails(ValueError, r"stride with pairs", "a", "b", truncation=True, stride=1, **windows)
    long = "più vero di così " * 9
    seconds = {"truncation": "only_second", "stride": 2, **windows}
    fails(ValueError, r"text 0 of pair 1 has \d+ tokens", ["a", long], ["b", long], **seconds)
    fails(ValueError, r"text 1 of pair 0", long, long, **(seconds | {"truncation": "only_first"}))
    fails(ValueError, r"text 0 of pair 0 has 3 .* leaves 1 of", "xyz", long, **seconds)
    fails(ValueError, r"text 0 of pair 0 has 2 .* leaves 2 of", "xy", long, **seconds)
    # Where both texts fit, nothing is truncated, so the stride does not matter.
    assert len(bpe("abc", "d", **seconds)["input_ids"][0]) <= 8


def test_truncation_of_one_call_does_not_affect_the_next_one(bpe):
    long = "caro mio per sempre " * 20
    whole = bpe(long)
    bpe(long, truncation=True, max_length=5)
    assert bpe(long) == whole
    bare = copy.deepcopy(bpe)
    for role in ("pad_token", "eos_token"):
        bare.special_tokens.pop(role)
    with pytest.raises(ValueError, match="has no pad_token"):
        bare([long, "a"], truncation=True, max_length=5, padding=True)
    assert bare(long) == whole

    results: dict[int, set[int]] = {}

    def work(limit):
        calls = [bpe(long, truncation=True, max_length=limit) for _ in range(100)]
        results[limit] = {len(batch["input_ids"]) for batch in calls}

    threads = [threading.Thread(target=work, args=(limit,)) for limit in (5, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == {5: {5}, 9: {9}}


def test_padding_to_a_length_and_to_the_longest(tokenizer):
    texts = ["caro", "caro mio per sempre"]
    longest = max(map(len, tokenizer(texts)["input_ids"]))
    fixed = "max_length"
    for padding, limit, width in ((True, None, longest), (fixed, 40, 40)):
        batch = tokenizer(texts, padding=padding, max_length=limit, return_tensors="pt")
        assert batch["input_ids"].shape == (2, width)
        assert (
            (batch["input_ids"] != tokenizer.pad_token_id) == batch["attention_mask"].bool()
        ).all()
    known = copy.copy(tokenizer)
    known.model_max_length = 6
    assert known(texts[1] * 9, truncation=True, return_tensors="pt")["input_ids"].shape == (1, 6)


def test_only_ids_are_padded_with_the_padding_id(trained):
    batch = trained["wordpiece"](["caro", "caro mio"]).padded_batch([0, 1], pad_token_id=7)
    padding = batch["attention_mask"] == 0
    assert set(batch["input_ids"][padding].tolist()) == {7}
    assert set(batch["token_type_ids"][padding].tolist()) == {0}


# ---- special tokens, ids, decoding ----


def test_a_missing_special_token_is_an_error_and_can_be_added(trained):
    bert = copy.deepcopy(trained["wordpiece"])
    for name in ("bos_token", "bos_token_id"):
        with pytest.raises(
            ValueError,
            match=r"has no bos_token, only .*tokenizer.bos_token = '...'; .*add_special_tokens",
        ):
            getattr(bert, name)
    assert not hasattr(bert, "bos_token_id")
    assert issubclass(MissingTokenError, ValueError)
    bert.bos_token = "[CLS]"
    assert bert.bos_token_id == bert.cls_token_id
    with pytest.raises(ValueError, match=r"'<none>' is not a token"):
        bert.eos_token = "<none>"
    bert.bos_token_id = bert.sep_token_id
    assert bert.bos_token == "[SEP]"
    bert.eos_token = "ca"
    assert bert.token_to_id("ca") in bert.special_ids
    assert bert.decode([bert.eos_token_id], skip_special_tokens=True) == ""


def test_ids_and_tokens(tokenizer):
    assert tokenizer.id_to_token(tokenizer.token_to_id("ca")) == "ca"
    assert tokenizer.special_ids == frozenset(range(5))
    for wrong in (-1, 400, -100, 1.0, "caro"):
        with pytest.raises(ValueError, match=r"not in the vocabulary; ids are 0 to 399"):
            tokenizer.id_to_token(wrong)
    with pytest.raises(ValueError, match="ignored labels"):
        tokenizer.decode([5, -100])
    with pytest.raises(ValueError, match="'nonesuch' is not a token"):
        tokenizer.token_to_id("nonesuch")


def test_a_vocabulary_with_a_gap_in_its_ids(tmp_path):
    """As many embeddings as the largest id needs; the ids in the gap are no tokens."""
    tk = pytest.importorskip("tokenizers")
    backend = tk.Tokenizer(tk.models.WordLevel({"<unk>": 0, "a": 2, "b": 5}, unk_token="<unk>"))
    backend.pre_tokenizer = tk.pre_tokenizers.Whitespace()
    Tokenizer(backend, {"unk_token": "<unk>"}).save_pretrained(tmp_path)
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    assert (len(tokenizer), tokenizer.vocab_size) == (3, 6)
    assert tokenizer("b a c")["input_ids"] == [5, 2, 0]
    assert tokenizer.decode([5, 2]) == "b a"
    for gap in (1, 3, 4):
        message = f"^id {gap} is not in the vocabulary, whose ids have gaps$"
        with pytest.raises(ValueError, match=message):
            tokenizer.id_to_token(gap)
        with pytest.raises(ValueError, match=message):
            tokenizer.decode([5, gap])
    with pytest.raises(ValueError, match="^id 6 is not in the vocabulary; ids are 0 to 5$"):
        tokenizer.id_to_token(6)
    with pytest.raises(ValueError, match="'c' cannot be added: the 3 ids have gaps, up to 5"):
        tokenizer.add_tokens("c")
    assert tokenizer.add_special_tokens({"bos_token": "a"}) == 0
    assert tokenizer.bos_token_id == 2


def test_decode_takes_lists_arrays_and_tensors(bpe):
    ids = bpe("caro mio")["input_ids"]
    for same in (ids, tuple(ids), np.array(ids), torch.tensor(ids)):
        assert bpe.decode(same) == "<s>caro mio</s>"
        assert bpe.decode(same, skip_special_tokens=True) == "caro mio"
    assert bpe.decode(torch.tensor(ids[0])) == "<s>"
    assert bpe.decode([]) == ""
    batch = bpe(["caro mio", "a"], padding=True, return_tensors="pt")
    for sequences in (batch["input_ids"], batch["input_ids"].tolist()):
        assert bpe.batch_decode(sequences, skip_special_tokens=True) == ["caro mio", "a"]
        assert bpe.decode(sequences, skip_special_tokens=True) == ["caro mio", "a"]
    with pytest.raises(ValueError, match="not in the vocabulary"):
        bpe.decode(torch.tensor([0.5]))


# ---- characters and tokens ----


def test_char_to_token_never_returns_none(trained):
    bert = trained["wordpiece"]
    text = "caro  mio\u0000 per sempre e più"
    batch = bert([text], ["mio caro"], truncation="only_first", max_length=14)
    assert batch.char_to_token(0, 0) == 1
    assert batch.token_to_chars(0, 1)[0] == 0
    spans = zip(batch.offsets(), batch.sequence_ids(), strict=True)
    last = max(end for (_, end), sequence_id in spans if sequence_id == 0)
    for char, sequence_index, why in (
        (4, 0, r"white space, which belongs to no token; the sequence covers characters 0 to"),
        (9, 0, r"removed by the normalizer"),
        (len(text), 0, r"beyond the text, which has 27 characters"),
        (-1, 0, r"beyond the text"),
        (len(text) - 1, 0, rf"was truncated: leave the example out, or .* 0 to {last - 1}"),
        (0, 2, r"the sequence has 2 text\(s\)"),
    ):
        with pytest.raises(ValueError, match=why):
            batch.char_to_token(0, char, sequence_index)
    assert batch.sequence_ids()[batch.char_to_token(0, 4, sequence_index=1)] == 1
    with pytest.raises(ValueError, match=r"special token '\[CLS\]'"):
        batch.token_to_chars(0, 0)


def test_windows_map_the_characters_that_they_cover(bpe):
    text = " ".join(SYLLABLES * 3)
    batch = bpe(
        [text, "a"], truncation=True, max_length=9, stride=3, return_overflowing_tokens=True
    )
    assert batch.overflow_to_sample == [0] * (len(batch["input_ids"]) - 1) + [1]
    for index in range(len(batch["input_ids"]) - 1):
        token = 4
        start, end = batch.token_to_chars(index, token)
        assert batch.char_to_token(index, start) == token
        assert bpe.decode([batch["input_ids"][index][token]]).strip() == text[start:end]
    with pytest.raises(ValueError, match=r"another window; .* batch.overflow_to_sample\[i\] == 0"):
        batch.char_to_token(1, 0)
    with pytest.raises(ValueError, match=f"beyond the text, which has {len(text)} characters"):
        batch.char_to_token(1, len(text))


# ---- properties over any text ----


@UNICODE
@given(text=st.text())
def test_byte_level_decoding_restores_the_text(trained, text):
    bpe = trained["bpe"]
    assume(not any(token in text for token in bpe.special_tokens.values()))
    ids = bpe(text, add_special_tokens=False)["input_ids"]
    assert bpe.decode(ids) == text
    assert bpe.decode(bpe(text)["input_ids"], skip_special_tokens=True) == text


@UNICODE
@given(text=st.text())
def test_offsets_are_the_characters_of_the_token(trained, text):
    batch = trained["bpe"](text)
    for token_id, (start, end) in zip(batch["input_ids"][1:-1], batch.offsets()[1:-1], strict=True):
        token = trained["bpe"].decode([token_id])
        if "\ufffd" not in token:  # else: some of the bytes of a character
            assert token.strip(" ") == text[start:end].strip(" ")
    assert batch.offsets()[0] == batch.offsets()[-1] == (0, 0)


@UNICODE
@given(text=st.text(min_size=1), algorithm=st.sampled_from(ALGORITHMS), pad=st.booleans())
def test_the_token_of_a_character_covers_it(trained, text, algorithm, pad):
    limit = {"padding": "max_length", "max_length": 300, "padding_side": "left"} if pad else {}
    batch = trained[algorithm](["prima", "b"], ["x", text], **limit)
    for char in range(len(text)):
        try:
            token = batch.char_to_token(1, char, sequence_index=1)
        except ValueError:
            # A byte of every character is in the vocabulary; only spaces belong to no token.
            assert algorithm != "bpe" or text[char].isspace()
            continue
        start, end = batch.token_to_chars(1, token)
        assert start <= char < end
        assert batch.sequence_ids(1)[token] == 1


@UNICODE
@given(texts=st.lists(st.text(), min_size=1, max_size=4), algorithm=st.sampled_from(ALGORITHMS))
def test_padding_on_either_side_does_not_change_the_text(trained, texts, algorithm):
    tokenizer = trained[algorithm]
    plain = tokenizer(texts)
    width = max(map(len, plain["input_ids"]))
    for side in ("left", "right"):
        batch = tokenizer(texts, padding=True, padding_side=side)
        for index, ids in enumerate(plain["input_ids"]):
            padded, mask = batch["input_ids"][index], batch["attention_mask"][index]
            real = slice(width - len(ids), None) if side == "left" else slice(len(ids))
            assert len(padded) == width
            assert padded[real] == ids
            assert sum(mask) == len(ids) == sum(mask[real])
            assert batch.offsets(index)[real] == plain.offsets(index)


@UNICODE
@given(data=st.data(), text=st.text(max_size=60), algorithm=st.sampled_from(ALGORITHMS))
def test_windows_cover_every_token_and_share_the_stride(trained, data, text, algorithm):
    tokenizer = trained[algorithm]
    limit = data.draw(st.integers(3, 20), label="limit")
    stride = data.draw(st.integers(0, limit - 3), label="stride")
    whole = tokenizer(text, add_special_tokens=False)["input_ids"]
    batch = tokenizer(
        [text], truncation=True, max_length=limit, stride=stride, return_overflowing_tokens=True
    )
    joined: list[int] = []
    for window, ids in enumerate(batch["input_ids"]):
        assert len(ids) <= limit
        inner = ids[1:-1]
        assert window == 0 or joined[len(joined) - stride :] == inner[:stride]
        joined += inner[stride if window else 0 :]
    assert joined == whole


# ---- names, imports ----


def test_the_nearest_name():
    assert nearest("max_position_embedding", ["hidden_size", "max_position_embeddings"]) == (
        "max_position_embeddings"
    )
    assert nearest("bpe", ["BPE"]) == "BPE"
    assert nearest("zzz", ["bpe"]) is None
    assert unexpected_name("verb", "zzz", ["a", "b"]) == "unknown verb 'zzz'; the choices are: a, b"


def test_importing_needs_neither_tokenizers_nor_transformers(monkeypatch, bpe, tmp_path):
    program = (
        "import sys; import minitransformer.tokenization; "
        "print(sorted({'tokenizers', 'transformers', 'huggingface_hub'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, check=True).stdout.decode().strip() == "[]"
    bpe.save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="pip install tokenizers"):
        Tokenizer.from_pretrained(tmp_path)
