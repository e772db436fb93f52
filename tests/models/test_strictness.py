"""What would be let through silently elsewhere is one clear error here."""

import dataclasses

import pytest
import torch

from minitransformer import BertConfig, BertModel, RobertaConfig, RobertaForMaskedLM
from tests.tiny import (
    VARIANTS,
    as_variant,
    attention_of,
    batch_of,
    bert_config,
    roberta_config,
)


@pytest.fixture(scope="module", params=VARIANTS)
def model(request) -> RobertaForMaskedLM:
    config = roberta_config()
    model = RobertaForMaskedLM(config, attention=attention_of(request.param)).eval()
    return as_variant(model, request.param)


def test_a_misspelled_config_field_gets_the_right_name():
    with pytest.raises(TypeError, match="max_position_embedding'.*'max_position_embeddings'"):
        RobertaConfig(max_position_embedding=514)
    with pytest.raises(TypeError, match="'hiden_size'.*'hidden_size'"):
        BertConfig(hiden_size=64)


def test_a_config_cannot_be_changed_behind_the_model():
    with pytest.raises(dataclasses.FrozenInstanceError):
        roberta_config().hidden_size = 64
    assert dataclasses.replace(roberta_config(), vocab_size=50).vocab_size == 50


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocab_size": 0}, "vocab_size=0"),
        ({"hidden_size": "8"}, "hidden_size='8'"),
        ({"hidden_size": -8}, "hidden_size=-8"),
        ({"num_hidden_layers": True}, "num_hidden_layers=True"),
        ({"num_attention_heads": 0}, "num_attention_heads=0"),
        ({"num_attention_heads": 5}, "hidden_size=32 .* num_attention_heads=5"),
        ({"hidden_act": "os.system"}, "hidden_act='os.system'"),
        ({"layer_norm_eps": float("nan")}, "layer_norm_eps=nan"),
        ({"layer_norm_eps": 0}, "layer_norm_eps=0"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob=1.0"),
        ({"attention_probs_dropout_prob": -0.1}, "attention_probs_dropout_prob=-0.1"),
        ({"pad_token_id": 99}, "pad_token_id=99 .*vocab_size=99"),
        ({"layer_norm_eps": 10**400}, "layer_norm_eps=1000"),
        ({"vocab_size": 10**30}, "vocab_size=1000"),
        ({"bos_token_id": "x"}, "bos_token_id='x'"),
        ({"eos_token_id": -7}, "eos_token_id=-7"),
        ({"hidden_act": ["gelu"]}, "hidden_act="),
        ({"tie_word_embeddings": None}, "tie_word_embeddings=None must be True or False"),
        ({"max_position_embeddings": 2}, "max_position_embeddings=2 .* first 2"),
    ],
)
def test_a_config_value_without_meaning_is_named(changes, message):
    with pytest.raises(ValueError, match=message):
        roberta_config(**changes)


def test_the_usable_length():
    assert RobertaConfig().max_sequence_length == 512
    assert BertConfig().max_sequence_length == 512
    assert roberta_config(pad_token_id=3).max_sequence_length == 16


def test_the_error_for_513_tokens_names_512_as_the_limit():
    model = RobertaForMaskedLM(roberta_config(max_position_embeddings=514)).eval()
    model(torch.full((1, 512), 7))
    with pytest.raises(ValueError, match=r"513 tokens .* 512 fit .*514.*max_length=512"):
        model(torch.full((1, 513), 7))


def test_a_misspelled_argument_gets_the_right_name(model):
    batch = batch_of([4])
    with pytest.raises(TypeError, match="'atention_mask'.*'attention_mask'"):
        model(batch["input_ids"], atention_mask=batch["attention_mask"])


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        (torch.tensor([5, 6]), r"shape \(2,\).*input_ids\[None\]"),
        (torch.zeros(1, 2, 3, dtype=torch.int64), r"shape \(1, 2, 3\)"),
        (torch.tensor([[5.0]]), "dtype torch.float32"),
        (torch.empty(1, 0, dtype=torch.int64), "no token"),
        (torch.tensor([[5, 99]]), "holds 99.*0 to 98.*vocab_size"),
        (torch.tensor([[-1, 5]]), "holds -1"),
        (torch.tensor([[5, 1]]), "padding id 1.*attention_mask"),
    ],
)
def test_bad_ids(model, ids, message):
    with pytest.raises(ValueError, match=message):
        model(ids)


def test_ids_that_are_no_tensor(model):
    with pytest.raises(TypeError, match="list"):
        model([[5, 6]])


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(1, 3), "float32.*mask == 0"),
        (torch.ones(1, 4, dtype=torch.int64), r"shape \(1, 4\).*\(1, 3\)"),
        (torch.ones(2, 3, dtype=torch.int64), r"shape \(2, 3\)"),
        (torch.ones(3, dtype=torch.int64), r"shape \(3,\)"),
        (torch.tensor([[1, 1, 2]]), "holds 2"),
        (torch.tensor([[0, 0, -10000]]), "holds -10000"),
    ],
)
def test_bad_masks(model, mask, message):
    with pytest.raises(ValueError, match=f"attention_mask.*{message}"):
        model(torch.tensor([[5, 6, 7]]), attention_mask=mask)


def test_a_bool_mask_is_as_good_as_an_integer_one(model):
    batch = batch_of([4, 2])
    as_bool = model(batch["input_ids"], attention_mask=batch["attention_mask"].bool())
    assert torch.equal(as_bool.logits, model(**batch).logits)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([[5, 6]]), r"shape \(1, 2\).*\(1, 3\)"),
        (torch.tensor([5, 6, 7]), r"shape \(3,\)"),
        (torch.tensor([[5, 6, 99]]), "holds 99.*0 to 98.*-100"),
        (torch.tensor([[5, 6, -1]]), "holds -1"),
        (torch.tensor([[5.0, 6.0, 7.0]]), "dtype"),
    ],
)
def test_bad_labels(model, labels, message):
    for call in (model, model.loss, model.loss_sum):
        with pytest.raises(ValueError, match=f"labels.*{message}"):
            call(input_ids=torch.tensor([[5, 6, 7]]), labels=labels)
    with pytest.raises(ValueError, match=r"input_ids has shape \(3,\)"):
        model.loss(input_ids=torch.tensor([5, 6, 7]), labels=labels)


def test_token_types_beyond_the_table():
    roberta = RobertaForMaskedLM(roberta_config())
    ids = torch.tensor([[5, 6]])
    with pytest.raises(ValueError, match=r"token_type_ids holds 1; .*type_vocab_size"):
        roberta(ids, token_type_ids=torch.tensor([[0, 1]]))
    bert = BertModel(bert_config()).eval()
    zeros = torch.zeros_like(ids)
    assert torch.equal(
        bert(ids).last_hidden_state, bert(ids, token_type_ids=zeros).last_hidden_state
    )
    ones = bert(ids, token_type_ids=zeros + 1).last_hidden_state
    assert not torch.allclose(ones, bert(ids).last_hidden_state)


def test_positions_are_bool(model):
    batch = batch_of([4, 2])
    with pytest.raises(ValueError, match="positions has dtype torch.int64"):
        model.logits_at(batch["attention_mask"], **batch)


@pytest.mark.parametrize("method", ["forward", "loss", "loss_sum", "logits_at"])
def test_every_method_hints_at_the_right_argument(model, method):
    ids = torch.tensor([[5, 6]])
    others = {"logits_at": {"positions": ids == 5}, "forward": {}}.get(method, {"labels": ids})
    with pytest.raises(TypeError, match="unknown .*'atention_mask'; did you mean 'attention_mask'"):
        getattr(model, method)(input_ids=ids, atention_mask=None, **others)


def test_the_config_of_another_family_is_refused():
    with pytest.raises(TypeError, match="needs a RobertaConfig, not a BertConfig"):
        RobertaForMaskedLM(bert_config())
    with pytest.raises(TypeError, match="BertModel needs a BertConfig"):
        BertModel(roberta_config())


@pytest.mark.parametrize("lengths", [[4, 4], [4, 2]])
def test_a_mask_of_ones_stays_a_mask(lengths):
    """A plain model runs the same operations for every mask, so a trace honours another mask."""
    plain, seen = RobertaForMaskedLM(roberta_config()).eval(), []
    plain.roberta.layers[0].register_forward_pre_hook(
        lambda _layer, arguments: seen.append(arguments[1])
    )
    plain(**batch_of(lengths))
    plain(batch_of([4, 4])["input_ids"])
    assert [mask.shape for mask in seen] == [(2, 1, 1, 4)] * 2
    assert {mask.dtype for mask in seen} == {torch.bool}
