"""The parity promise: the same function as transformers' namesake, down to every gradient.

Every parameter is perturbed first; one sequence is padded on the left and one on the right.
"""

import copy
import types
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import minitransformer
from minitransformer import BertModel, RobertaForMaskedLM
from minitransformer.layers.positional_embeddings import position_ids_from_mask
from minitransformer.parity import compare, random_batch
from tests import tiny
from tests.models.pairs import attend_otherwise, courses_of_training, there_and_back
from tests.tiny import as_variant, attention_of, batch_of, every_variant, perturb

transformers = pytest.importorskip("transformers", reason="parity needs transformers")

SIZES = {**tiny.SIZES, "attn_implementation": "eager"}
FAMILIES = {
    "Bert": transformers.BertConfig(**SIZES, type_vocab_size=3),
    "Roberta": transformers.RobertaConfig(**SIZES, type_vocab_size=1, layer_norm_eps=1e-5),
    "DistilBert": transformers.DistilBertConfig(
        vocab_size=99,
        dim=32,
        n_layers=3,
        n_heads=4,
        hidden_dim=37,
        dropout=0.0,
        attention_dropout=0.0,
        qa_dropout=0.0,
        seq_classif_dropout=0.0,
        max_position_embeddings=20,
        attn_implementation="eager",
    ),
}
THREE_CLASSES = {"id2label": {0: "no", 1: "maybe", 2: "yes"}}
# What stands behind a class's name, and the fields of the config that go with it.
TASKS = {
    "Model": {},
    "ForMaskedLM": {},
    "ForQuestionAnswering": {},
    "ForSequenceClassification": THREE_CLASSES,
    "ForTokenClassification": THREE_CLASSES,
}
CLASSES = [f"{family}{task}" for family in FAMILIES for task in TASKS]
# Classes once more, for another problem.
PROBLEMS = {
    "multi-label": THREE_CLASSES | {"problem_type": "multi_label_classification"},
    "regression": {"id2label": {0: "stars"}},
    "three numbers": THREE_CLASSES | {"problem_type": "regression"},
}


def their_config(name: str, **changes: object):
    family, task = split(name)
    config = copy.deepcopy(FAMILIES[family])
    for field, value in {**TASKS[task], **changes}.items():
        setattr(config, field, value)
    return config


def split(name: str) -> tuple[str, str]:
    family = next(family for family in FAMILIES if name.startswith(family))
    return family, name.removeprefix(family)


def pair(name: str, path, variant: str = "eager", dtype=torch.float32, **changes: object) -> Any:
    """Ours and theirs with the same perturbed parameters, by way of a checkpoint."""
    theirs = perturb(getattr(transformers, name)(their_config(name, **changes)))
    theirs.save_pretrained(path)
    ours = getattr(minitransformer, name).from_pretrained(path, attention=attention_of(variant))
    return as_variant(ours.to(dtype), variant), theirs.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@every_variant
@pytest.mark.parametrize("name", CLASSES)
def test_parity(name, variant, dtype, tmp_path):
    ours, theirs = pair(name, tmp_path, variant, dtype)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()
    expected = {"hidden_states[3]", "attentions[2]"}
    results = {
        "Model": {"last_hidden_state"},
        "ForQuestionAnswering": {"start_logits", "end_logits", "loss"},
    }
    expected |= results.get(split(name)[1], {"logits", "loss"})
    if not name.endswith("Model"):
        expected |= {f"gradient of {parameter}" for parameter, _ in ours.named_parameters()}
    elif not name.startswith("DistilBert"):
        expected |= {"pooler_output"}
    assert expected <= {row.name for row in report.rows}


@every_variant
@pytest.mark.parametrize("activation", ["gelu", "gelu_new", "relu"])
def test_parity_without_gradients(activation, variant, tmp_path):
    """Another path of an optimized model: a linear map and its activation are one pass."""
    ours, theirs = pair("RobertaForMaskedLM", tmp_path, variant, hidden_act=activation)
    batch = random_batch(ours, length=11)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        found, expected = ours(**batch).logits[real], theirs(**batch).logits[real]
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("problem", list(PROBLEMS))
@pytest.mark.parametrize("family", list(FAMILIES))
def test_parity_of_other_problems(family, problem, dtype, tmp_path):
    name = f"{family}ForSequenceClassification"
    ours, theirs = pair(name, tmp_path, dtype=dtype, **PROBLEMS[problem])
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name in CLASSES if name.startswith("Roberta")])
def test_roberta_is_equal_where_both_are_padded_on_the_left(name, attention, tmp_path):
    """The other families count padding there; see `minitransformer.parity`."""
    ours, theirs = pair(name, tmp_path, attention)
    batch = batch_of([11, 7, 3], left=True)
    real = batch["attention_mask"].bool()
    our_states = ours(**batch, output_hidden_states=True).hidden_states
    their_states = theirs(**batch, output_hidden_states=True).hidden_states
    for our_state, their_state in zip(our_states, their_states, strict=True):
        torch.testing.assert_close(our_state[real], their_state[real], rtol=1e-5, atol=1e-5)


@every_variant
@pytest.mark.parametrize("family", list(FAMILIES))
def test_question_answering_has_their_loss_where_nothing_is_padded(family, variant, tmp_path):
    ours, theirs = pair(f"{family}ForQuestionAnswering", tmp_path, variant, torch.float64)
    batch = batch_of([9, 9, 9])
    answers = {
        "start_positions": torch.tensor([2, 0, 5]),
        "end_positions": torch.tensor([4, 0, 5]),
    }
    our_loss, their_loss = ours.loss(**batch, **answers), theirs(**batch, **answers).loss
    torch.testing.assert_close(our_loss, their_loss, rtol=1e-12, atol=1e-12)
    our_loss.backward()
    their_loss.backward()
    torch.testing.assert_close(
        ours.qa_outputs.weight.grad, theirs.qa_outputs.weight.grad, rtol=1e-10, atol=1e-10
    )


@every_variant
def test_question_answering_gives_padding_no_share_of_the_softmax(variant, tmp_path):
    """Where theirs changes with the padding, by what padding takes, ours does not."""
    ours, theirs = pair("BertForQuestionAnswering", tmp_path, variant, torch.float64)
    batch = batch_of([9, 6, 3], fill=0)
    answers = {"start_positions": torch.tensor([2, 1, 0]), "end_positions": torch.tensor([4, 5, 0])}
    alone = [
        ours.loss(
            input_ids=batch["input_ids"][number, :length][None],
            start_positions=answers["start_positions"][number][None],
            end_positions=answers["end_positions"][number][None],
        )
        for number, length in enumerate([9, 6, 3])
    ]
    expected = torch.stack(alone).mean()
    torch.testing.assert_close(ours.loss(**batch, **answers), expected, rtol=1e-12, atol=1e-12)
    result = theirs(**batch, **answers)
    assert result.loss - expected > 0.01
    padding = batch["attention_mask"] == 0
    taken = [
        torch.log1p((logits.exp() * padding).sum(dim=1) / (logits.exp() * ~padding).sum(dim=1))
        for logits in (result.start_logits, result.end_logits)
    ]
    difference = torch.stack(taken).mean()
    torch.testing.assert_close(result.loss - expected, difference, rtol=1e-10, atol=1e-10)


@every_variant
def test_token_types_make_the_same_difference(variant, tmp_path):
    ours, theirs = pair("BertModel", tmp_path, variant)
    batch = random_batch(ours, length=11)
    batch["token_type_ids"] = torch.arange(11).expand(3, 11) % 3
    report = compare(ours, theirs, batch)
    assert report.equal, report.table()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
@pytest.mark.parametrize("name", [name for name in CLASSES if not name.endswith("Model")])
def test_twenty_steps_of_adamw_give_the_same_losses(name, variant, tmp_path):
    ours, theirs = pair(name, tmp_path, variant, torch.float64)
    losses = courses_of_training(ours, theirs)
    assert losses[0][-1] < 0.7 * losses[0][0]  # it does learn something
    assert losses[0] == pytest.approx(losses[1], abs=1e-9, rel=1e-9)


@pytest.mark.parametrize("variant", ["eager", pytest.param("optimized", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", CLASSES)
def test_what_is_saved_here_loads_there_without_a_warning_and_back(
    name, variant, tmp_path, recwarn, caplog
):
    ours, _ = pair(name, tmp_path / "theirs", variant)
    assert recwarn.list == []
    assert there_and_back(ours, tmp_path, caplog) == []


# Bugs that were really made, each put into our model, and the first module that must be named. No
# default initialization would show them, which is why parameters are perturbed.
def swap_norms(model):
    for layer in model.roberta.layers:
        layer.attention_norm, layer.feed_forward_norm = (
            layer.feed_forward_norm,
            layer.attention_norm,
        )


def drop_biases(model):
    for module in model.roberta.layers.modules():
        if isinstance(module, torch.nn.Linear):
            module.bias.data.zero_()


def swap_query_and_key_biases(model):
    for layer in model.roberta.layers:
        query, key = layer.attention.query, layer.attention.key
        query.bias, key.bias = key.bias, query.bias


def tanh_for_exact_gelu(model):
    for layer in model.roberta.layers:
        layer.feed_forward.activation = lambda x: F.gelu(x, approximate="tanh")


def tanh_in_the_head(model):
    model.lm_head.activation = lambda x: F.gelu(x, approximate="tanh")


def wrong_eps(model):
    for module in model.modules():
        if hasattr(module, "eps"):
            module.eps = 1e-12


def no_scale(model):
    attentions = (layer.attention for layer in model.roberta.layers)
    attend_otherwise(attentions, lambda **_: {"scale": 1.0})


def positions_without_offset(model):
    embedding = model.roberta.embeddings.position_embedding
    embedding.forward = lambda position_ids: embedding.table(position_ids.clamp(min=0))


def positions_that_count_padding(model):
    model.roberta.position_ids = lambda input_ids, _mask: torch.arange(
        input_ids.shape[1]
    ).expand_as(input_ids)


def untied_decoder(model):
    copy = model.roberta.embeddings.token_embedding.weight.detach().clone()
    forward = type(model.lm_head).forward
    model.lm_head.forward = types.MethodType(
        lambda head, hidden, _embedding: forward(head, hidden, copy), model.lm_head
    )


def no_token_types(model):
    model.roberta.embeddings.token_type_embedding.weight.data.zero_()


def attention_to_padding(model):
    attentions = (layer.attention for layer in model.roberta.layers)
    attend_otherwise(attentions, lambda **_: {"mask": None})


def no_residual(model):
    layer = model.roberta.layers[1]
    layer.register_forward_pre_hook(lambda module, inputs: setattr(module, "seen", inputs[0]))
    layer.attention_norm.register_forward_pre_hook(lambda _norm, inputs: (inputs[0] - layer.seen,))


def decoder_without_bias(model):
    model.lm_head.bias.data.zero_()


@pytest.mark.parametrize(
    ("bug", "first"),
    [
        (swap_norms, "backbone.layers.0.attention_norm"),
        (drop_biases, "backbone.layers.0.attention.query"),
        (swap_query_and_key_biases, "backbone.layers.0.attention.query"),
        (tanh_for_exact_gelu, "backbone.layers.0.feed_forward.down_proj"),
        (tanh_in_the_head, "lm_head.norm"),
        (wrong_eps, "backbone.embeddings.norm"),
        (no_scale, "backbone.layers.0.attention.output"),
        (positions_without_offset, "backbone.embeddings.position_embedding.table"),
        (positions_that_count_padding, "backbone.embeddings.position_embedding.table"),
        (untied_decoder, "gradient of backbone.embeddings.token_embedding.weight"),
        (no_token_types, "backbone.embeddings.token_type_embedding"),
        (attention_to_padding, "backbone.layers.0.attention.output"),
        (no_residual, "backbone.layers.1.attention_norm"),
        (decoder_without_bias, "logits"),
    ],
)
def test_the_harness_catches_the_bug_and_names_its_place(bug, first, tmp_path):
    ours, theirs = pair("RobertaForMaskedLM", tmp_path)
    batch = random_batch(ours, length=11)
    assert compare(ours, theirs, batch).equal
    bug(ours)
    report = compare(ours, theirs, batch)
    assert report.first_difference is not None
    assert report.first_difference.name == first, report.table()
    assert f"first differs: {first}" in report.table()


def test_the_harness_sees_token_types(tmp_path):
    ours, theirs = pair("BertForTokenClassification", tmp_path)
    batch = random_batch(ours, length=11)
    assert set(batch["token_type_ids"].unique().tolist()) == {0, 1, 2}
    embeddings = ours.bert.embeddings
    forward = embeddings.forward
    embeddings.forward = lambda ids, positions, types: forward(ids, positions, 0 * types)
    report = compare(ours, theirs, batch)
    assert report.first_difference.name == "backbone.embeddings.token_type_embedding"


def test_what_is_missing_on_their_side_is_said(tmp_path):
    ours, theirs = pair("BertModel", tmp_path)
    their_forward = theirs.forward

    def less(**inputs):
        result = their_forward(**inputs)
        result.hidden_states = result.hidden_states[:-1]
        result.pooler_output = None
        return result

    theirs.forward = less
    statuses = {row.name: row.status for row in compare(ours, theirs, random_batch(ours, 11)).rows}
    assert statuses["hidden_states[3]"] == statuses["pooler_output"] == "MISSING"
    assert statuses["hidden_states[2]"] == "OK"


def test_a_sequence_of_one_token_can_be_compared(tmp_path):
    ours, theirs = pair("BertForQuestionAnswering", tmp_path)
    assert compare(ours, theirs, random_batch(ours, length=2)).equal


def test_half_precision_cannot_be_compared(tmp_path):
    ours, theirs = pair("BertModel", tmp_path, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="is torch.bfloat16; only float32 and float64"):
        compare(ours, theirs, random_batch(ours, length=5))


def test_shapes_and_absent_modules_are_told_apart(tmp_path):
    ours, theirs = pair("RobertaForMaskedLM", tmp_path)
    narrow = torch.nn.Linear(32, 30)
    narrow_decoder = torch.nn.Linear(30, 32)
    theirs.roberta.encoder.layer[0].intermediate.dense = narrow
    theirs.roberta.encoder.layer[0].output.dense = narrow_decoder
    batch = {n: t for n, t in random_batch(ours, length=11).items() if n != "labels"}
    statuses = {row.name: row.status for row in compare(ours, theirs, batch).rows}
    assert statuses["backbone.layers.0.feed_forward.up_proj"] == "SHAPE"
    assert statuses["backbone.layers.0.attention_norm"] == "OK"
    assert statuses["backbone.layers.0.feed_forward.down_proj"] == "DIFF"
    ours.roberta.embeddings.forward = lambda ids, positions, _types: (
        ours.roberta.embeddings.token_embedding(ids)
        + ours.roberta.embeddings.position_embedding(positions)
    )
    statuses = {row.name: row.status for row in compare(ours, theirs, batch).rows}
    assert statuses["backbone.embeddings.token_type_embedding"] == "MISSING"


@every_variant
def test_a_padding_token_that_is_attended_to_counts_as_in_hugging_face(variant, tmp_path):
    ours, theirs = pair("RobertaForMaskedLM", tmp_path, variant)
    ids = torch.tensor([[5, 1, 7, 8]])
    mask = torch.ones_like(ids)
    torch.testing.assert_close(
        ours(ids, attention_mask=mask).logits, theirs(ids, attention_mask=mask).logits,
        rtol=1e-5, atol=1e-5,
    )  # fmt: skip


def test_as_many_tokens_as_the_hidden_size_are_told_apart(tmp_path):
    theirs_long = transformers.BertConfig(**SIZES | {"max_position_embeddings": 40})
    theirs = perturb(transformers.BertModel(theirs_long))
    theirs.save_pretrained(tmp_path / "long")
    ours = BertModel.from_pretrained(tmp_path / "long")
    report = compare(ours, theirs, random_batch(ours, length=32))
    assert report.equal, report.table()


@pytest.mark.parametrize("changes", [{"hidden_act": "gelu_new"}, {"type_vocab_size": 3}])
def test_fields_that_change_the_function(changes, tmp_path):
    """The head's GELU stays exact whatever hidden_act says; token types reach every loss."""
    values = {**SIZES, "type_vocab_size": 1, "layer_norm_eps": 1e-5, **changes}
    theirs = perturb(transformers.RobertaForMaskedLM(transformers.RobertaConfig(**values)))
    theirs.save_pretrained(tmp_path)
    ours = RobertaForMaskedLM.from_pretrained(tmp_path)
    batch = random_batch(ours, length=11)
    batch["token_type_ids"] = torch.arange(11).expand(3, 11) % ours.config.type_vocab_size
    report = compare(ours, theirs, batch)
    assert report.equal, report.table()
    torch.testing.assert_close(ours.loss(**batch), theirs(**batch).loss, rtol=1e-5, atol=1e-5)


def test_dropout_falls_in_the_same_places(tmp_path):
    """The same seed draws the same masks only if every dropout has the same place and size."""
    values = {**SIZES, "hidden_dropout_prob": 0.3, "attention_probs_dropout_prob": 0.2}
    theirs = transformers.RobertaForMaskedLM(transformers.RobertaConfig(**values))
    perturb(theirs).save_pretrained(tmp_path)
    ours = RobertaForMaskedLM.from_pretrained(tmp_path, attention="eager")
    batch = random_batch(ours, length=11)
    losses = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        losses.append(model(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    torch.manual_seed(4)
    assert abs(ours(**batch).loss.item() - losses[0]) > 1e-3


@every_variant
def test_what_is_masked_is_not_counted_whatever_its_id(variant, tmp_path):
    """Where Hugging Face would count it: told the positions, it agrees."""
    ours, theirs = pair("RobertaForMaskedLM", tmp_path, variant)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    positions = position_ids_from_mask(mask.bool()) + 2
    expected = theirs(ids, attention_mask=mask, position_ids=positions).logits[0, 2:]
    torch.testing.assert_close(
        ours(ids, attention_mask=mask).logits[0, 2:], expected, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(ours(ids[:, 2:]).logits[0], expected, rtol=1e-5, atol=1e-5)
