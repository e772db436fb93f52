"""Token classification: transformers' entities from Python, for tokens, words and long texts."""

from itertools import pairwise

import numpy as np
import pytest
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
from minitransformer.tasks.token_classification import (
    STRATEGIES,
    ScoredToken,
    TokenClassification,
    continues_word,
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


@pytest.fixture(scope="module")
def theirs(path):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(path))
    if "Distil" in str(path):
        tokenizer.model_input_names = ["input_ids", "attention_mask"]
    return transformers.pipeline("token-classification", str(path), tokenizer=tokenizer)


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys()
        assert mine["score"] == pytest.approx(float(other["score"]), rel=1e-4)
        assert {**mine, "score": 0} == {**other, "score": 0}


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
        same(entities, theirs(piece, aggregation_strategy=strategy))
        found += len(entities)
        classes |= {entity.get("entity", entity.get("entity_group")) for entity in entities}
    assert found > 30  # so that there was something to compare
    assert len(classes) == (4 if strategy == "none" else 2)


@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES[1:])
@pytest.mark.parametrize("stride", [1, 9, 30])
def test_long_texts_have_the_entities_of_transformers(strategy, stride, ours, theirs):
    for text in (LINE * 4, TEXTS[1] * 3, TEXTS[0] * 3 + TEXTS[2]):
        assert not fits(text, ours)
        entities = ours(text, aggregation_strategy=strategy, stride=stride)
        same(entities, theirs(text, aggregation_strategy=strategy, stride=stride))


def test_real_vocabulary_and_sentences(tmp_path):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    source, sentences = real_data("tokenizers/bert-base-uncased"), real_data("ner/dev.conll")
    ours = TokenClassification(
        build("Bert", tokenizer := Tokenizer.from_pretrained(source)), tokenizer
    )
    ours.model.save_pretrained(tmp_path)
    other_tokenizer = transformers.BertTokenizer.from_pretrained(str(source))
    theirs = transformers.pipeline("token-classification", str(tmp_path), tokenizer=other_tokenizer)
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


EVERY_LABEL = dict(enumerate(["O", "B-x", "I-x", "B-y-z", "I-y-z", "S-x", "x"]))
drawn_tokens = st.lists(  # the number of the class, by how much it wins, continues a word
    st.tuples(st.integers(0, 6), st.integers(1, 4), st.booleans()), max_size=12
)


def scored_tokens(drawn):
    tokens = []
    for place, (label, margin, continues) in enumerate(drawn):
        logits = np.cos(np.arange(7.0) * (place + 1)) / 2
        logits[label] = margin
        scores = np.exp(logits) / np.exp(logits).sum()
        word = f"##{place}" if continues else f"{place}"
        tokens.append(ScoredToken(word, scores, 3 * place, 3 * place + 2, place + 1, continues))
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
    grouped = Grouping().aggregate(
        [
            {
                "word": token.word,
                "scores": token.scores,
                "start": token.start,
                "end": token.end,
                "index": token.index,
                "is_subword": token.continues_word,
            }
            for token in tokens
        ],
        pipelines.AggregationStrategy(strategy),
    )
    expected = [e for e in grouped if "O" not in (e.get("entity"), e.get("entity_group"))]
    same(group_tokens(tokens, EVERY_LABEL, strategy, " ".join), expected)


# ---- what needs no reference ----


def tokens_of(*rows):
    """Tokens of three classes, O, B-x and I-x, from (word, scores, continues_word)."""
    return [
        ScoredToken(word, np.array(scores), 5 * place, 5 * place + 4, place, continues)
        for place, (word, scores, continues) in enumerate(rows)
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
        ("new", [0.3, 0.6, 0.1], False),
        ("yo", [0.5, 0.1, 0.4], False),
        ("##rk", [0.6, 0.2, 0.2], True),
        ("##er", [0.4, 0.1, 0.5], True),
        ("##k", [0.1, 0.0, 0.9], True),
    )
    found = group_tokens(tokens, dict(enumerate(["O", "B-x", "I-x"])), strategy, " ".join)
    rows = [(e.get("entity", e.get("entity_group")), e["word"], e["score"]) for e in found]
    assert rows == [(*row[:2], pytest.approx(row[2])) for row in expected]


def test_where_words_continue():
    text = "New York, (ok)"
    assert continues_word("##rk", text, 6, 8, marks_words=True)
    assert not continues_word("York", text, 4, 8, marks_words=True)
    assert continues_word("e", "e\u0301", 0, 2, marks_words=True)  # transformers' rule, not ours
    assert not continues_word("New", text, 0, 3, marks_words=False)
    assert not continues_word("ĠYork", text, 4, 8, marks_words=False)
    assert not continues_word("ĠYork", text, 3, 8, marks_words=False)  # offsets with the space
    assert continues_word(",", text, 8, 9, marks_words=False)


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
