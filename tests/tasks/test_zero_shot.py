"""Zero-shot classification: transformers' answers, any order of the classes, errors that name."""

import pytest

from minitransformer import BertForSequenceClassification, pipeline
from minitransformer.tasks.zero_shot import ZeroShotClassification
from tests.tiny import ENCODERS, TEXTS, bert_config, perturb, same, save_checkpoint, their_pipeline

NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
LABELS = ["libro", "radio e ragazzo", "ciao"]
LONG = "la ragazza legge un libro e " * 20


def checkpoint(directory, family="Bert", id2label=NLI):
    return save_checkpoint(directory, f"{family}ForSequenceClassification", id2label=id2label)


@pytest.fixture(scope="module", params=ENCODERS)
def path(request, tmp_path_factory):
    return checkpoint(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture(scope="module")
def rank(tmp_path_factory) -> ZeroShotClassification:
    return pipeline("zero-shot-classification", checkpoint(tmp_path_factory.mktemp("one")))


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [LABELS, "libro, radio e ragazzo ,ciao,", ["libro"], "libro"])
def test_the_answers_are_those_of_transformers(path, labels, multi_label):
    theirs = their_pipeline("zero-shot-classification", path)
    ours = pipeline("zero-shot-classification", path)
    same(
        ours(TEXTS, labels, multi_label=multi_label),
        theirs(TEXTS, candidate_labels=labels, multi_label=multi_label),
    )
    template = {"hypothesis_template": "ragazza, {} va?"}
    same(
        ours(TEXTS[0], labels, multi_label=multi_label, **template),
        theirs(TEXTS[0], candidate_labels=labels, multi_label=multi_label, **template),
    )


@pytest.mark.parametrize(
    "id2label",
    [
        {0: "ENTAILMENT", 1: "neutral", 2: "CONTRADICTION"},
        {0: "entailment", 1: "not_entailment"},
        {0: "not_entailment", 1: "Entailed"},
        {0: "refuted", 1: "entailment", 2: "unknown"},
    ],
)
def test_classes_in_another_order(id2label, tmp_path):
    path = checkpoint(tmp_path, id2label=id2label)
    theirs = their_pipeline("zero-shot-classification", path)
    ours = pipeline("zero-shot-classification", path)
    for multi_label in (False, True):
        same(
            ours(TEXTS, LABELS, multi_label=multi_label),
            theirs(TEXTS, candidate_labels=LABELS, multi_label=multi_label),
        )


def test_contradiction_is_found_by_its_name(rank):
    """transformers takes the first class here, which is neutral."""
    names = {0: "neutral", 1: "contradiction", 2: "entailment"}
    config = bert_config(vocab_size=rank.tokenizer.vocab_size, id2label=names)
    model = perturb(BertForSequenceClassification(config))
    answer = ZeroShotClassification(model, rank.tokenizer)("ciao", ["libro"])
    inputs = rank.tokenizer("ciao", "This example is libro.", return_tensors="pt")
    by_hand = model(**inputs).logits[0, [1, 2]].softmax(dim=0)[1].item()
    assert answer["scores"] == pytest.approx([by_hand])


def test_scores(rank):
    alternatives = rank("ciao, come va?", LABELS)
    assert alternatives["sequence"] == "ciao, come va?"
    assert sorted(alternatives["labels"]) == sorted(LABELS)
    assert alternatives["scores"] == sorted(alternatives["scores"], reverse=True)
    assert sum(alternatives["scores"]) == pytest.approx(1)
    alone = rank("ciao, come va?", LABELS, multi_label=True)
    for label, score in zip(alone["labels"], alone["scores"], strict=True):
        same(rank("ciao, come va?", [label])["scores"], [score])


def test_batches_do_not_change_the_answers(rank):
    small = ZeroShotClassification(rank.model, rank.tokenizer, batch_size=2)
    same(small(TEXTS, LABELS), rank(TEXTS, LABELS))
    same(rank(TEXTS, LABELS), [rank(text, LABELS) for text in TEXTS])
    assert rank([], LABELS) == []


def test_the_text_is_truncated_and_not_the_hypothesis(path):
    ours = pipeline("zero-shot-classification", path)
    texts = ["ciao", LONG, LONG + "bene"]
    pairs = [(text, f"This example is {label}.") for text in texts[1:] for label in LABELS]
    lengths = [len(ours.tokenizer(*pair)["input_ids"]) for pair in pairs]
    with pytest.warns(UserWarning) as caught:
        answers = ours(texts, LABELS)
    assert [str(warning.message) for warning in caught] == [
        f"2 of 3 texts had to be truncated to 40 tokens: texts[1] has {max(lengths[:3])}, "
        f"texts[2] has {max(lengths[3:])}"
    ]
    assert caught[0].filename == __file__
    theirs = their_pipeline("zero-shot-classification", path)
    theirs.tokenizer.model_max_length = 40
    same(answers, theirs(texts, candidate_labels=LABELS))


@pytest.mark.filterwarnings("ignore:1 of 1 texts")
def test_a_hypothesis_that_leaves_no_space(rank):
    with pytest.raises(ValueError, match="text 1 of pair 0 has [0-9]+ tokens, which leaves"):
        rank("ciao", [LONG])


def test_braces_elsewhere_are_text(rank):
    same(
        rank("ciao", LABELS, hypothesis_template="{0.__class__} {}")["scores"],
        rank("ciao", [f"{{0.__class__}} {label}" for label in LABELS], hypothesis_template="{}")[
            "scores"
        ],
    )


@pytest.mark.parametrize(
    ("labels", "settings", "error", "message"),
    [
        (LABELS, {"hypothesis_template": "this is"}, ValueError, "'this is' has no {}"),
        (LABELS, {"hypothesis_template": "{label}"}, ValueError, "'{label}' has no {}"),
        (LABELS, {"hypothesis_template": None}, ValueError, "hypothesis_template=None has no {}"),
        ([], {}, ValueError, "candidate_labels is empty"),
        (" , ", {}, ValueError, "candidate_labels is empty"),
        (["a", " "], {}, ValueError, r"candidate_labels\[1\] is empty"),
        (["a", "b", "a"], {}, ValueError, "candidate_labels has 'a' twice"),
        (["a", 2], {}, TypeError, r"candidate_labels\[1\] must be a str, not int"),
        (7, {}, TypeError, "candidate_labels must be a str or a list of str, not int"),
    ],
)
def test_what_is_wrong_is_named(rank, labels, settings, error, message):
    with pytest.raises(error, match=message):
        rank("ciao", labels, **settings)


def test_a_text_that_is_none(rank):
    with pytest.raises(ValueError, match=r"texts\[1\] is empty"):
        rank(["ciao", ""], LABELS)


def test_a_model_without_entailment(tmp_path):
    for id2label in ({0: "NEGATIVE", 1: "POSITIVE"}, {0: "entailment"}):
        path = checkpoint(tmp_path, id2label=id2label)
        names = ", ".join(id2label.values())
        with pytest.raises(ValueError, match=f"'entailment' among several.*classes are: {names}$"):
            pipeline("zero-shot-classification", path)
    path = save_checkpoint(tmp_path, "BertForMaskedLM")
    with pytest.raises(ValueError, match="zero-shot-classification needs.*BertForMaskedLM"):
        pipeline("zero-shot-classification", path)
