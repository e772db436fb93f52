"""CoNLL files: unchanged sentences, errors with their line, and labels at the right tokens."""

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from minitransformer import Tokenizer
from minitransformer.tasks.tag_schemes import TagScheme
from tests.tiny import real_data
from train.conll import (
    Sentence,
    align_words,
    count_missing_beginnings,
    read_conll,
    read_sentences,
    tag_ids,
    tag_names,
    tag_scheme,
)

LINE = "Empire State Building isn't in l'Aquila, perché? @paulwalk naïve\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"tokens": ["a"], "tags": ["O"]}\n{"tokens": ["a"], "tags": []}', "line 2: 'tokens'"),
        ('{"tokens": "a b", "tags": ["O"]}', "line 1: 'tokens' and 'tags' must be lists"),
        ('{"tokens": ["a", " "], "tags": ["O", "O"]}', "line 1: ' ' is no word"),
        ('{"tokens": ["a"], "tags": [3]}', "line 1: the tag '3' is none of --tag-names"),
        ('{"text": ["a"], "tags": ["O"]}', "has no field tokens or words; .* text, tags"),
    ],
)  # fmt: skip
def test_what_is_wrong_in_json_lines_is_named(content, message, tmp_path):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_sentences(tmp_path / "a.jsonl", ["O", "B-x"])


def write(path, content):
    path = path / "words.conll"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize(
    "content",
    [
        "The\tO\nEmpire\tB-loc\n\nNext\tO\n",
        "\ufeffThe\tO\r\nEmpire\tB-loc\r\n\r\nNext\tO",
        "\n\t\nThe\tO\nEmpire\tB-loc\n\t\n \n\u00a0\n\nNext\tO\n\n\t\n",
        "-DOCSTART-\tO\n\nThe\tDT\tO\nEmpire\tNNP\tB-loc\n-DOCSTART-\tO\nNext\tJJ\tO\n",
        "-DOCSTART- -X- -X- O\n\nThe DT B-NP O\nEmpire  NNP I-NP B-loc \n\nNext JJ B-NP O\n",
    ],
)
def test_sentences_are_read_in_every_form(content, tmp_path):
    path = write(tmp_path, content)
    sentences = read_conll(path)
    assert sentences == [Sentence(("The", "Empire"), ("O", "B-loc")), Sentence(("Next",), ("O",))]
    assert sentences[0].text == "The Empire"
    lines = content.lstrip("\ufeff").split("\n")
    for sentence in sentences:
        for number, word in enumerate(sentence.words, start=sentence.line_number):
            assert lines[number - 1].startswith(word)


def test_a_word_is_everything_before_the_tab(tmp_path):
    path = write(tmp_path, "New York\tB-loc\nno\u00a0break O\n\u2028\tO\n#\tO\n\ufe0f\tO\n")
    assert read_conll(path)[0].words == ("New York", "no\u00a0break", "\u2028", "#", "\ufe0f")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("The\tO\nEmpire\n", "line 2: 'Empire' has only one column; a line must be a word, a tab"),
        ("The\tO\n\n\tO\n", "line 3: the word before the tag 'O' is empty"),
        ("The\tO\nEmpire\t\n", "line 2: the tag of 'Empire' is empty"),
        (b"The\tO\nperch\xe9\tO\n", "line 2 is not UTF-8"),
        ("", "contains no word"),
        ("-DOCSTART- O\n\n\t\n", "contains no word"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(content, message, tmp_path):
    with pytest.raises(ValueError, match=f"words.conll.*{message}"):
        read_conll(write(tmp_path, content))


def sentence(*tags, line_number=1):
    return Sentence(tuple("w" for _ in tags), tags, line_number)


@pytest.mark.parametrize(
    ("tags", "scheme", "names"),
    [
        (
            *("O I-group B-creative-work I-creative-work B-a", "IOB"),
            "O B-a I-a B-creative-work I-creative-work B-group I-group",
        ),
        ("B-a E-a S-b", "IOBES", "O B-a I-a E-a S-a B-b I-b E-b S-b"),
        ("U-a B-a L-a", "BILOU", "O B-a I-a L-a U-a"),
        ("B-O M-O E-O", "BMES", "O B-O M-O E-O S-O"),
        ("NOUN ADJ creative-work", "IO", "O ADJ NOUN creative-work"),
        ("O", "IO", "O"),
    ],
)
def test_every_type_has_all_tags_of_the_scheme(tags, scheme, names):
    sentences = [sentence(*tags.split()), sentence("O")]
    found = tag_scheme(sentences, "train.conll")
    assert found.name == scheme
    assert tag_names(sentences, found, "train.conll") == names.split()


@pytest.mark.parametrize(
    ("tags", "wrong"),
    [
        ("O B-a loc I-a", "line 6: the tag 'loc'"),
        ("O B-a o", "line 6: the tag 'o'"),
        ("O B-a B-", "line 6: the tag 'B-'"),
        ("O B-a Z-a", "line 6: the tag 'Z-a'"),
        ("B-a I-a U-a E-a", "line 4: the tag 'B-a'"),
        ("O loc S-loc", "line 6: the tag 'S-loc'"),
    ],
)
def test_tags_of_no_scheme_or_of_two_are_refused(tags, wrong):
    sentences = [sentence("O", "O"), sentence(*tags.split(), line_number=4)]
    with pytest.raises(ValueError, match=rf"train.conll, {wrong} .*B-, I-, L-, U- \(BILOU\)"):
        tag_scheme(sentences, "train.conll")


def test_tags_become_numbers():
    classes = ["O", "B-a", "I-a"]
    sentences = [sentence("B-a", "I-a"), sentence("O", "B-a", line_number=4)]
    assert tag_ids(sentences, classes, "dev.conll") == [[1, 2], [0, 1]]
    message = "dev.conll, line 8: the tag 'I-b' is not one of.*B-a, I-a"
    with pytest.raises(ValueError, match=message):
        tag_ids([*sentences, sentence("O", "I-b", line_number=7)], classes, "dev.conll")


@pytest.mark.parametrize(
    ("tags", "missing"),
    [
        (["B-a I-a O B-a B-b I-b"], 0),
        (["I-a I-a O I-a I-b I-b"], 3),
        (["I-a", "I-a B-a I-b"], 3),
        (["S-a B-a E-a O I-a E-b", "E-a"], 3),
        (["a a b O"], 0),
    ],
)
def test_missing_beginnings_are_counted(tags, missing):
    sentences = [sentence(*line.split()) for line in tags]
    scheme = TagScheme(tag for each in sentences for tag in each.tags)
    assert count_missing_beginnings(sentences, scheme) == missing


# ---- words and tokens ----


@pytest.fixture(scope="module", params=["bpe", "wordpiece", "unigram", "bpe with spaces"])
def tokenizer(request, tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("words") / "text.txt"
    path.write_text(LINE * 3, encoding="utf-8")
    algorithm = request.param.split()[0]
    tokenizer = Tokenizer.train(path, vocab_size=330, algorithm=algorithm, show_progress=False)
    if request.param == "bpe with spaces":  # as GPT-2's: a token covers the space before it
        processor = tokenizers.processors.ByteLevel(trim_offsets=False)
        tokenizer.backend.post_processor = processor
    return tokenizer


def aligned(tokenizer, words, **settings):
    batch = tokenizer([" ".join(words)], **settings)
    return batch, align_words(batch, 0, words)


def test_the_first_token_of_each_word_has_its_label(tokenizer):
    words = ["l'Aquila,", "isn't", "Buildinging", "@paulwalk", "perché"]
    batch, alignment = aligned(tokenizer, words, padding="max_length", max_length=70)
    labels = alignment.token_labels([10, 11, 12, 13, 14])
    assert len(labels) == alignment.num_tokens == 70
    text, starts = " ".join(words), []
    for (start, end), label in zip(batch.offsets(0), labels, strict=True):
        if label != -100:
            starts.append(text[start:end].strip())
            assert words[label - 10].startswith(starts[-1])
    assert [label for label in labels if label != -100] == [10, 11, 12, 13, 14]
    assert (alignment.truncated, alignment.dropped) == (0, 0)
    values = alignment.word_values(labels, missing=0)
    assert values == [10, 11, 12, 13, 14]


def test_padding_on_the_left_shifts_nothing_within_the_sequence(tokenizer):
    words = ["naïve", "Empire", "is"]
    _, right = aligned(tokenizer, words)
    _, left = aligned(tokenizer, words, padding="max_length", max_length=50, padding_side="left")
    padding = 50 - right.num_tokens
    assert left.first_tokens == tuple(token + padding for token in right.first_tokens)


def test_words_without_a_token_shift_nothing(tmp_path):
    (tmp_path / "text.txt").write_text(LINE * 3, encoding="utf-8")
    tokenizer = Tokenizer.train(
        tmp_path / "text.txt", vocab_size=99, algorithm="wordpiece", show_progress=False
    )
    words = ["\u200b", "Empire", "\x01", "\u00a0", "State", "\u00ad\u200d"]
    batch, alignment = aligned(tokenizer, words)
    assert alignment.dropped == 4 and alignment.truncated == 0
    assert [token is None for token in alignment.first_tokens] == [
        *(True, False, True, True, False, True)
    ]
    labels = alignment.token_labels([1, 2, 3, 4, 5, 6])
    assert [label for label in labels if label != -100] == [2, 5]
    assert batch.tokens(0)[labels.index(2)].startswith("E")
    assert alignment.word_values(labels, missing=0) == [0, 2, 0, 0, 5, 0]


def test_truncated_words_are_counted(tokenizer):
    words = LINE.split()
    whole, _ = aligned(tokenizer, words)
    lost = 0
    for max_length in range(len(whole.encodings[0]), 3, -1):
        _, alignment = aligned(tokenizer, words, truncation=True, max_length=max_length)
        missing = [word for word, token in enumerate(alignment.first_tokens) if token is None]
        assert missing == list(range(len(words) - alignment.truncated, len(words)))
        assert alignment.truncated >= lost and alignment.dropped == 0
        lost = alignment.truncated
        tags = alignment.word_values([7] * max_length, missing=0)
        assert tags == [7] * (len(words) - lost) + [0] * lost
    assert lost >= len(words) - 4


@given(st.lists(st.text("aE è'\u200b\u00a0\x01😀é,tate", min_size=1, max_size=4), min_size=1))
def test_labels_are_at_the_tokens_of_their_words(tokenizer, words):
    batch, alignment = aligned(tokenizer, words)
    owners = [number for word, text in enumerate(words) for number in (*[word] * len(text), None)]
    covered = [set(owners[start:end]) for start, end in batch.offsets(0)]
    for word, first_token in enumerate(alignment.first_tokens):
        tokens = [token for token, owner in enumerate(covered) if word in owner]
        assert first_token == (tokens[0] if tokens else None)
    assert alignment.dropped == alignment.first_tokens.count(None)
    assert alignment.truncated == 0


def test_the_wrong_number_of_labels_is_refused(tokenizer):
    _, alignment = aligned(tokenizer, ["Empire", "State"])
    with pytest.raises(ValueError):
        alignment.token_labels([1])


@pytest.mark.parametrize(
    ("name", "numbers"),
    [("train", (3394, 62730, 1975)), ("dev", (1009, 15733, 836)), ("test", (1287, 23394, 1079))],
)
def test_the_real_files(name, numbers):
    path, vocabulary = real_data(f"ner/{name}.conll"), real_data("tokenizers/bert-base-uncased")
    sentences = read_conll(path)
    tags = [tag for sentence in sentences for tag in sentence.tags]
    entities = sum(tag.startswith("B-") for tag in tags)
    assert (len(sentences), len(tags), entities) == numbers
    scheme = tag_scheme(sentences, path)
    assert scheme.name == "IOB"
    assert count_missing_beginnings(sentences, scheme) == 0
    assert len(tag_names(sentences, scheme, "train.conll")) == 13
    tokenizer = Tokenizer.from_pretrained(vocabulary)
    batch = tokenizer([sentence.text for sentence in sentences])
    dropped = []
    for index, sentence in enumerate(sentences):
        alignment = align_words(batch, index, sentence.words)
        assert alignment.truncated == 0
        dropped += [
            word
            for word, token in zip(sentence.words, alignment.first_tokens, strict=True)
            if token is None
        ]
    assert set(dropped) <= {"\ufe0f"}  # an emoji's variation selector, cut off from its emoji
