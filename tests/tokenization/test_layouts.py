"""The same tokenizer from every layout of files: classes, settings and added tokens are followed.

A layout is a dict of file names and contents: a path to copy, a text, or JSON.
"""

import json
import random
import shutil
import warnings
from pathlib import Path

import pytest

from minitransformer.files import CheckpointError
from minitransformer.tokenization import Tokenizer
from minitransformer.tokenization.loading import ONLY_VALUES, WITHOUT_EFFECT
from tests.tiny import real_data

pytest.importorskip("tokenizers", reason="the tokenizer wraps the tokenizers library")

SCRIPTS = [
    "Émile perché naïve Ǆ ﬁn",
    "E\u0301mile perche\u0301 a\u0308o\u0328 n\u0303",
    "Анна читает ё й",
    "Ἀθῆναι καὶ ς Σ",
    "日本語 漢字 한국어 ｶﾅ",
    "السَّلَام عليكم ٣",
    "हिन्दी क्षत्रिय ज्ञ",
    "👩‍👩‍👧 🏳️‍🌈 🙂 👍🏽",
    "a\u200bb \u00ad x\u0000y \u0007 \ufeff \u2028 \t z\r",
    "don't  it's 3,14 (Anna). [x] <y>",
]
ADDED = ["<e1>", "<e2>", " <e1>", "<e1> ", "<e1><e2>"]
FLAGS = {"lstrip": False, "rstrip": False, "single_word": False}
DECODED = [
    {"content": "<e1>", "special": False, "normalized": True, **FLAGS},
    {"content": "<e2>", "special": True, "normalized": False, **FLAGS, "rstrip": True},
]


def lines(count, special_tokens=()):
    """Texts of words in several scripts, with added and special tokens between and within them."""
    draw = random.Random(0)
    words = [word for script in SCRIPTS for word in script.split(" ")]
    words += [*ADDED, *special_tokens, "", " "]
    texts = [" ".join(draw.choices(words, k=draw.randint(0, 9))) for _ in range(count)]
    return [*SCRIPTS, *texts][:count]


def write(directory, layout):
    directory.mkdir(exist_ok=True)
    for name, content in layout.items():
        if isinstance(content, Path):
            shutil.copy(content, directory / name)
        else:
            text = content if isinstance(content, str) else json.dumps(content)
            (directory / name).write_text(text, encoding="utf-8")
    return directory


def load_both(directory):
    """Our tokenizer, and the one that transformers makes of the same files."""
    reason = "transformers is what the ids are compared with"
    transformers = pytest.importorskip("transformers", reason=reason)
    theirs = transformers.AutoTokenizer.from_pretrained(directory, local_files_only=True)
    return Tokenizer.from_pretrained(directory), theirs


def as_json(directory, layout):
    """The same tokenizer as one tokenizer.json, beside the same config.json."""
    tokenizer = Tokenizer.from_pretrained(write(directory, layout))
    content = json.loads(tokenizer.backend.to_str())
    return {"tokenizer.json": content, "config.json": layout["config.json"]}


# ---- real vocabularies, every layout ----


@pytest.fixture(scope="module", params=["bert", "gpt2", "roberta", "t5"])
def real(request, tmp_path_factory):
    """The name of a tokenizer class, the size of its vocabulary, and its two layouts."""
    name = request.param
    folder = real_data("tokenizers")
    config = {"config.json": {"model_type": name}}
    if name == "t5":
        return "T5Tokenizer", 32_100, [config | {"tokenizer.json": folder / "t5/tokenizer.json"}]
    if name == "bert":
        layout = config | {"vocab.txt": folder / "bert-base-uncased/vocab.txt"}
        size = 30_522
    else:
        layout = config | {
            "vocab.json": json.loads((folder / "gpt2/vocab.json").read_text(encoding="utf-8")),
            "merges.txt": folder / "gpt2/merges.txt",
        }
        if name == "roberta":  # GPT-2's merges with RoBERTa's special tokens
            for token in ("<s>", "<pad>", "</s>", "<unk>", "<mask>"):
                layout["vocab.json"][token] = len(layout["vocab.json"])
        size = len(layout["vocab.json"])
    class_name = {"bert": "BertTokenizer", "gpt2": "GPT2Tokenizer", "roberta": "RobertaTokenizer"}
    stored = as_json(tmp_path_factory.mktemp(name), layout)
    return class_name[name], size, [layout, stored]


def added_files(kind, class_name, size):
    """The files that add `<e1>` and `<e2>`, whose ids are `size` and `size + 1`."""
    config: dict = {"tokenizer_class": class_name}
    if kind == "added_tokens.json":
        return {kind: {"<e1>": size, "<e2>": size + 1}}
    if kind == "special_tokens_map.json":
        roles = {"pad_token": {"content": "<e1>", "normalized": True, **FLAGS}}
        return {kind: roles, "added_tokens.json": {"<e2>": size, "<e1>": size + 1}}
    if kind == "added_tokens_decoder":
        config[kind] = {str(size + i): token for i, token in enumerate(DECODED)}
    elif kind == "other roles":
        config |= {"image_token": "<e1>", "extra_special_tokens": {"second": "<e2>"}}
    else:
        config[kind] = ["<e1>", "<e2>"]
    return {"tokenizer_config.json": config}


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        *("added_tokens.json", "special_tokens_map.json", "added_tokens_decoder", "other roles"),
        *("additional_special_tokens", "extra_special_tokens"),
    ],
)
def test_added_tokens_have_the_ids_of_transformers_in_every_layout(real, kind, tmp_path):
    class_name, size, layouts = real
    for layout in layouts:
        directory = write(tmp_path / str(len(layout)), layout | added_files(kind, class_name, size))
        ours, theirs = load_both(directory)
        special = [token for role, token in ours.special_tokens.items() if role != "mask_token"]
        texts = lines(2000 if kind == "added_tokens_decoder" else 200, special)
        assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]
        assert ours(texts, texts[::-1])["input_ids"] == theirs(texts, texts[::-1])["input_ids"]
        assert len(ours) == len(theirs) == size + 2
        assert {ours.token_to_id("<e1>"), ours.token_to_id("<e2>")} == {size, size + 1}
        if kind == "added_tokens_decoder":
            ours.save_pretrained(tmp_path / "saved")
            for again in load_both(tmp_path / "saved"):
                assert again(texts)["input_ids"] == ours(texts)["input_ids"]


# The special token of old files has its type beside its flags.
MASK = {"__type": "AddedToken", "content": "[M]", "special": True, "normalized": False, **FLAGS}
SETTINGS = [
    ("bert", {"do_lower_case": False}),
    ("bert", {"do_lower_case": True, "strip_accents": False}),
    ("bert", {"do_lower_case": False, "strip_accents": True}),
    ("bert", {"tokenize_chinese_chars": False}),
    ("bert", {"mask_token": MASK}),
    ("gpt2", {"add_prefix_space": True}),
    ("gpt2", {"pad_token": "<pad>"}),
    ("roberta", {"add_prefix_space": True, "trim_offsets": False}),
    ("t5", {"extra_ids": 102}),
]


@pytest.mark.slow
@pytest.mark.parametrize(("real", "settings"), SETTINGS, indirect=["real"])
def test_settings_have_the_effect_that_they_have_in_transformers(real, settings, tmp_path):
    class_name, _, layouts = real
    for layout in layouts:
        config = {"tokenizer_class": class_name, **settings}
        directory = write(tmp_path / str(len(layout)), {**layout, "tokenizer_config.json": config})
        ours, theirs = load_both(directory)
        texts = lines(300)
        expected = theirs(texts, return_offsets_mapping=True)
        batch = ours(texts)
        assert batch["input_ids"] == expected["input_ids"]
        assert [batch.offsets(i) for i in range(len(texts))] == expected["offset_mapping"]


# ---- a small vocabulary, which needs no real data ----

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "anna", "ha", "é", "e", "日", "<", ">", "1"]
BYTES = [*map(chr, range(33, 127)), *map(chr, range(161, 173)), *map(chr, range(174, 324))]


def small_bert(**config):
    return {
        "vocab.txt": "\n".join([*WORDS, "##1"]) + "\n",
        "tokenizer_config.json": config,
        "config.json": {"model_type": "bert"},
    }


def small_gpt2(*special, **config):
    vocab = {token: number for number, token in enumerate([*BYTES, *special])}
    return {"vocab.json": vocab, "merges.txt": "#version: 0.2\n", "tokenizer_config.json": config}


def test_a_token_in_added_tokens_json_is_one_token(tmp_path):
    layout = small_bert() | {"added_tokens.json": {"<e1>": 14}}
    tokenizer = Tokenizer.from_pretrained(write(tmp_path, layout))
    assert tokenizer("anna <e1> ha").tokens() == ["[CLS]", "anna", "<e1>", "ha", "[SEP]"]
    assert len(tokenizer) == tokenizer.vocab_size == 15
    assert "<e1>" in tokenizer("Anna<E1>").tokens()  # found in the normalized text


@pytest.mark.parametrize(
    "config",
    [
        {"extra_special_tokens": {"image_token": "<e2>"}, "additional_special_tokens": ["<e1>"]},
        {"model_specific_special_tokens": {"image_token": "<e1>"}},
    ],
)
def test_every_table_of_special_tokens_is_read(config, tmp_path):
    ours, theirs = load_both(write(tmp_path, small_bert(**config)))
    assert len(ours) == len(theirs)
    assert ours(lines(50))["input_ids"] == theirs(lines(50))["input_ids"]
    assert "<e1>" in ours("anna <e1> ha").tokens()


def test_added_tokens_json_is_not_read_where_the_config_lists_the_added_tokens(tmp_path):
    layout = small_bert(added_tokens_decoder={"4": {"content": "[MASK]", "special": True}})
    layout |= {"added_tokens.json": {"<e1>": 14}, "special_tokens_map.json": {"pad_token": "<e1>"}}
    ours, theirs = load_both(write(tmp_path, layout))
    assert len(ours) == len(theirs) == 14
    assert ours.pad_token == theirs.pad_token == "[PAD]"


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"added_tokens.json": {"<e1>": 20}}, r"'<e1>' has the id 20 .* vocabulary is 14"),
        ({"added_tokens.json": {"anna": 14}}, r"'anna' has the id 14 .* vocabulary is 5"),
        ({"added_tokens.json": {"<e1>": "x"}}, r"'x' is not the id of an added token"),
        ({"tokenizer_config.json": {"pad_token": 3}}, r"has pad_token=3; a token is a string"),
        ({"tokenizer_config.json": {"extra_special_tokens": "<e1>"}}, r"tokens='<e1>'; a token"),
        (
            {"vocab.txt": "[UNK]\n[CLS]\n[SEP]\n", "tokenizer_config.json": {"pad_token": "<p>"}},
            r"neither '<p>' nor '\[MASK\]', the usual mask_token, so the id",
        ),
    ],
)
def test_an_id_that_is_wrong_or_not_clear_is_refused(files, match, tmp_path):
    with pytest.raises(CheckpointError, match=match):
        Tokenizer.from_pretrained(write(tmp_path, small_bert() | files))


def test_a_default_token_that_the_vocabulary_lacks_is_not_added(tmp_path):
    """transformers gives it an id for which the model has no embedding."""
    layout = {**small_gpt2("<s>", "</s>"), "config.json": {"model_type": "gpt2"}}
    ours, theirs = load_both(write(tmp_path, layout))
    assert len(ours) == 258 == len(theirs) - 1
    assert ours.special_tokens == {}
    assert theirs.eos_token_id == 258


# ---- which tokenizer it is ----


@pytest.mark.parametrize("where", ["tokenizer_config.json", "config.json", "model_type"])
def test_the_class_decides_what_is_added_to_a_text(where, tmp_path):
    """A GPT-2 vocabulary may contain RoBERTa's special tokens."""
    layout = small_gpt2("<s>", "</s>", "<|endoftext|>")
    said = {"tokenizer_class": "GPT2TokenizerFast"}
    if where == "model_type":
        said, where = {"model_type": "gpt2"}, "config.json"
    layout[where] = said
    layout.setdefault("config.json", {"model_type": "roberta"})
    ours, theirs = load_both(write(tmp_path, layout))
    assert ours("ha")["input_ids"] == theirs("ha")["input_ids"] == [71, 64]
    assert ours.special_tokens == dict.fromkeys(
        ("bos_token", "eos_token", "unk_token"), "<|endoftext|>"
    )
    layout[where] = {}
    layout["config.json"] = {}
    assert Tokenizer.from_pretrained(write(tmp_path, layout))("ha")["input_ids"] == [
        *(256, 71, 64, 257)
    ]


def test_xlm_roberta_tokenizers_equal_transformers(tmp_path):
    pieces = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁a", -1.0)]
    pieces += [("▁", -2.0), ("ha", -3.0), ("<mask>", 0.0)]
    reason = "transformers is what the ids are compared with"
    transformers = pytest.importorskip("transformers", reason=reason)
    transformers.XLMRobertaTokenizer(vocab=pieces).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    ours, theirs = load_both(tmp_path)
    texts = ["a ha  ha", "haha <mask> a", ""]
    assert ours(texts, texts[::-1])["input_ids"] == theirs(texts, texts[::-1])["input_ids"]
    assert ours.special_tokens == theirs.special_tokens_map


@pytest.mark.parametrize("name", ["BertJapaneseTokenizer", "HerbertTokenizerFast", "BertTokeniser"])
@pytest.mark.parametrize("file", ["tokenizer_config.json", "config.json"])
def test_a_class_that_is_not_built_is_refused(name, file, tmp_path):
    layout = small_bert() | {file: {"tokenizer_class": name}}
    with pytest.raises(CheckpointError, match=f"{file}: tokenizer_class='{name}' is not supported"):
        Tokenizer.from_pretrained(write(tmp_path, layout))


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        (
            {**small_gpt2(), "config.json": {"model_type": "openai-gpt"}},
            r"no tokenizer for model_type='openai-gpt' without a tokenizer.json",
        ),
        ({**small_gpt2(), "merges.txt": "a b</w>\n"}, r"words end in '</w>': it is BPE of char"),
        (
            {**small_bert(tokenizer_class="RobertaTokenizer")},
            r"nor vocab.json and merges.txt; .* is a RobertaTokenizer, .* set .* 'BertTokenizer'",
        ),
        ({**small_bert(tokenizer_class="T5Tokenizer")}, r"Convert a SentencePiece model"),
        (
            small_gpt2(tokenizer_class="RobertaTokenizer"),
            r"has no '<s>', its cls_token, which is required",
        ),
    ],
)
def test_files_that_are_not_of_the_named_tokenizer_are_refused(layout, match, tmp_path):
    with pytest.raises(CheckpointError, match=match):
        Tokenizer.from_pretrained(write(tmp_path, layout))


def test_a_tokenizer_json_of_another_class_is_refused_unless_it_is_used_as_it_is(tmp_path):
    layout = as_json(tmp_path / "first", small_bert())
    layout["config.json"] = {"model_type": "gpt2"}
    match = r"its model is 'WordPiece', but .* it is a GPT2Tokenizer, whose model is BPE"
    with pytest.raises(CheckpointError, match=match):
        Tokenizer.from_pretrained(write(tmp_path / "second", layout))
    layout["tokenizer_config.json"] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    tokenizer = Tokenizer.from_pretrained(write(tmp_path / "second", layout))
    assert tokenizer("anna").tokens() == ["[CLS]", "anna", "[SEP]"]


# ---- settings ----


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"add_bos_token": True}, "add_bos_token=True, but the tokenizer .* the opposite"),
        ({"add_prefix_space": True}, "add_prefix_space=True, but"),
        ({"do_lower_case": "yes"}, "do_lower_case='yes'; it must be true or false"),
        ({"do_lowercase": True}, "unknown field 'do_lowercase': did you mean 'do_lower_case'"),
        ({"truncation_side": "lft"}, "'lft'; did you mean 'left'"),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_a_setting_that_cannot_be_followed_is_refused(config, match, stored, tmp_path):
    layout = small_bert()
    layout = as_json(tmp_path / "text", layout) if stored else layout
    layout["tokenizer_config.json"] = config
    with pytest.raises(CheckpointError, match=match):
        Tokenizer.from_pretrained(write(tmp_path / "other", layout))


@pytest.mark.parametrize("lstrip", [False, True])
def test_the_flags_of_a_special_token_in_tokenizer_json_stay_as_they_are(lstrip, tmp_path):
    layout = small_gpt2("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    layout = as_json(tmp_path / "text", layout | {"config.json": {"model_type": "roberta"}})
    layout["tokenizer.json"]["added_tokens"][-1]["lstrip"] = lstrip  # of the mask
    ours, theirs = load_both(write(tmp_path / "stored", layout))
    assert ours("a <mask>")["input_ids"] == theirs("a <mask>")["input_ids"]
    assert len(ours("a <mask>")["input_ids"]) == (4 if lstrip else 5)


@pytest.mark.parametrize("lower", [False, True])
def test_a_setting_replaces_the_one_in_tokenizer_json(lower, tmp_path):
    layout = as_json(tmp_path / "text", small_bert(do_lower_case=not lower))
    layout["tokenizer_config.json"] = {"do_lower_case": lower, "strip_accents": None}
    ours, theirs = load_both(write(tmp_path / "stored", layout))
    texts = ["Anna É", "anna é"]
    assert ours(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert ("anna" in ours("ANNA").tokens()) == lower


def test_settings_beside_a_tokenizer_json_that_is_used_as_it_is_must_agree_with_it(tmp_path):
    layout = as_json(tmp_path / "text", small_bert(do_lower_case=True))
    same = {"do_lower_case": True, "tokenize_chinese_chars": True, "add_bos_token": False}
    layout["tokenizer_config.json"] = {"tokenizer_class": "PreTrainedTokenizerFast", **same}
    assert "anna" in Tokenizer.from_pretrained(write(tmp_path / "a", layout))("ANNA").tokens()
    for name, value in same.items():
        layout["tokenizer_config.json"][name] = not value
        with pytest.raises(CheckpointError, match=f"{name}={not value}, but the tokenizer"):
            Tokenizer.from_pretrained(write(tmp_path / "a", layout))
        layout["tokenizer_config.json"][name] = value
    layout["tokenizer_config.json"] |= {"do_lower_case": False, "add_bos_token": True}
    with pytest.raises(CheckpointError, match="do_lower_case=False and add_bos_token=True, but"):
        Tokenizer.from_pretrained(write(tmp_path / "a", layout))


def test_the_case_that_no_file_states_is_that_of_the_vocabulary_or_the_pipeline(tmp_path):
    """transformers would lower-case: the default of its class replaces what tokenizer.json says."""
    cased = small_bert()
    cased["vocab.txt"] += "Anna\n"
    stored = as_json(tmp_path / "text", cased)
    for number, layout in enumerate((cased, stored)):
        ours, theirs = load_both(write(tmp_path / str(number), layout))
        assert "Anna" in ours("Anna").tokens()
        assert "Anna" not in theirs.convert_ids_to_tokens(theirs("Anna")["input_ids"])


OF_GPT2 = {"__type": "AddedToken", "content": "<|endoftext|>", "normalized": True, **FLAGS}
HISTORY = {
    "bert of 2": {"do_lower_case": True, "max_len": 512},
    "bert of 4": {
        **{"do_lower_case": True, "do_basic_tokenize": True, "never_split": None},
        **{"tokenize_chinese_chars": True, "strip_accents": None, "model_max_length": 512},
        **{"name_or_path": "x", "special_tokens_map_file": None, "full_tokenizer_file": None},
        **{"unk_token": "[UNK]", "mask_token": "[MASK]", "tokenizer_class": "BertTokenizer"},
    },
    "gpt2 of 4": {
        **{"add_bos_token": False, "add_prefix_space": False, "errors": "replace"},
        **{"bos_token": OF_GPT2, "eos_token": OF_GPT2, "unk_token": OF_GPT2, "pad_token": None},
        **{"model_max_length": 512, "tokenizer_class": "GPT2Tokenizer"},
    },
}


@pytest.mark.parametrize("version", HISTORY)
def test_the_settings_that_old_versions_wrote_load_without_a_warning(version, tmp_path):
    family = version.split()[0]
    layout = small_bert() if family == "bert" else small_gpt2("<|endoftext|>")
    layout |= {"config.json": {"model_type": family}, "tokenizer_config.json": HISTORY[version]}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours, theirs = load_both(write(tmp_path / "old", layout))
        theirs.save_pretrained(tmp_path / "new")
        again = Tokenizer.from_pretrained(tmp_path / "new")
    texts = lines(50)
    assert ours(texts)["input_ids"] == again(texts)["input_ids"] == theirs(texts)["input_ids"]
    assert ours.model_max_length == again.model_max_length == 512


@pytest.mark.parametrize("field", ONLY_VALUES)
def test_a_value_that_would_change_ids_is_refused(field, tmp_path):
    other = {bool: not ONLY_VALUES[field][0], int: 1}.get(type(ONLY_VALUES[field][0]), ["x"])
    with pytest.raises(CheckpointError, match=f"has {field}=.* not supported; set it to"):
        Tokenizer.from_pretrained(write(tmp_path, small_bert(**{field: other})))
    for value in ONLY_VALUES[field]:
        Tokenizer.from_pretrained(write(tmp_path, small_bert(**{field: value})))


def test_fields_without_effect_are_known_and_unknown_ones_are_named(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        config = dict.fromkeys(WITHOUT_EFFECT, "x")
        plain = Tokenizer.from_pretrained(write(tmp_path, small_bert(**config)))
    with pytest.warns(UserWarning, match="unknown fields are ignored: flavour") as caught:
        other = Tokenizer.from_pretrained(write(tmp_path, small_bert(flavour="x")))
    assert caught[0].filename == __file__
    assert other("anna ha")["input_ids"] == plain("anna ha")["input_ids"]


def test_the_sides_and_the_padding_token_in_tokenizer_json_are_followed(tmp_path):
    layout = as_json(tmp_path / "text", small_bert())
    content = layout["tokenizer.json"]
    content["padding"] = {"strategy": "BatchLongest", "direction": "Left", "pad_id": 5}
    content["padding"] |= {"pad_to_multiple_of": None, "pad_type_id": 0, "pad_token": "anna"}
    content["truncation"] = {"direction": "Left", "max_length": 4, "strategy": "LongestFirst"}
    content["truncation"]["stride"] = 0
    content["added_tokens"] = [t for t in content["added_tokens"] if t["content"] != "[PAD]"]
    layout["tokenizer_config.json"] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    ours, theirs = load_both(write(tmp_path / "stored", layout))
    texts = ["anna ha anna", "ha"]
    for options in ({"padding": True}, {"padding": True, "truncation": True, "max_length": 4}):
        assert ours(texts, **options)["input_ids"] == theirs(texts, **options)["input_ids"]
    assert (ours.padding_side, ours.truncation_side) == ("left", "left")


@pytest.mark.parametrize(
    ("file", "content", "match"),
    [
        ("tokenizer_config.json", {"model_max_length": "512"}, "model_max_length='512'; it must"),
        ("tokenizer_config.json", {"model_max_length": -1}, "model_max_length=-1; it must be a"),
        ("tokenizer_config.json", {"model_max_length": 0.5}, "model_max_length=0.5"),
        ("tokenizer_config.json", {"model_max_length": float("nan")}, "model_max_length=nan"),
        ("tokenizer_config.json", {"model_input_names": "input_ids"}, "model_input_names='input_"),
        (
            "tokenizer_config.json",
            {"model_input_names": ["token_typ_ids"]},
            "a list of attention_m",
        ),
        ("tokenizer_config.json", {"tokenizer_class": ["BertTokenizer"]}, "tokenizer_class=.'Bert"),
        (
            "tokenizer_config.json",
            {"mask_token": {"content": "<m>", "lstrip": "yes"}},
            "mask_token",
        ),
        (
            "tokenizer_config.json",
            {"mask_token": {"content": "<m>", "special": "no"}},
            "mask_token",
        ),
        (
            "tokenizer_config.json",
            {"pad_token": ""},
            "pad_token=''; a token is a string that is not",
        ),
        ("tokenizer_config.json", {"extra_special_tokens": [None]}, "extra_special_tokens=.None"),
        ("tokenizer_config.json", {"added_tokens_decoder": [3]}, "an object, id to token"),
        (
            "tokenizer_config.json",
            {"added_tokens_decoder": {"14": "<e1>"}},
            r"decoder\[14\]='<e1>'",
        ),
        ("added_tokens.json", {"<e1>": float("inf")}, "added_tokens.json: inf is not the id"),
        ("added_tokens.json", {"<e1>": 14.7}, "added_tokens.json: 14.7 is not the id"),
        ("added_tokens.json", {"<e1>": True}, "added_tokens.json: True is not the id"),
        ("config.json", {"model_type": ["bert"]}, "config.json has model_type=.'bert'.; it must"),
        ("tokenizer.json", {"model": None}, "tokenizer.json has model=None; it must be an object"),
        ("tokenizer.json", {"normalizer": 3}, "tokenizer.json has normalizer=3; it must be an obj"),
        ("tokenizer.json", {"padding": "x"}, "tokenizer.json has padding='x'"),
        ("tokenizer.json", {"padding": {"direction": 3}}, "direction=3 of padding must be 'Left'"),
        (
            "tokenizer.json",
            {"padding": {"pad_token": 3}},
            "pad_token=3 of padding must be a string",
        ),
        ("tokenizer.json", {"truncation": [3]}, r"tokenizer.json has truncation=\[3\]"),
        ("tokenizer.json", {"added_tokens": 3}, "tokenizer.json cannot be used"),
    ],
)
def test_a_value_of_a_wrong_type_is_one_error_that_names_file_and_field(
    file, content, match, tmp_path
):
    layout = as_json(tmp_path / "text", small_bert())
    layout[file] = layout.get(file, {}) | content
    with pytest.raises(CheckpointError, match=match):
        Tokenizer.from_pretrained(write(tmp_path / "wrong", layout))


@pytest.mark.parametrize(
    ("layout", "match"),
    [
        (small_gpt2() | {"merges.txt": "#version: 0.2\na b\na b c\n"}, "line 3 has 3 tokens"),
        (small_gpt2() | {"vocab.json": {"a": "x"}}, "vocab.json with merges.txt cannot be used"),
    ],
)
def test_a_broken_vocabulary_is_one_error_that_names_the_file(layout, match, tmp_path):
    with pytest.raises(CheckpointError, match=match):
        Tokenizer.from_pretrained(write(tmp_path, layout))


def test_a_model_that_gives_random_ids_is_refused(tmp_path):
    layout = small_gpt2("<|endoftext|>") | {"config.json": {"model_type": "gpt2"}}
    layout = as_json(tmp_path / "text", layout)
    layout["tokenizer.json"]["model"]["dropout"] = 0.1
    with pytest.raises(CheckpointError, match=r"dropout=0.1 in its model .* set it to null"):
        Tokenizer.from_pretrained(write(tmp_path / "stored", layout))


def test_gpt2_adds_the_tokens_that_its_settings_ask_for(tmp_path):
    layout = small_gpt2("<|endoftext|>", add_bos_token=True) | {
        "config.json": {"model_type": "gpt2"}
    }
    ours, theirs = load_both(write(tmp_path, layout))
    assert ours("ha")["input_ids"] == [256, 71, 64]
    texts = ["ha", ""]
    assert ours(texts, texts)["input_ids"] == theirs(texts, texts)["input_ids"]


# ---- calls ----


@pytest.mark.parametrize("side", ["left", "right"])
def test_texts_are_cut_at_the_side_that_the_config_names(side, tmp_path):
    ours, theirs = load_both(write(tmp_path, small_bert(truncation_side=side)))
    texts, pairs = ["anna ha é e", "ha"], ["e é ha", "anna anna anna anna"]
    for second in (None, pairs):
        options = {"truncation": True, "max_length": 5}
        expected = theirs(texts, second, **options)["input_ids"]
        assert ours(texts, second, **options)["input_ids"] == expected
    windows = ours(texts[0], truncation=True, max_length=4, return_overflowing_tokens=True)
    assert windows.tokens(0)[1:3] == ["anna", "ha"]  # from the left, whatever the side
    ours.save_pretrained(tmp_path / "saved")
    assert Tokenizer.from_pretrained(tmp_path / "saved").truncation_side == side


def test_an_empty_second_text_and_a_padding_length_mean_what_they_mean_in_transformers(tmp_path):
    ours, theirs = load_both(write(tmp_path, small_bert()))
    assert ours("anna", "")["input_ids"] == theirs("anna", "")["input_ids"] == [2, 5, 3]
    lists = ["anna"], [""]
    assert ours(*lists)["input_ids"] == theirs(*lists)["input_ids"] == [[2, 5, 3, 3]]
    options = {"padding": "max_length", "max_length": 4}
    texts = ["ha", "anna ha anna", ""]
    assert ours(texts, **options)["input_ids"] == theirs(texts, **options)["input_ids"]
    with pytest.raises(ValueError, match="pass padding=True, or truncation=True"):
        ours(texts, **options, return_tensors="pt")
