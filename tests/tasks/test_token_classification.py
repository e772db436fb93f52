"""Token classification: transformers' entities from Python, for tokens, words and long texts.

Where words matter, transformers is told which tokens form one: its own rule is wrong wherever a
token is not as long as its characters, or has no space before it.
"""

from itertools import pairwise

import numpy as np
import pytest
import tokenizers as tk
import torch
from hypothesis import given
from hypothesis import strategies as st

from minitransformer import (
    BertForTokenClassification,
    DistilBertConfig,
    DistilBertForTokenClassification,
    RobertaForTokenClassification,
    RobertaModel,
    Tokenizer,
)
from minitransformer.tasks.tag_schemes import TagScheme
from minitransformer.tasks.token_classification import (
    STRATEGIES,
    ScoredToken,
    TokenClassification,
    group_tokens,
    merge_windows,
    resolve_overlaps,
)
from tests.tiny import SIZES, bert_config, perturb, real_data, roberta_config

LINE = "ciao, come va? la ragazza legge un libro e il ragazzo ascolta la radio. perché così?\n"
TEXTS = [
    "Ciao, come va? La ragazza legge il libro, l'università ascolta!",
    "perché PERCHÉ perche\u0301 così... 😀👩‍👩‍👧 radiografia (incredibile)",
    "a  b \t c\n\nd",
    "x",
    "",
    "[UNK] <unk> [SEP] </s> İstanbul ﬁne \u200b ok 日本語",
]
PIECES = [text[start : start + 20] for text in TEXTS for start in (0, 10, 30)]
LABELS = dict(enumerate(["O", "B-person", "I-person", "B-creative-work", "I-creative-work"]))
LENGTH = 40  # tokens that the models take
FAMILIES = ["Bert", "Roberta", "DistilBert"]


def build(family, tokenizer):
    """A tiny model whose classes vary from token to token."""
    sizes = {"vocab_size": tokenizer.vocab_size, "id2label": LABELS}
    torch.manual_seed(0)
    if family == "Bert":
        model = BertForTokenClassification(bert_config(max_position_embeddings=LENGTH, **sizes))
    elif family == "Roberta":
        config = roberta_config(max_position_embeddings=LENGTH + 2, **sizes)
        model = RobertaForTokenClassification(config)
    else:
        config = {**SIZES, "max_position_embeddings": LENGTH, **sizes}
        model = DistilBertForTokenClassification(DistilBertConfig(**config))
    perturb(model)
    batch = tokenizer(PIECES, padding=True, return_tensors="pt")
    with torch.no_grad():  # take away what all tokens share, and exaggerate the rest
        real = batch["attention_mask"].bool()
        logits = model(batch["input_ids"], batch["attention_mask"]).logits[real]  # (tokens, C)
        scale = 2 / logits.std(dim=0)
        model.classifier.bias.sub_(logits.mean(dim=0)).mul_(scale)
        model.classifier.weight.mul_(scale[:, None])
    return model


@pytest.fixture(scope="module", params=FAMILIES)
def path(request, tmp_path_factory):
    """A checkpoint of each family with a small tokenizer."""
    directory = tmp_path_factory.mktemp(request.param)
    (directory / "text.txt").write_text(LINE * 3, encoding="utf-8")
    tokenizer = Tokenizer.train(
        directory / "text.txt",
        vocab_size=330,
        algorithm="bpe" if request.param == "Roberta" else "wordpiece",
        lowercase=request.param != "Roberta",
        show_progress=False,
    )
    tokenizer.model_max_length = LENGTH
    build(request.param, tokenizer).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def ours(path):
    return TokenClassification.from_pretrained(path)


def their_pipeline(path, their_tokenizer, tokenizer):
    """transformers' pipeline, with the words that our tokenizer finds."""
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")

    class ByWordIds(transformers.TokenClassificationPipeline):
        def gather_pre_entities(self, sentence, *arguments, **options):
            encoding = tokenizer(sentence)
            words = dict(zip(encoding.offsets(), encoding.word_ids(), strict=True))
            tokens = super().gather_pre_entities(sentence, *arguments, **options)
            before = None
            for token in tokens:
                word = words[token["start"], token["end"]]
                token["is_subword"], before = word == before, word
            return tokens

    return transformers.pipeline(
        "token-classification", str(path), tokenizer=their_tokenizer, pipeline_class=ByWordIds
    )


@pytest.fixture(scope="module")
def theirs(path, ours):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    if "Distil" in str(path):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return their_pipeline(path, tokenizer, ours.tokenizer)


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert mine["score"] == pytest.approx(float(other["score"]), rel=1e-4)
        assert {**mine, "score": 0} == {**other, "score": 0}


def without_white_space(entities, text):
    """Their entities as ours should be: no white space at the ends, and none of it alone."""
    for entity in entities:
        start, end = entity["start"], entity["end"]
        while start < end and text[start].isspace():
            start += 1
        while start < end and text[end - 1].isspace():
            end -= 1
        if start < end:
            yield {**entity, "start": start, "end": end}


def fits(text, classifier):
    return len(classifier.tokenizer(text)["input_ids"]) <= LENGTH


# ---- against transformers ----


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_entities_are_those_of_transformers(strategy, ours, theirs):
    classes, found = set(), 0
    for piece in PIECES:
        assert fits(piece, ours)
        entities = ours(piece, aggregation_strategy=strategy)
        expected = theirs(piece, aggregation_strategy=strategy)
        if strategy != "none":
            expected = list(without_white_space(expected, piece))
        same(entities, expected)
        found += len(entities)
        classes |= {entity.get("entity", entity.get("entity_group")) for entity in entities}
    assert found > 25  # so that there was something to compare
    assert len(classes) == (4 if strategy == "none" else 2)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("stride", [1, 9, 30])
def test_long_texts_have_the_entities_of_transformers(strategy, stride, ours, theirs):
    for text in (LINE * 4, TEXTS[1] * 3, TEXTS[0] * 3 + TEXTS[2]):
        assert not fits(text, ours)
        entities = ours(text, aggregation_strategy=strategy, stride=stride)
        expected = theirs(text, aggregation_strategy=strategy, stride=stride)
        same(entities, list(without_white_space(expected, text)))


def test_real_vocabulary_and_sentences(tmp_path):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    source, sentences = real_data("tokenizers/bert-base-uncased"), real_data("ner/dev.conll")
    ours = TokenClassification(
        build("Bert", tokenizer := Tokenizer.from_pretrained(source)), tokenizer
    )
    ours.model.save_pretrained(tmp_path)
    other_tokenizer = transformers.BertTokenizer.from_pretrained(str(source))
    theirs = their_pipeline(tmp_path, other_tokenizer, tokenizer)
    texts = [
        " ".join(line.split("\t")[0] for line in sentence.splitlines())
        for sentence in sentences.read_text("utf-8").split("\n\n")[:100]
    ]
    texts = [text for text in texts if fits(text, ours)]
    assert len(texts) > 50
    for strategy in STRATEGIES:
        for entities, expected in zip(
            ours(texts, aggregation_strategy=strategy),
            theirs(texts, aggregation_strategy=strategy),
            strict=True,
        ):
            same(entities, expected)


EVERY_LABEL = dict(enumerate(["O", "B-x", "I-x", "B-y-z", "I-y-z", "x"]))
drawn_tokens = st.lists(  # the number of the class, by how much it wins, continues a word
    st.tuples(st.integers(0, 5), st.integers(1, 4), st.booleans()), max_size=12
)


def scored_tokens(drawn):
    tokens = []
    word_id = 0
    for place, (label, margin, continues) in enumerate(drawn):
        logits = np.cos(np.arange(6.0) * (place + 1)) / 2
        logits[label] = margin
        scores = np.exp(logits) / np.exp(logits).sum()
        word = f"##{place}" if continues else f"{place}"
        word_id += not continues
        tokens.append(ScoredToken(word, scores, 3 * place, 3 * place + 2, place + 1, word_id))
    return tokens


@given(drawn_tokens, st.sampled_from(STRATEGIES))
def test_any_classes_are_grouped_as_by_transformers(drawn, strategy):
    pipelines = pytest.importorskip(
        "transformers.pipelines.token_classification", reason="parity needs transformers"
    )

    class Grouping(pipelines.TokenClassificationPipeline):
        """The grouping of their pipeline, without a model."""

        def __init__(self):
            self.model = type("Model", (), {})
            self.model.config = type("Config", (), {"id2label": EVERY_LABEL})
            self.tokenizer = type("Tokenizer", (), {"convert_tokens_to_string": " ".join})

    tokens = scored_tokens(drawn)
    words_before = [None, *(token.word_id for token in tokens)]
    grouped = Grouping().aggregate(
        [
            {
                "word": token.word,
                "scores": token.scores,
                "start": token.start,
                "end": token.end,
                "index": token.index,
                "is_subword": token.word_id == word_before,
            }
            for token, word_before in zip(tokens, words_before, strict=False)
        ],
        pipelines.AggregationStrategy(strategy),
    )
    expected = [e for e in grouped if "O" not in (e.get("entity"), e.get("entity_group"))]
    scheme = TagScheme(EVERY_LABEL.values())
    same(group_tokens(tokens, EVERY_LABEL, scheme, strategy, " ".join), expected)


# ---- what needs no reference ----


def tokens_of(*rows):
    """Tokens of three classes, O, B-x and I-x, from (word, scores, word_id)."""
    return [
        ScoredToken(word, np.array(scores), 5 * place, 5 * place + 4, place, word_id)
        for place, (word, scores, word_id) in enumerate(rows)
    ]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [
        ("none", [("B-x", "new", 0.6), ("I-x", "##er", 0.5), ("I-x", "##k", 0.9)]),
        ("simple", [("x", "new", 0.6), ("x", "##er ##k", 0.7)]),
        ("first", [("x", "new", 0.6)]),
        # The mean of the second word's scores is [0.4, 0.1, 0.5]: I-x, with 0.5.
        ("average", [("x", "new yo ##rk ##er ##k", (0.6 + 0.5) / 2)]),
        ("max", [("x", "new yo ##rk ##er ##k", (0.6 + 0.9) / 2)]),
    ],
)
def test_the_strategies_on_a_worked_example(strategy, expected):
    tokens = tokens_of(
        ("new", [0.3, 0.6, 0.1], 0),
        ("yo", [0.5, 0.1, 0.4], 1),
        ("##rk", [0.6, 0.2, 0.2], 1),
        ("##er", [0.4, 0.1, 0.5], 1),
        ("##k", [0.1, 0.0, 0.9], 1),
    )
    labels = dict(enumerate(["O", "B-x", "I-x"]))
    found = group_tokens(tokens, labels, TagScheme(labels.values()), strategy, " ".join)
    rows = [(e.get("entity", e.get("entity_group")), e["word"], e["score"]) for e in found]
    assert rows == [(*row[:2], pytest.approx(row[2])) for row in expected]


def tagger(tokenizer, labels, text, entities):
    """A classifier that finds these entities in this text, but not in all tokens of their words.

    The first token of each word is right, with 0.9; the others are O, with 0.52.

    Args:
        tokenizer: of the model.
        labels: names of classes, O first; the scheme is IOB.
        text: to classify.
        entities: (label without prefix, the text of the entity), in their order.
    """
    config = bert_config(
        vocab_size=tokenizer.vocab_size,
        id2label=dict(enumerate(labels)),
        max_position_embeddings=99,
    )
    classifier = TokenClassification(BertForTokenClassification(config), tokenizer)
    encoding = tokenizer(text)
    offsets, word_ids = encoding.offsets(), encoding.word_ids()
    scores = np.eye(len(labels))[[0] * len(offsets)]
    spans = []
    for name, words in entities:
        start = text.index(words)
        spans.append((name, start, start + len(words)))
        prefix = "B"
        for word in sorted(set(word_ids) - {None}):
            tokens = [token for token, word_id in enumerate(word_ids) if word_id == word]
            characters = range(offsets[tokens[0]][0], offsets[tokens[-1]][1])
            if set(characters) & set(range(start, start + len(words))):
                label = labels.index(f"{prefix}-{name}")
                scores[tokens, 0], scores[tokens, label] = 0.52, 0.48
                scores[tokens[0], [0, label]] = 0.1, 0.9
                prefix = "I"
    classifier._scores = lambda inputs: [scores]
    return classifier, spans


@pytest.mark.parametrize("strategy", STRATEGIES[2:])
@pytest.mark.parametrize(
    ("text", "entities"),
    [
        ("ciao, Anna.", [("x", "Anna")]),
        ("(Anna) ha", [("x", "Anna")]),
        ("ciao (incredibile) radio", [("x", "incredibile")]),
        ("Anna\n Bruno", [("x", "Anna"), ("y", "Bruno")]),
        ("la ragazza E\u0301mile va", [("x", "E\u0301mile")]),
        ("la ragazza E\u200bmile \u200b va", [("x", "E\u200bmile")]),
        ("l'universita\u0300 İstanbul", [("x", "İstanbul")]),
        ("ciao 日本語 ok", [("y", "日本語")]),
        ("🦀x, <unk>", [("x", "🦀x")]),
        ("va  New  York,", [("x", "New"), ("y", "York")]),
    ],
)
def test_a_word_is_what_the_tokenizer_says(strategy, text, entities, ours):
    classifier, spans = tagger(ours.tokenizer, ["O", "B-x", "I-x", "B-y", "I-y"], text, entities)
    found = classifier(text, aggregation_strategy=strategy)
    assert [(e["entity_group"], e["start"], e["end"]) for e in found] == spans


def test_entities_neither_begin_nor_end_with_a_space():
    vocab = {"[UNK]": 0, "ĠNew": 1, "ĠYork": 2, "Ġ": 3, "Ċ": 4}
    backend = tk.Tokenizer(tk.models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = tk.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer = Tokenizer(backend, {"unk_token": "[UNK]", "pad_token": "[UNK]"})
    text, labels = "  New York\n New", ["O", "B-x", "I-x"]
    classifier, _ = tagger(tokenizer, labels, text, [])
    assert tokenizer.token_types is False
    assert tokenizer(text).offsets() == [(0, 1), (1, 5), (5, 10), (10, 11), (11, 15)]
    classifier._scores = lambda inputs: [np.eye(3)[[1, 2, 2, 2, 1]]]
    for strategy in STRATEGIES[1:]:
        found = classifier(text, aggregation_strategy=strategy)
        assert [(e["start"], e["end"]) for e in found] == [(2, 10), (12, 15)]
    assert classifier(text)[1]["start"] == 1  # of a single token, what the tokenizer says
    classifier._scores = lambda inputs: [np.eye(3)[[1, 0, 0, 1, 0]]]
    assert classifier(text, aggregation_strategy="simple") == []  # white space alone


def test_words_need_a_tokenizer_that_splits_a_text_into_words():
    backend = tk.Tokenizer(tk.models.WordLevel({"[UNK]": 0, "▁a▁b": 1}, unk_token="[UNK]"))
    backend.pre_tokenizer = tk.pre_tokenizers.Metaspace(split=False)
    classifier, _ = tagger(
        Tokenizer(backend, {"unk_token": "[UNK]", "pad_token": "[UNK]"}),
        ["O", "B-x", "I-x"],
        "a b",
        [],
    )
    for strategy in STRATEGIES[2:]:
        with pytest.raises(ValueError, match=f"'{strategy}' needs words.*use \"simple\""):
            classifier("a b", aggregation_strategy=strategy)
    assert classifier("a b", aggregation_strategy="simple") == []


@pytest.mark.parametrize(
    ("name", "tags", "expected"),
    [
        ("IOBES", "S-x S-x B-x E-x S-O O I-x E-x", ["x 0 1", "x 1 2", "x 2 4", "O 4 5", "x 6 8"]),
        ("BILOU", "U-x B-x I-x L-x B-O L-O U-x", ["x 0 1", "x 1 4", "O 4 6", "x 6 7"]),
        ("IO", "creative-work creative-work O person", ["creative-work 0 2", "person 3 4"]),
    ],
)
def test_the_scheme_is_read_off_the_labels(name, tags, expected):
    tags = tags.split()
    words = [f"w{number}" for number in range(len(tags))]
    vocab = {"[UNK]": 0, **{word: number for number, word in enumerate(words, 1)}}
    backend = tk.Tokenizer(tk.models.WordLevel(vocab, unk_token="[UNK]"))
    backend.pre_tokenizer = tk.pre_tokenizers.Whitespace()
    labels = sorted({"O", *tags})
    classifier, _ = tagger(
        Tokenizer(backend, {"unk_token": "[UNK]", "pad_token": "[UNK]"}),
        labels,
        " ".join(words),
        [],
    )
    classifier._scores = lambda inputs: [np.eye(len(labels))[[labels.index(tag) for tag in tags]]]
    assert classifier.scheme.name == name
    for strategy in STRATEGIES[1:]:
        found = classifier(" ".join(words), aggregation_strategy=strategy)
        rows = [f"{e['entity_group']} {e['start'] // 3} {(e['end'] + 1) // 3}" for e in found]
        assert rows == expected
    assert [e["entity"] for e in classifier(" ".join(words))] == [t for t in tags if t != "O"]


@pytest.mark.parametrize("stride", range(8))
@pytest.mark.parametrize("length", [1, 9, 10, 11, 40])
def test_windows_give_every_token_once_from_the_middle(length, stride):
    space = 9
    starts = range(0, max(1, length - stride), space - stride)
    windows = [
        [
            ScoredToken(str(place), np.array([number]), place, place + 1, 1 + place - start)
            for place in range(start, min(length, start + space))
        ]
        for number, start in enumerate(starts)
    ]
    merged = merge_windows(windows, stride)
    assert [token.start for token in merged] == list(range(length))
    assert [token.index for token in merged] == list(range(1, length + 1))
    for token in merged:
        own = windows[int(token.scores[0])]
        left = token.start - own[0].start if own is not windows[0] else space
        right = own[-1].start - token.start if own is not windows[-1] else space
        assert min(left, right) >= stride // 2


def test_of_overlapping_entities_the_longer_then_the_better_stays():
    def entity(start, end, score):
        return {"start": start, "end": end, "score": score}

    short, long, best = entity(0, 4, 0.9), entity(2, 9, 0.1), entity(12, 14, 0.8)
    assert resolve_overlaps([best, long, entity(12, 14, 0.7), short]) == [long, best]
    assert resolve_overlaps([short, entity(4, 6, 0.2)]) == [short, entity(4, 6, 0.2)]
    assert resolve_overlaps([]) == []


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_batches_do_not_change_the_answers(strategy, ours):
    texts = [*TEXTS, LINE * 3, "radio"]
    one_by_one = [ours(text, aggregation_strategy=strategy) for text in texts]
    small = TokenClassification(ours.model, ours.tokenizer, batch_size=2)
    for classifier in (ours, small):
        answers = classifier(texts, aggregation_strategy=strategy)
        for answer, alone in zip(answers, one_by_one, strict=True):
            same(answer, alone)
    assert ours([], aggregation_strategy=strategy) == []
    assert ours(["", "x"], aggregation_strategy=strategy)[0] == []
    assert ours([""], aggregation_strategy=strategy) == [[]]


def test_a_long_text_is_read_to_its_end(ours):
    text = LINE * 4
    tokens = ours(text)
    assert tokens[-1]["end"] > 3 * len(LINE)
    assert [token["index"] for token in tokens] == sorted({token["index"] for token in tokens})
    every_token = ours.tokenizer(text)
    for token in tokens:
        assert every_token.offsets(0)[token["index"]] == (token["start"], token["end"])
        assert every_token.tokens(0)[token["index"]] == token["word"]
    entities = ours(text, aggregation_strategy="first")
    assert entities[-1]["end"] > 3 * len(LINE)
    for before, after in pairwise(entities):
        assert before["end"] <= after["start"]


def test_windows_share_a_quarter_of_their_tokens_by_default(ours):
    text = LINE * 4
    quarter = (LENGTH - 2) // 4  # without the two special tokens
    assert ours(text) == ours(text, stride=quarter) != ours(text, stride=quarter + 1)


def test_what_cannot_be_classified_is_named(ours):
    with pytest.raises(ValueError, match="unknown aggregation_strategy 'averag'.*'average'"):
        ours("ciao", aggregation_strategy="averag")
    with pytest.raises(ValueError, match=f"max_length={LENGTH}.*stride={LENGTH - 2} must be"):
        ours("ciao", stride=LENGTH - 2)
    for stride in (-1, 2.5, "3"):
        with pytest.raises(ValueError, match=f"stride={stride!r}"):
            ours("ciao", stride=stride)
    with pytest.raises(TypeError, match=r"texts\[1\] must be a str, not int"):
        ours(["ciao", 3])


def test_the_wrong_model_or_tokenizer(ours):
    with pytest.raises(ValueError, match="BertForTokenClassification; this is a RobertaModel"):
        TokenClassification(RobertaModel(roberta_config()), ours.tokenizer)
    with pytest.raises(ValueError, match="tokenizer has [0-9]+ tokens.*vocab_size=9 "):
        TokenClassification(BertForTokenClassification(bert_config(vocab_size=9)), ours.tokenizer)
