"""What the task heads and their configs refuse: the message names the field, the value, the fix."""

import copy
import dataclasses
import re

import pytest
import torch
import torch.nn.functional as F

import minitransformer
from minitransformer import BertConfig, DistilBertConfig, RobertaConfig
from minitransformer.models.base import Model
from tests.tiny import SIZES, as_variant, batch_of, bert_config, roberta_config

THREE_CLASSES = {0: "no", 1: "maybe", 2: "yes"}
FAMILIES = ["Bert", "Roberta", "DistilBert"]
every_family = pytest.mark.parametrize("family", FAMILIES)
CONFIGS = {"Bert": bert_config, "Roberta": roberta_config}


def distilbert_config(**changes: object) -> DistilBertConfig:
    return DistilBertConfig(**{**SIZES, **changes})


def build(family: str, head: str, **fields: object) -> Model:
    config = CONFIGS.get(family, distilbert_config)(**fields)
    return getattr(minitransformer, f"{family}{head}")(config).eval()


def calls(model: Model):
    """The three ways to a loss, of the plain model and of the optimized one; all of them check."""
    optimized = as_variant(copy.deepcopy(model), "optimized")
    return [call for each in (model, optimized) for call in (each, each.loss, each.loss_sum)]


def refuses(model: Model, message: str, *, error: type[Exception] = ValueError, **inputs) -> None:
    for call in calls(model):
        with pytest.raises(error, match=message):
            call(**inputs)


# Two sequences of five tokens; the first is padded on the right, or on the left, by two.
ON_THE_RIGHT = batch_of([3, 5], fill=1)
ON_THE_LEFT = batch_of([3, 5], left=True, fill=1)


@every_family
@pytest.mark.parametrize(
    ("batch", "start", "end", "message"),
    [
        (ON_THE_RIGHT, [0, 5], [0, 5], "start_positions holds 5 in sequence 1.*has 5 positions"),
        (ON_THE_RIGHT, [0, 2], [0, 5], "end_positions holds 5 in sequence 1.*has 5 positions"),
        (ON_THE_RIGHT, [-1, 2], [0, 3], r"start_positions holds -1 in sequence 0.*\[CLS\]"),
        (ON_THE_RIGHT, [0, -100], [0, -100], r"start_positions holds -100 in sequence 1.*\[CLS\]"),
        (ON_THE_RIGHT, [3, 2], [4, 3], "start_positions holds 3 in sequence 0.*padding"),
        (ON_THE_RIGHT, [2, 2], [3, 3], "end_positions holds 3 in sequence 0.*padding"),
        (ON_THE_LEFT, [0, 2], [2, 3], "start_positions holds 0 in sequence 0.*padding"),
        (ON_THE_LEFT, [2, 3], [3, 1], "sequence 1: end_positions is 1, before start_positions, 3"),
        (ON_THE_RIGHT, [1, 0], [0, 0], "sequence 0: end_positions is 0, before start_positions, 1"),
    ],
)
def test_positions_without_a_token(family, batch, start, end, message):
    model = build(family, "ForQuestionAnswering", pad_token_id=1)
    answers = {"start_positions": torch.tensor(start), "end_positions": torch.tensor(end)}
    refuses(model, message, **batch, **answers)
    as_bool = batch | {"attention_mask": batch["attention_mask"].bool()}
    refuses(model, message, **as_bool, **answers)


@every_family
@pytest.mark.parametrize("name", ["start_positions", "end_positions"])
@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        (torch.tensor([1, 1, 1]), ValueError, r"shape \(3,\).*each sequence is needed, \(2,\)"),
        (torch.tensor([[1], [1]]), ValueError, r"shape \(2, 1\).*\(2,\)"),
        (torch.tensor(1), ValueError, r"shape \(\).*\(2,\)"),
        (torch.tensor([1.0, 1.0]), ValueError, "dtype torch.float32.*torch.int64"),
        (torch.tensor([1, 1], dtype=torch.int32), ValueError, "dtype torch.int32.*torch.int64"),
        (torch.tensor([True, True]), ValueError, "dtype torch.bool.*torch.int64"),
        ([1, 1], TypeError, r"is a list.*shape \(B,\)"),
    ],
)
def test_positions_that_are_no_positions(family, name, values, error, message):
    model = build(family, "ForQuestionAnswering", pad_token_id=1)
    good = {"start_positions": torch.tensor([1, 1]), "end_positions": torch.tensor([1, 1])}
    refuses(model, f"{name}.*{message}", error=error, **ON_THE_RIGHT, **{**good, name: values})


@every_family
@pytest.mark.parametrize("name", ["start_positions", "end_positions"])
def test_one_end_of_an_answer_alone(family, name):
    model = build(family, "ForQuestionAnswering", pad_token_id=1)
    position = {name: torch.tensor([0, 0])}
    refuses(
        model,
        "pass start_positions and end_positions together",
        **ON_THE_RIGHT,
        **position,
    )


def test_an_answer_in_a_fully_masked_sequence():
    model = build("Bert", "ForQuestionAnswering")
    ids = torch.tensor([[5, 6], [0, 0]])
    zeros = torch.tensor([0, 0])
    refuses(
        model,
        "start_positions holds 0 in sequence 1, where there is no token",
        input_ids=ids,
        attention_mask=(ids != 0).long(),
        start_positions=zeros,
        end_positions=zeros,
    )


SINGLE = {"id2label": THREE_CLASSES}
MULTI = {"id2label": THREE_CLASSES, "problem_type": "multi_label_classification"}
STARS = {"id2label": {0: "stars"}}
NUMBERS = {"id2label": THREE_CLASSES, "problem_type": "regression"}


@every_family
@pytest.mark.parametrize(
    ("fields", "labels", "error", "message"),
    [
        (SINGLE, torch.tensor([0, 3]), ValueError, "holds 3; a label goes from 0 to 2, or is -100"),
        (SINGLE, torch.tensor([-1, 0]), ValueError, "holds -1; a label goes from 0 to 2"),
        (SINGLE, torch.tensor([0]), ValueError, r"shape \(1,\).*each sequence is needed, \(2,\)"),
        (SINGLE, torch.tensor([[0], [1]]), ValueError, r"shape \(2, 1\).*\(2,\)"),
        (SINGLE, torch.tensor([0, 1], dtype=torch.int32), ValueError, "int32; torch.int64"),
        (SINGLE, torch.tensor([True, False]), ValueError, "torch.bool; torch.int64"),
        (
            SINGLE,
            torch.tensor([0.0, 1.0]),
            ValueError,
            "float32.*problem_type='multi_label_classification'.*'regression'",
        ),
        (SINGLE, torch.tensor([[0.0, 1.0, 1.0]] * 2), ValueError, r"shape \(2, 3\).*\(2,\)"),
        (SINGLE, [0, 1], TypeError, r"is a list.*shape \(B,\)"),
        (
            MULTI,
            torch.tensor([0, 1]),
            ValueError,
            "int64; regression and multi-label targets must be floats",
        ),
        (
            MULTI,
            torch.ones(2, 3).long(),
            ValueError,
            "int64; regression and multi-label targets must be floats",
        ),
        (
            MULTI,
            torch.ones(2, 3).bool(),
            ValueError,
            "bool; regression and multi-label targets must be floats",
        ),
        (MULTI, torch.ones(2), ValueError, r"shape \(2,\).*each score is needed, \(2, 3\)"),
        (MULTI, torch.ones(2, 4), ValueError, r"shape \(2, 4\).*\(2, 3\)"),
        (MULTI, torch.ones(1, 3), ValueError, r"shape \(1, 3\).*\(2, 3\)"),
        (
            MULTI,
            torch.tensor([[0.0, 1, 1], [0, 2, -5]]),
            ValueError,
            "2.0 in sequence 1 for score 1; .*from 0 to 1",
        ),
        (MULTI, torch.full((2, 3), -100.0), ValueError, "holds -100.0 .*from 0 to 1"),
        (MULTI, torch.full((2, 3), float("nan")), ValueError, "holds nan .*from 0 to 1"),
        (MULTI, [[0.0, 1.0, 1.0]] * 2, TypeError, "is a list; a tensor is needed"),
        (
            STARS,
            torch.tensor([4, 5]),
            ValueError,
            "int64; regression and multi-label targets must be floats",
        ),
        (STARS, torch.ones(3), ValueError, r"shape \(3, 1\).*\(2, 1\)"),
        (STARS, torch.ones(2, 2), ValueError, r"shape \(2, 2\).*\(2, 1\)"),
        (STARS, torch.tensor(1.0), ValueError, r"shape \(\).*\(2, 1\)"),
        (STARS, torch.tensor([1.0, float("inf")]), ValueError, "holds inf in sequence 1 .*finite"),
        (NUMBERS, torch.ones(2), ValueError, r"shape \(2,\).*\(2, 3\)"),
        (
            NUMBERS,
            torch.tensor([[1.0, 2.0, float("nan")]] * 2),
            ValueError,
            "holds nan .* score 2; .*finite",
        ),
    ],
)
def test_labels_of_texts(family, fields, labels, error, message):
    model = build(family, "ForSequenceClassification", pad_token_id=1, **fields)
    refuses(model, f"labels.*{message}", error=error, **ON_THE_RIGHT, labels=labels)


@every_family
def test_labels_of_texts_that_are_right(family):
    """The limits of what is refused: each of these has the loss of its problem type."""
    for fields, labels, loss_of in [
        (SINGLE, torch.tensor([2, -100]), F.cross_entropy),
        (MULTI, torch.tensor([[0.0, 1.0, 0.5]] * 2), F.binary_cross_entropy_with_logits),
        (STARS, torch.tensor([-7.5, 1e3]), F.mse_loss),
        (STARS, torch.tensor([[-7.5], [1e3]]), F.mse_loss),
        (NUMBERS, torch.tensor([[-1.0, 0.0, 9.0]] * 2).double(), F.mse_loss),
    ]:
        model = build(family, "ForSequenceClassification", pad_token_id=1, **fields)
        logits = model(**ON_THE_RIGHT).logits
        targets = labels if fields is SINGLE else labels.view_as(logits).to(logits.dtype)
        expected = loss_of(logits, targets)
        for call in calls(model):
            result = call(**ON_THE_RIGHT, labels=labels)
            if isinstance(result, tuple):
                total, count = result
                result = total / count
            torch.testing.assert_close(getattr(result, "loss", result), expected)


@every_family
@pytest.mark.parametrize(("head", "classes"), [("ForTokenClassification", 3), ("ForMaskedLM", 99)])
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda good, classes: good + classes, ValueError, "holds {classes}; .* 0 to {last}.*-100"),
        (lambda good, classes: good - 1, ValueError, "holds -1; .* 0 to {last}.*-100"),
        (lambda good, classes: good[:, :4], ValueError, r"shape \(2, 4\).*\(2, 5\)"),
        (lambda good, classes: good[0], ValueError, r"shape \(5,\).*\(2, 5\)"),
        (lambda good, classes: good[:, 0], ValueError, r"shape \(2,\).*\(2, 5\)"),
        (lambda good, classes: good.float(), ValueError, "float32; torch.int64 is needed"),
        (lambda good, classes: good.int(), ValueError, "int32; torch.int64 is needed"),
        (lambda good, classes: good.tolist(), TypeError, r"is a list.*shape \(B, T\)"),
    ],
)
def test_labels_of_tokens(family, head, classes, change, error, message):
    model = build(family, head, pad_token_id=1, id2label=THREE_CLASSES)
    labels = change(torch.zeros(2, 5, dtype=torch.int64), classes)
    message = message.replace("{classes}", str(classes)).replace("{last}", str(classes - 1))
    refuses(model, f"labels.*{message}", error=error, **ON_THE_RIGHT, labels=labels)


LABELS = {
    "Model": {},
    "ForMaskedLM": {"labels": ON_THE_RIGHT["attention_mask"] * 100 - 100},
    "ForQuestionAnswering": {
        "start_positions": torch.tensor([0, 0]),
        "end_positions": torch.tensor([0, 0]),
    },
    "ForSequenceClassification": {"labels": torch.tensor([0, 1])},
    "ForTokenClassification": {"labels": ON_THE_RIGHT["attention_mask"] * 100 - 100},
}


@pytest.mark.parametrize("head", LABELS)
def test_token_types_are_refused_by_distilbert(head):
    model = build("DistilBert", head, pad_token_id=1)
    for types in (torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 5, dtype=torch.int64)):
        inputs = {**ON_THE_RIGHT, **LABELS[head], "token_type_ids": types}
        for call in [model] if head == "Model" else calls(model):
            with pytest.raises(
                ValueError,
                match="token_type_ids was given, but DistilBERT has no token types; leave it out.*"
                "tokenizer.token_types = False",
            ):
                call(**inputs)


@every_family
@pytest.mark.parametrize("head", [head for head in LABELS if head != "Model"])
def test_every_input_of_every_head_is_checked(family, head):
    """Whatever comes first, the head or the backbone, the message is about the input."""
    model = build(family, head, pad_token_id=1)
    good = {**ON_THE_RIGHT, **LABELS[head]}
    for changes, error, message in [
        ({"input_ids": good["input_ids"] + 99}, ValueError, "input_ids holds.*0 to 98.*vocab_size"),
        ({"input_ids": good["input_ids"][0]}, ValueError, r"input_ids has shape \(5,\)"),
        ({"input_ids": good["input_ids"].tolist()}, TypeError, "input_ids is a list"),
        ({"attention_mask": None}, ValueError, "padding id 1 .* no attention_mask"),
        ({"attention_mask": torch.ones(2, 4).long()}, ValueError, r"attention_mask.*\(2, 4\)"),
        ({"attention_mask": torch.ones(2, 5)}, ValueError, "attention_mask has dtype"),
        ({"attention_mask": torch.ones(2, 5).long() * 2}, ValueError, "attention_mask holds 2"),
        ({"attention_mask": [[1] * 5] * 2}, TypeError, "attention_mask is a list"),
    ]:
        refuses(model, message, error=error, **{**good, **changes})
    long = {"input_ids": torch.full((2, 21), 7)}
    refuses(model, "input_ids has 21 tokens per sequence", **long, **labels_for_length(head, 21))


def labels_for_length(head: str, length: int) -> dict[str, torch.Tensor]:
    by_token = head in ("ForMaskedLM", "ForTokenClassification")
    return {"labels": torch.zeros(2, length, dtype=torch.int64)} if by_token else LABELS[head]


@every_family
@pytest.mark.parametrize(
    ("head", "wrong", "right"),
    [
        ("ForMaskedLM", "label", "labels"),
        ("ForQuestionAnswering", "start_position", "start_positions"),
        ("ForQuestionAnswering", "end_postions", "end_positions"),
        ("ForSequenceClassification", "label", "labels"),
        ("ForTokenClassification", "lables", "labels"),
        ("ForTokenClassification", "token_type_id", "token_type_ids"),
    ],
)
def test_a_misspelled_argument_gets_the_right_name(family, head, wrong, right):
    model = build(family, head, pad_token_id=1)
    message = f"unknown .*argument '{wrong}'; did you mean '{right}'"
    inputs = {**ON_THE_RIGHT, **LABELS[head], wrong: torch.tensor([0, 0])}
    refuses(model, message, error=TypeError, **inputs)


@pytest.mark.parametrize("config_class", [BertConfig, RobertaConfig, DistilBertConfig])
@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({0: "a", 2: "b"}, "must map 0, 1, 2"),
        ({1: "a", 2: "b"}, "must map 0, 1, 2"),
        ({1: "b", 0: "a"}, "in this order"),
        ({"0": "a", "one": "b"}, "must map 0, 1, 2"),
        ({}, "must map 0, 1, 2"),
        (None, "must map 0, 1, 2"),
        (["a", "b"], "must map 0, 1, 2"),
        (3, "must map 0, 1, 2"),
        ({0: "a", 1: 1}, "every class a name"),
        ({0: "a", 1: None}, "every class a name"),
        ({0: "a", 1: ""}, "every class a name"),
        ({0: "a", 1: "a"}, "two classes one name"),
        # What Python holds for 0 and 1, JSON does not: such a checkpoint could not be loaded.
        ({False: "a", True: "b"}, "must map 0, 1, 2"),
        ({0.0: "a", 1.0: "b"}, "must map 0, 1, 2"),
    ],
)
def test_classes_that_are_not_numbered(config_class, labels, message):
    with pytest.raises(ValueError, match=f"id2label={re.escape(repr(labels))} .*{message}"):
        config_class(id2label=labels)


def test_classes_cannot_be_changed_behind_the_model():
    labels = {0: "no", 1: "yes"}
    config = bert_config(id2label=labels)
    labels[2] = "maybe"
    assert config.num_labels == 2
    assert config.id2label == {0: "no", 1: "yes"}


@pytest.mark.parametrize("config_class", [BertConfig, RobertaConfig, DistilBertConfig])
def test_hugging_faces_other_names_for_the_classes(config_class):
    unnamed = {0: "LABEL_0", 1: "LABEL_1", 2: "LABEL_2"}
    by_name = {"yes": 2, "no": 0, "maybe": 1}
    for given, expected in [
        ({"num_labels": 3}, unnamed),
        ({"label2id": by_name}, THREE_CLASSES),
        ({"label2id": by_name, "num_labels": 3}, THREE_CLASSES),
        ({"id2label": THREE_CLASSES, "label2id": by_name, "num_labels": 3}, THREE_CLASSES),
        ({"id2label": {str(n): name for n, name in THREE_CLASSES.items()}}, THREE_CLASSES),
    ]:
        assert config_class(**given).id2label == expected
        assert list(config_class(**given).id2label) == [0, 1, 2]
    assert config_class().num_labels == 2
    assert config_class(id2label=THREE_CLASSES).num_labels == 3
    assert dataclasses.replace(config_class(), id2label=THREE_CLASSES).num_labels == 3


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"num_labels": 2, "id2label": THREE_CLASSES}, "num_labels=2, but there are 3 names of"),
        ({"num_labels": 2, "label2id": {"a": 0}}, "num_labels=2, but there are 1 names of classes"),
        ({"label2id": {"a": 0, "b": 1}, "id2label": {0: "b", 1: "a"}}, "label2id=.* contradicts"),
        ({"label2id": {"a": 0, "b": 2}}, "must map 0, 1, 2"),
        ({"label2id": ["a", "b"]}, "label2id=.* must map names to class numbers"),
        ({"label2id": {"a": "0"}}, "label2id=.* must map names to class numbers"),
        ({"num_labels": 0}, "num_labels=0 must be an integer from 1"),
        ({"num_labels": True}, "num_labels=True must be an integer from 1"),
    ],
)
def test_names_of_classes_that_contradict_each_other(given, message):
    with pytest.raises(ValueError, match=message):
        BertConfig(**given)


@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ("dim", "hidden_size"),
        ("hidden_dim", "intermediate_size"),
        ("n_layers", "num_hidden_layers"),
        ("n_heads", "num_attention_heads"),
        ("activation", "hidden_act"),
        ("dropout", "hidden_dropout_prob"),
        ("attention_dropout", "attention_probs_dropout_prob"),
        ("num_lables", "num_labels"),
        ("seq_class_dropout", "seq_classif_dropout"),
    ],
)
def test_distilberts_names_of_fields(theirs, ours):
    with pytest.raises(
        TypeError, match=f"DistilBertConfig field '{theirs}'; did you mean '{ours}'"
    ):
        DistilBertConfig(**{theirs: 1})


def test_fields_that_distilbert_does_not_have():
    for name in ("layer_norm_eps", "type_vocab_size", "classifier_dropout"):
        with pytest.raises(TypeError, match=f"unknown DistilBertConfig field '{name}'"):
            DistilBertConfig(**{name: 1})
    for family in (BertConfig, RobertaConfig):
        with pytest.raises(TypeError, match=f"unknown {family.__name__} field 'qa_dropout'"):
            family(qa_dropout=0.1)


@pytest.mark.parametrize("config_class", [BertConfig, RobertaConfig, DistilBertConfig])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("multi_label", "'multi_label'; .*choices are: .*multi_label_classification"),
        ("single_label_clasification", "did you mean 'single_label_classification'"),
        ("Regression", "'Regression'; did you mean 'regression'"),
        ("classify", "unknown problem_type 'classify'.*choices are: regression, single_label"),
        (["regression"], "unknown problem_type"),
        (1, "unknown problem_type '1'"),
    ],
)
def test_an_unknown_problem(config_class, value, message):
    with pytest.raises(ValueError, match=message):
        config_class(problem_type=value)


@pytest.mark.parametrize("config_class", [BertConfig, RobertaConfig, DistilBertConfig])
def test_one_class_is_nothing_to_choose_from(config_class):
    """Its cross-entropy is always 0; Hugging Face refuses such a config too."""
    with pytest.raises(ValueError, match="single_label_classification.*id2label|id2label.*single"):
        config_class(id2label={0: "only"}, problem_type="single_label_classification")


@pytest.mark.parametrize(
    ("config", "changes", "message"),
    [
        (bert_config, {"classifier_dropout": 1.0}, "classifier_dropout=1.0"),
        (bert_config, {"classifier_dropout": -0.5}, "classifier_dropout=-0.5"),
        (roberta_config, {"classifier_dropout": "0.1"}, "classifier_dropout='0.1'"),
        (distilbert_config, {"qa_dropout": 1.0}, "qa_dropout=1.0"),
        (distilbert_config, {"qa_dropout": None}, "qa_dropout=None"),
        (distilbert_config, {"seq_classif_dropout": -0.1}, "seq_classif_dropout=-0.1"),
        (distilbert_config, {"seq_classif_dropout": True}, "seq_classif_dropout=True"),
        (distilbert_config, {"num_attention_heads": 5}, "hidden_size=32 .*num_attention_heads=5"),
        (distilbert_config, {"hidden_act": "swoosh"}, "hidden_act='swoosh'"),
    ],
)
def test_a_value_without_meaning_is_named(config, changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


@every_family
@pytest.mark.parametrize("labels", [THREE_CLASSES, {0: "answer"}])
def test_question_answering_has_two_classes(family, labels):
    with pytest.raises(
        ValueError,
        match=f"id2label has {len(labels)} classes; question answering has two.*"
        "id2label={0: 'LABEL_0', 1: 'LABEL_1'}",
    ):
        build(family, "ForQuestionAnswering", id2label=labels)


@pytest.mark.parametrize("head", LABELS)
@every_family
def test_the_config_of_another_family_is_refused(family, head):
    for other, config in [*CONFIGS.items(), ("DistilBert", distilbert_config)]:
        if other != family:
            with pytest.raises(
                TypeError,
                match=f"{family}{head} needs a {family}Config, not a {other}Config",
            ):
                getattr(minitransformer, f"{family}{head}")(config())


@every_family
@pytest.mark.parametrize("head", [head for head in LABELS if head != "Model"])
def test_a_loss_without_labels(family, head):
    model = build(family, head, pad_token_id=1)
    for call in calls(model):
        if getattr(call, "__name__", "") in ("loss", "loss_sum"):
            with pytest.raises(ValueError, match="a loss needs labels"):
                call(**ON_THE_RIGHT)


def test_a_model_without_a_head_has_no_loss():
    for family in FAMILIES:
        model = build(family, "Model")
        with pytest.raises(TypeError, match="unknown .*argument 'labels'"):
            model(torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]]))


@pytest.mark.parametrize("head", ["ForMaskedLM", "ForTokenClassification"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_label_at_padding_is_refused(family, head):
    """It would train on what nothing reads, the more the longer the padding."""
    model = build(family, head, pad_token_id=1)
    mask = ON_THE_RIGHT["attention_mask"]
    sequence, position = (mask == 0).nonzero()[-1].tolist()
    labels = mask.long() * 100 - 100  # 0 at real tokens, -100 at padding
    assert model.loss(**ON_THE_RIGHT, labels=labels) > 0
    labels[sequence, position] = 1
    where = f"in sequence {sequence} at position {position}"
    message = f"labels holds 1 {where}, which is padding; set labels to -100"
    refuses(model, message, **ON_THE_RIGHT, labels=labels)


@pytest.mark.parametrize(
    "head",
    ["ForMaskedLM", "ForTokenClassification", "ForQuestionAnswering", "ForSequenceClassification"],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_an_additive_mask_is_not_blamed_on_the_labels(family, head):
    """In such a mask, 0 means a real token."""
    model = build(family, head, pad_token_id=1)
    mask = ON_THE_RIGHT["attention_mask"]
    first = torch.zeros(len(mask), dtype=torch.int64)
    right = {
        "ForQuestionAnswering": {"start_positions": first, "end_positions": first},
        "ForSequenceClassification": {"labels": first},
    }.get(head, {"labels": mask.long() * 100 - 100})
    additive = torch.where(mask.bool(), 0.0, -torch.inf)
    batch = {**ON_THE_RIGHT, "attention_mask": additive, **right}
    refuses(model, "attention_mask has dtype torch.float32.*`mask == 0`", **batch)
