"""Text classification: transformers' answers, warnings of truncation, and errors."""

import warnings

import pytest

from minitransformer import (
    BertForSequenceClassification,
    BertModel,
    DistilBertForSequenceClassification,
    Tokenizer,
    pipeline,
)
from minitransformer.tasks.text_classification import TextClassification
from tests.tiny import ENCODERS, TEXTS, bert_config, same, save_checkpoint, their_pipeline

THREE_CLASSES = {0: "no", 1: "maybe", 2: "yes"}
LONG = "la ragazza legge un libro e " * 20


@pytest.fixture(scope="module", params=ENCODERS)
def path(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    return save_checkpoint(
        directory, f"{request.param}ForSequenceClassification", id2label=THREE_CLASSES
    )


@pytest.fixture(scope="module")
def classify(tmp_path_factory) -> TextClassification:
    directory = tmp_path_factory.mktemp("one")
    return pipeline(
        "text-classification",
        save_checkpoint(directory, "BertForSequenceClassification", id2label=THREE_CLASSES),
    )


def test_the_answers_are_those_of_transformers(path):
    theirs = their_pipeline("text-classification", path)
    ours = pipeline("text-classification", path)
    same(ours(TEXTS), theirs(TEXTS))
    same(ours(TEXTS, top_k=None), theirs(TEXTS, top_k=None))
    same(ours(TEXTS, top_k=2), theirs(TEXTS, top_k=2))
    for text in (TEXTS[0], TEXTS[:1], {"text": TEXTS[0], "text_pair": "ciao"}):
        for fields in ({}, {"top_k": 1}, {"top_k": 2}, {"function_to_apply": "none"}):
            same(ours(text, **fields), theirs(text, **fields))


@pytest.mark.parametrize("top_k", [None, 1, 2])
def test_top_k_of_the_whole_pipeline(path, top_k):
    """Then transformers puts the list of one text into another one."""
    ours = pipeline("sentiment-analysis", path, top_k=top_k)
    theirs = their_pipeline("sentiment-analysis", path, top_k=top_k)
    for texts in (TEXTS, TEXTS[0]):
        same(ours(texts), theirs(texts))
        same(ours(texts, top_k=2), theirs(texts, top_k=2))
        same(ours(texts, top_k=1), theirs(texts, top_k=1))


def test_all_scores_by_their_old_name(classify):
    """As transformers 4 did it: in the order of the classes, and one text in a list."""
    every = classify(TEXTS[:2], top_k=None)
    for answers, best in zip(classify(TEXTS[:2], return_all_scores=True), every, strict=True):
        assert [answer["label"] for answer in answers] == [*THREE_CLASSES.values()]
        same(sorted(answers, key=lambda answer: -answer["score"]), best)
    (alone,) = classify(TEXTS[0], return_all_scores=True)
    assert [answer["label"] for answer in alone] == [*THREE_CLASSES.values()]


def test_pairs(path):
    theirs = their_pipeline("text-classification", path)
    ours = pipeline("text-classification", path)
    first, second = TEXTS[:3], TEXTS[2:5]
    pairs = [{"text": a, "text_pair": b} for a, b in zip(first, second, strict=True)]
    same(ours(first, second), theirs(pairs))
    same(ours(pairs), theirs(pairs))
    same(ours(pairs[0]), theirs(pairs[0]))
    same(ours(first[0], second[0]), [theirs(pairs[0])])
    same(ours({"text": first[0]}), theirs({"text": first[0]}))
    swapped = ours(second, first, top_k=None)
    assert swapped != ours(first, second, top_k=None)


@pytest.mark.parametrize("family", ENCODERS)
@pytest.mark.parametrize(
    ("id2label", "problem_type"),
    [
        (THREE_CLASSES, "single_label_classification"),
        (THREE_CLASSES, "multi_label_classification"),
        (THREE_CLASSES, "regression"),
        ({0: "stars"}, "regression"),
        ({0: "relevant"}, None),
    ],
)
def test_what_a_score_is_follows_from_the_config(family, id2label, problem_type, tmp_path):
    path = save_checkpoint(
        tmp_path,
        f"{family}ForSequenceClassification",
        id2label=id2label,
        problem_type=problem_type,
    )
    answers = pipeline("text-classification", path)(TEXTS, top_k=None)
    same(answers, their_pipeline("text-classification", path)(TEXTS, top_k=None))


def test_one_class_that_is_a_number(tmp_path):
    save_checkpoint(tmp_path, "BertForSequenceClassification", id2label={0: "stars"})
    model = BertForSequenceClassification.from_pretrained(tmp_path, problem_type="regression")
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    number = TextClassification(model, tokenizer)("ciao")[0]["score"]
    inputs = tokenizer("ciao", return_tensors="pt")
    assert number == pytest.approx(model(**inputs).logits.item(), abs=1e-6)


def test_batches_and_padding_do_not_change_the_answers(path):
    ours = pipeline("text-classification", path)
    small = TextClassification(ours.model, ours.tokenizer, batch_size=2)
    every = ours(TEXTS, top_k=None)
    same(small(TEXTS, top_k=None), every)
    same([ours(text, top_k=None) for text in TEXTS], every)
    ours.tokenizer.padding_side = "left"
    same(ours(TEXTS, top_k=None), every)
    assert ours([]) == []


def test_texts_of_like_length_are_computed_together(classify, monkeypatch):
    small = TextClassification(classify.model, classify.tokenizer, batch_size=2)
    shapes = []
    forward = type(classify.model).forward

    def recorded(model, input_ids, **inputs):
        shapes.append((tuple(input_ids.shape), int(inputs["attention_mask"].sum())))
        return forward(model, input_ids, **inputs)

    monkeypatch.setattr(type(classify.model), "forward", recorded)
    small(["ciao", "la " * 30, "ciao", "la " * 30, "un libro"])
    assert shapes == [((2, 32), 64), ((2, 4), 7), ((1, 3), 3)]


def test_truncation_is_warned_of_once_and_equals_transformers(path):
    texts = ["ciao", LONG, "un libro", LONG + "bene"]
    ours = pipeline("text-classification", path)
    tokens = [len(ours.tokenizer(text)["input_ids"]) for text in texts]
    with pytest.warns(UserWarning) as caught:
        answers = ours(texts)
    assert [str(warning.message) for warning in caught] == [
        f"2 of 4 texts had to be truncated to 40 tokens: texts[1] has {tokens[1]}, "
        f"texts[3] has {tokens[3]}"
    ]
    assert caught[0].filename == __file__
    theirs = their_pipeline("text-classification", path)
    same(answers, theirs(texts, truncation=True, max_length=40))
    with pytest.warns(UserWarning, match="1 of 1 texts had to be truncated"):
        (pair,) = ours(LONG, "bene bene")
    their_pair = {"text": LONG, "text_pair": "bene bene"}
    same(pair, theirs(their_pair, truncation=True, max_length=40))


def test_truncation_that_is_asked_for_is_not_warned_of(path):
    ours, theirs = (
        pipeline("text-classification", path),
        their_pipeline("text-classification", path),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for fields in ({}, {"max_length": 9}, {"max_length": 9, "padding": True, "batch_size": 2}):
            answers = ours(["ciao", LONG], truncation=True, **fields)
            limit = {"max_length": 40} | {n: v for n, v in fields.items() if n == "max_length"}
            same(answers, theirs(["ciao", LONG], truncation=True, **limit))
    with pytest.raises(ValueError, match=r"texts\[1\] has \d+ tokens, but the maximum is 40"):
        ours(["ciao", LONG], truncation=False)


def test_many_truncated_texts_are_counted_and_three_of_them_named(classify):
    tokens = len(classify.tokenizer(LONG)["input_ids"])
    with pytest.warns(UserWarning) as caught:
        classify([LONG] * 5)
    assert str(caught[0].message) == (
        f"5 of 5 texts had to be truncated to 40 tokens: texts[0] has {tokens}, "
        f"texts[1] has {tokens}, texts[2] has {tokens}, and 2 more"
    )


def test_a_text_that_just_fits_is_not_truncated(classify):
    fits = "la " * 38
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        classify(fits)
    with pytest.warns(UserWarning, match=r"texts\[0\] has 41"):
        classify(fits + "la")


@pytest.mark.parametrize(("stated", "used"), [(17, 17), (100, 40), (None, 40)])
def test_the_limit_is_the_lower_of_model_and_tokenizer(classify, stated, used):
    tokenizer = Tokenizer(
        classify.tokenizer.backend,
        classify.tokenizer.special_tokens,
        model_max_length=stated,
        token_types=True,
    )
    with pytest.warns(UserWarning, match=f"to {used} tokens"):
        TextClassification(classify.model, tokenizer)(LONG)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ([["ciao", ""]], ValueError, r"texts\[1\] is empty: ''"),
        ([" \n"], ValueError, r"texts\[0\] is empty: ' \\n'"),
        ([["ciao"], ["  "]], ValueError, r"text_pairs\[0\] is empty"),
        ([["ciao", 3]], TypeError, r"texts\[1\] must be a str, not int: 3"),
        ([[{"text": "a", "text_pair": "b"}], "c"], TypeError, "second text of a pair as text_pai"),
        (
            [[{"text": "a"}, {"text": "a", "text_pair": "b"}]],
            TypeError,
            r"texts\[1\] is not a dict",
        ),
        ([{"text": "a", "pair": "b"}], TypeError, r"it must be {\"text\": ...}"),
        ([{"text": "a", "text_pair": ""}], ValueError, r"text_pairs\[0\] is empty"),
        ([[["a", "b"]]], TypeError, "second text of a pair as text_pairs"),
        ([None], TypeError, "texts must be a str or a list of str, not NoneType"),
        ([["a", "b"], ["c"]], ValueError, r"2 texts \(list\) and 1 text_pairs \(list\)"),
        ([["a"], "b"], ValueError, r"1 texts \(list\) and 1 text_pairs \(str\)"),
    ],
)
def test_what_is_no_text_is_named(classify, arguments, error, message):
    with pytest.raises(error, match=message):
        classify(*arguments)


def test_wrong_numbers_are_named(classify):
    for top_k in (0, -1, 2.5, "3"):
        with pytest.raises(ValueError, match=f"top_k={top_k!r} must be an integer of at least 1"):
            classify("ciao", top_k=top_k)
    with pytest.raises(ValueError, match="batch_size=0"):
        TextClassification(classify.model, classify.tokenizer, batch_size=0)


def test_the_wrong_model_or_tokenizer(classify, tmp_path):
    path = save_checkpoint(tmp_path, "BertForMaskedLM")
    with pytest.raises(ValueError, match="such as BertForSequenceC.*this is a BertForMaskedLM"):
        pipeline("text-classification", path)
    with pytest.raises(ValueError, match="this is a BertModel"):
        TextClassification(BertModel(bert_config()), classify.tokenizer)
    small = BertForSequenceClassification(bert_config(vocab_size=20))
    with pytest.raises(ValueError, match="tokenizer has [0-9]+ tokens.*vocab_size=20"):
        TextClassification(small, classify.tokenizer)


def test_a_distilbert_with_a_tokenizer_of_bert(tmp_path):
    save_checkpoint(tmp_path, "DistilBertForSequenceClassification")
    answer = pipeline("text-classification", tmp_path)("ciao", "un libro")
    tokenizer = Tokenizer.from_pretrained(tmp_path)
    tokenizer.token_types = True
    tokenizer.save_pretrained(tmp_path)
    same(pipeline("text-classification", tmp_path)("ciao", "un libro"), answer)
    model = DistilBertForSequenceClassification.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="tokenizer.token_types = False"):
        TextClassification(model, tokenizer)("ciao", "un libro")


def test_a_model_with_one_token_type_and_a_tokenizer_with_two(tmp_path):
    save_checkpoint(tmp_path, "BertForSequenceClassification", type_vocab_size=1)
    assert Tokenizer.from_pretrained(tmp_path).token_types
    pipeline("text-classification", tmp_path)("ciao", "un libro")


def test_dropout_is_off(classify):
    model = BertForSequenceClassification(
        bert_config(vocab_size=classify.tokenizer.vocab_size, hidden_dropout_prob=0.5)
    ).train()
    ours = TextClassification(model, classify.tokenizer)
    assert ours("un libro") == ours("un libro")
