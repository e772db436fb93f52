"""Classes of texts by GPT-2 and BART, and zero-shot over BART: transformers' answers."""

import pytest

from minitransformer import BartForSequenceClassification, pipeline
from minitransformer.tasks.text_classification import TextClassification
from minitransformer.tasks.zero_shot import ZeroShotClassification
from tests.tiny import TEXTS, same, save_checkpoint, their_pipeline

CLASSIFIERS = ["GPT2ForSequenceClassification", "BartForSequenceClassification"]
# The classes of facebook/bart-large-mnli, and another order.
NLI = {0: "contradiction", 1: "neutral", 2: "entailment"}
SWAPPED = {0: "Entailment", 1: "neutral", 2: "Contradiction"}
LABELS = ["libro", "radio e ragazzo", "ciao"]
LONG = "la ragazza legge un libro e " * 20


@pytest.fixture(scope="module", params=CLASSIFIERS)
def path(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp(request.param)
    return save_checkpoint(directory, request.param, id2label={0: "no", 1: "maybe", 2: "yes"})


@pytest.fixture(scope="module", params=[NLI, SWAPPED], ids=["mnli", "swapped"])
def inference(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("inference")
    return save_checkpoint(directory, "BartForSequenceClassification", id2label=request.param)


def test_the_classes_are_those_of_transformers(path):
    theirs = their_pipeline("text-classification", path)
    ours = pipeline("text-classification", path)
    same(ours(TEXTS), theirs(TEXTS))
    same(ours(TEXTS, top_k=None), theirs(TEXTS, top_k=None))
    pairs = [{"text": a, "text_pair": b} for a, b in zip(TEXTS, TEXTS[::-1], strict=True)]
    same(
        ours([pair["text"] for pair in pairs], [pair["text_pair"] for pair in pairs]),
        theirs(pairs),
    )


def test_what_is_computed_together_changes_nothing(path):
    ours = pipeline("text-classification", path)
    small = TextClassification(ours.model, ours.tokenizer, batch_size=2)
    every = ours(TEXTS, top_k=None)
    same(small(TEXTS, top_k=None), every)
    same([ours(text, top_k=None) for text in TEXTS], every)


def test_truncation_is_reported(path):
    ours = pipeline("text-classification", path)
    with pytest.warns(UserWarning, match=r"1 of 2 texts had to be truncated to 60.*texts\[1\]"):
        answers = ours(["ciao", LONG])
    theirs = their_pipeline("text-classification", path)
    theirs.tokenizer.model_max_length = 60
    same(answers, theirs(["ciao", LONG], truncation=True))


@pytest.mark.parametrize("multi_label", [False, True])
def test_zero_shot_gives_the_answers_of_transformers(inference, multi_label):
    theirs = their_pipeline("zero-shot-classification", inference)
    ours = pipeline("zero-shot-classification", inference)
    for asked in (
        {"multi_label": multi_label},
        {"multi_label": multi_label, "hypothesis_template": "ragazza, {} va?"},
    ):
        answers = ours(TEXTS, LABELS, **asked)
        same(answers, theirs(TEXTS, candidate_labels=LABELS, **asked))
        same(ours(TEXTS[0], LABELS, **asked), answers[0])
    small = ZeroShotClassification(ours.model, ours.tokenizer, batch_size=2)
    same(small(TEXTS, LABELS), ours(TEXTS, LABELS))


def test_a_pair_is_arranged_as_in_the_training_of_bart(inference):
    tokenizer = pipeline("zero-shot-classification", inference).tokenizer
    batch = tokenizer("ciao", "un libro")
    special = [token for token in batch.tokens() if token in ("<s>", "</s>")]
    assert special == ["<s>", "</s>", "</s>", "</s>"]
    assert batch.sequence_ids()[-1] is None
    ends = [place for place, token in enumerate(batch.tokens()) if token == "</s>"]
    assert ends[1] == ends[0] + 1
    assert ends[2] == len(batch["input_ids"]) - 1


def test_the_text_is_truncated_and_not_the_hypothesis(inference):
    ours = pipeline("zero-shot-classification", inference)
    with pytest.warns(UserWarning, match=r"1 of 2 texts had to be truncated to 60.*texts\[1\]"):
        answers = ours(["ciao", LONG], LABELS)
    theirs = their_pipeline("zero-shot-classification", inference)
    theirs.tokenizer.model_max_length = 60
    same(answers, theirs(["ciao", LONG], candidate_labels=LABELS))


def test_a_tokenizer_without_padding(tmp_path):
    """GPT-2's tokenizer has none; texts of unequal length are still computed in one batch."""
    path = save_checkpoint(tmp_path, "GPT2ForSequenceClassification")
    ours = pipeline("text-classification", path)
    assert "pad_token" not in ours.tokenizer.special_tokens
    every = ours(TEXTS)
    ours.tokenizer.special_tokens.clear()
    same(ours(TEXTS), every)


@pytest.mark.parametrize("task", ["text-classification", "zero-shot-classification"])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "BartForConditionalGeneration",
            "which is for summarization, text2text-generation, translation; "
            "BartForSequenceClassification.from_pretrained.path. loads it and warns",
        ),
        ("BartModel", "this is a BartModel; BartForSequenceClassification.from_pretrained"),
        (
            "GPT2LMHeadModel",
            "which is for text-generation; GPT2ForSequenceClassification.from_pretrained",
        ),
        ("T5ForConditionalGeneration", "text2text-generation, translation$"),
    ],
)
def test_a_model_without_classes(task, name, message, tmp_path):
    with pytest.raises(ValueError, match=f"{task} needs a model such as .*{message}"):
        pipeline(task, save_checkpoint(tmp_path, name))


@pytest.mark.filterwarnings("ignore:.*has no use for final_logits_bias")
def test_loading_it_as_a_classifier_warns_of_untrained_weights(tmp_path):
    path = save_checkpoint(tmp_path, "BartForConditionalGeneration")
    with pytest.warns(UserWarning, match="no matching classification_head: newly initialized"):
        BartForSequenceClassification.from_pretrained(path)
