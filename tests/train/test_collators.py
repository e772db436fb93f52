"""The collators: what transformers' give, or one error."""

from typing import Any

import numpy as np
import pytest
import torch

from minitransformer.tokenization.tokenizer import MissingTokenError
from tests.tiny import TEXTS, tokenizer_of
from train import (
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorWithPadding,
    default_data_collator,
)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """A BERT's tokenizer, and transformers' of the same files; without a library for parity."""
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    path = tmp_path_factory.mktemp("bert")
    ours = tokenizer_of("Bert", path)
    ours.save_pretrained(path)
    return ours, transformers.AutoTokenizer.from_pretrained(path)


def example(text: str, tokenizer: Any, **more: Any) -> dict[str, Any]:
    return {**{name: list(ids) for name, ids in tokenizer(text).items()}, **more}


def same(ours: dict[str, Any], theirs: Any) -> None:
    assert ours.keys() == dict(theirs).keys()
    for name, tensor in theirs.items():
        assert ours[name].dtype == tensor.dtype, name
        assert torch.equal(ours[name], tensor), name


FIELDS = {
    "a class": lambda ids: {"label": 2},
    "a number": lambda ids: {"label": 0.5},
    "several classes": lambda ids: {"labels": [0.0, 1.0, 1.0]},
    "numpy": lambda ids: {"label": np.int64(1)},
    "a tensor": lambda ids: {"label": torch.tensor(1)},
    "no label": lambda ids: {},
}


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("name", FIELDS)
@pytest.mark.parametrize("settings", [{}, {"pad_to_multiple_of": 8}])
def test_padding_is_that_of_transformers(name, side, settings, tokenizers):
    import transformers

    ours, theirs = tokenizers
    ours.padding_side = theirs.padding_side = side
    examples = [example(text, ours, **FIELDS[name](text)) for text in TEXTS]
    expected = transformers.DataCollatorWithPadding(theirs, **settings)
    copies = [dict(each) for each in examples]
    batch = DataCollatorWithPadding(ours, **settings)(examples)
    same(batch, expected([{**each} for each in copies]))
    ours.padding_side = theirs.padding_side = "right"


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("collator", ["TokenClassification", "Seq2Seq"])
def test_labels_are_padded_as_in_transformers(collator, side, tokenizers):
    import transformers

    ours, theirs = tokenizers
    ours.padding_side = theirs.padding_side = side
    classes = {
        "TokenClassification": DataCollatorForTokenClassification,
        "Seq2Seq": DataCollatorForSeq2Seq,
    }
    examples = [example(text, ours) for text in TEXTS]
    for number, each in enumerate(examples):
        length = len(each["input_ids"]) if collator == "TokenClassification" else number + 1
        each["labels"] = list(range(length))
    expected = getattr(transformers, f"DataCollatorFor{collator}")(theirs)
    copies = [dict(each) for each in examples]
    same(classes[collator](ours)(examples), expected(copies))
    ours.padding_side = theirs.padding_side = "right"


@pytest.mark.parametrize(
    "fields",
    [
        {"input_ids": [5, 6], "label": 1},
        {"input_ids": np.array([5, 6]), "label_ids": [1, 2]},
        {"input_ids": torch.tensor([5, 6]), "labels": 0.5},
        {"input_ids": [5, 6], "label": np.float64(0.5)},
        {"input_ids": [5, 6], "token_type_ids": None, "labels": [True, False]},
    ],
)
def test_stacking_is_that_of_transformers(fields):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    same(default_data_collator([fields] * 2), transformers.default_data_collator([fields] * 2))


def test_a_label_that_only_some_examples_lack_is_not_lost():
    with pytest.raises(ValueError, match="^'label' is None in example 0 of a batch, not in all"):
        default_data_collator([{"input_ids": [5], "label": None}, {"input_ids": [5], "label": 1}])


def test_masks(tokenizers):
    """Of the ordinary tokens about 15% are labels; most become [MASK], some others."""
    tokenizer, _ = tokenizers
    examples = [example(text, tokenizer) for text in TEXTS] * 200
    collate = DataCollatorForLanguageModeling(tokenizer)
    torch.manual_seed(0)
    batch = collate(examples)
    original = DataCollatorWithPadding(tokenizer)(examples)
    chosen = batch["labels"] != -100
    ordinary = ~torch.isin(original["input_ids"], torch.tensor(list(tokenizer.special_ids)))
    assert not (chosen & ~ordinary).any()
    assert torch.equal(batch["labels"][chosen], original["input_ids"][chosen])
    assert torch.equal(batch["input_ids"][~chosen], original["input_ids"][~chosen])
    assert chosen.sum() / ordinary.sum() == pytest.approx(0.15, abs=0.02)
    is_mask = batch["input_ids"][chosen] == tokenizer.mask_token_id
    stays = batch["input_ids"][chosen] == batch["labels"][chosen]
    assert is_mask.float().mean() == pytest.approx(0.8, abs=0.03)
    assert stays.float().mean() == pytest.approx(0.1, abs=0.03)

    assert not torch.equal(collate(examples)["labels"], batch["labels"])
    torch.manual_seed(0)
    assert torch.equal(collate(examples)["labels"], batch["labels"])
    for each in examples:  # what the tokenizer calls special is no label either
        each["special_tokens_mask"] = [1] * (len(each["input_ids"]) - 2) + [0, 1]
    batch = collate(examples)
    labelled = (batch["labels"] != -100).nonzero()[:, 1]
    lengths = batch["attention_mask"].sum(1)[(batch["labels"] != -100).any(1)]
    assert labelled.tolist() == (lengths - 2).tolist()
    assert "special_tokens_mask" not in batch


def test_labels_of_a_decoder(tmp_path):
    """All real tokens, the end of text too where it is not padding."""
    tokenizer = tokenizer_of("GPT2", tmp_path)
    end = tokenizer.eos_token_id
    batch = DataCollatorForLanguageModeling(tokenizer, mlm=False)([[5, 6, end], [7]])
    assert batch["input_ids"].tolist() == [[5, 6, end], [7, end, end]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[5, 6, end], [7, -100, -100]]
    with pytest.raises(MissingTokenError, match="mask"):
        DataCollatorForLanguageModeling(tokenizer)


@pytest.mark.parametrize(
    ("collator", "fields", "settings", "message"),
    [
        (DataCollatorWithPadding, {"text": "ciao"}, {}, "'text' is 'ciao' in an example"),
        (DataCollatorWithPadding, {"input_ids": None}, {}, "no 'input_ids', but attention_mask"),
        (DataCollatorWithPadding, {"input_ids": [[5]]}, {}, "'input_ids' must be one sequence"),
        (DataCollatorWithPadding, {}, {"padding": False}, "padding=False gives no batch"),
        (DataCollatorWithPadding, {}, {"padding": "max_length"}, "needs max_length"),
        (DataCollatorWithPadding, {}, {"pad_to_multiple_of": 0}, "of=0 must be at least 1"),
        (DataCollatorForTokenClassification, {"labels": [0.5] * 3}, {}, "one sequence of integers"),
        (
            DataCollatorForTokenClassification,
            {"labels": [1]},
            {},
            "labels are padded to 1 and input_ids to 3 tokens",
        ),
        (DataCollatorForSeq2Seq, {"labels": "ciao"}, {}, "'labels' is 'ciao' in an example"),
        (DataCollatorForLanguageModeling, {}, {"mlm_probability": 1.5}, "mlm_probability=1.5"),
    ],
)
def test_what_cannot_be_collated(collator, fields, settings, message, tmp_path):
    tokenizer = tokenizer_of("Roberta", tmp_path)
    features = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], **fields}
    with pytest.raises(ValueError, match=message):
        collator(tokenizer, **settings)([features, features])


@pytest.mark.parametrize(
    ("collator", "arguments", "message"),
    [
        (DataCollatorForLanguageModeling, {"whole_word_mask": True}, "train mlm --whole-words"),
        (DataCollatorForLanguageModeling, {"mask_replace_prob": 1.0}, "80% become the mask token"),
        (DataCollatorForLanguageModeling, {"seed": 3}, "call torch.manual_seed"),
        (DataCollatorForLanguageModeling, {"mlm_prob": 0.2}, "did you mean 'mlm_probability'"),
        (DataCollatorForSeq2Seq, {"return_tensors": "np"}, "batches are PyTorch's; leave it out"),
        (DataCollatorWithPadding, {"tokenizer": "bert"}, "is a str; pass a minitransformer.Tok"),
    ],
)
def test_arguments_of_other_collators_say_what_to_type(collator, arguments, message, tmp_path):
    arguments = {"tokenizer": tokenizer_of("Roberta", tmp_path), **arguments}
    with pytest.raises(TypeError, match=message):
        collator(**arguments)


def test_arguments_that_change_nothing_and_those_by_place(tmp_path):
    tokenizer = tokenizer_of("Roberta", tmp_path)
    DataCollatorForLanguageModeling(
        tokenizer, True, whole_word_mask=False, mask_replace_prob=0.8, return_tensors="pt"
    )
    with pytest.raises(TypeError, match="takes tokenizer by position; name all other arguments"):
        DataCollatorWithPadding(tokenizer, True)
    with pytest.raises(ValueError, match="a batch needs an example"):
        DataCollatorForSeq2Seq(tokenizer)([])


def test_labels_of_unequal_lengths_name_the_collators():
    examples = [{"input_ids": [5, 6], "labels": labels} for labels in ([1], [1, 2])]
    with pytest.raises(ValueError, match="'labels' has 1 to 2 .*TokenClassification .or ForSeq2S"):
        default_data_collator(examples)
