"""The parity promise: the same function as transformers' namesake, down to every gradient.

Every parameter is perturbed first; one sequence is padded on the left and one on the right, source
and target on opposite sides. What only GPT-2, or only an encoder-decoder, promises is tested in
`test_decoder_parity.py` and `test_seq2seq_parity.py`.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from minitransformer import parity
from minitransformer.cli import main
from minitransformer.exercises import models
from minitransformer.exercises.attention import SCALED_DOT_PRODUCT_ATTENTION as ATTENTION
from minitransformer.exercises.blocks import ENCODER_LAYER, TIED_LM_HEAD
from minitransformer.exercises.layers import GELU
from minitransformer.hf.config import reference_class
from minitransformer.layers.positional_embeddings import position_ids_from_mask
from minitransformer.parity import compare, random_batch
from tests import tiny
from tests.tiny import (
    BART,
    ENCODER_CLASSES,
    ENCODERS,
    MARIAN,
    T5,
    batch_of,
    bug_of,
    class_of,
    every_variant,
    pair,
    their_model,
)

transformers = pytest.importorskip("transformers", reason="parity needs transformers")

CLASSES = [*tiny.CLASSES[:-1], "T5Model 1.1", tiny.CLASSES[-1]]
AND_UNTIED = [*CLASSES, *tiny.UNTIED]
WITH_A_LOSS = [name for name in AND_UNTIED if hasattr(class_of(name), "loss")]
CLASSIFIERS = [name for name in CLASSES if name.endswith("ForSequenceClassification")]
PROBLEMS = {
    "multi-label": {"problem_type": "multi_label_classification"},
    "regression": {"id2label": {0: "stars"}},
    "three numbers": {"problem_type": "regression"},
}


def case(name: str, *values: Any, quick: bool) -> Any:
    """A case; what is not quick is marked as slow."""
    return pytest.param(name, *values, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "variant", "dtype"),
    [
        case(
            name, variant, dtype,
            quick=name in ENCODER_CLASSES or (variant, dtype) == ("eager", torch.float32),
        )
        for name in AND_UNTIED
        for variant in tiny.VARIANTS
        for dtype in (torch.float32, torch.float64)
    ],
)  # fmt: skip
def test_parity(name, variant, dtype, tmp_path):
    ours, theirs = pair(name, tmp_path, variant, dtype)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()
    if name.startswith(("Bart", "Marian", "T5")):
        expected = {"encoder_hidden_states[2]", "encoder_attentions[1]"}
        expected |= {"encoder_last_hidden_state", "decoder_hidden_states[3]"}
        expected |= {"decoder_attentions[2]", "cross_attentions[2]"}
    else:
        layers = ours.config.num_hidden_layers
        expected = {"hidden_states[0]", f"hidden_states[{layers}]", f"attentions[{layers - 1}]"}
    if name in WITH_A_LOSS:
        expected |= {"loss"}
        expected |= (
            {"start_logits", "end_logits"} if name.endswith("QuestionAnswering") else {"logits"}
        )
        expected |= {f"gradient of {parameter}" for parameter, _ in ours.named_parameters()}
    else:
        expected |= {"last_hidden_state"}
    if name in ("BertModel", "RobertaModel"):
        expected |= {"pooler_output"}
    names = [row.name for row in report.rows]
    assert expected <= set(names)
    assert len(names) == len(set(names))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize(
    "name", [case(name, quick=name in ENCODER_CLASSES) for name in CLASSIFIERS]
)
def test_parity_of_other_problems(name, problem, dtype, tmp_path):
    ours, theirs = pair(name, tmp_path, dtype=dtype, **PROBLEMS[problem])
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        # The head's GELU stays exact whatever hidden_act is; token types reach every loss.
        case("RobertaForMaskedLM", {"hidden_act": "gelu_new"}, quick=True),
        case("RobertaForMaskedLM", {"type_vocab_size": 3}, quick=True),
        case("GPT2LMHeadModel", {"scale_attn_weights": False}, quick=False),
        case("GPT2LMHeadModel", {"scale_attn_by_inverse_layer_idx": True}, quick=False),
        case(
            "GPT2LMHeadModel",
            {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True},
            quick=False,
        ),
        case("GPT2LMHeadModel", {"n_inner": None}, quick=False),
        case("GPT2LMHeadModel", {"activation_function": "relu"}, quick=False),
        case("GPT2LMHeadModel", {"activation_function": "gelu"}, quick=False),
        case("GPT2LMHeadModel", {"activation_function": "silu"}, quick=False),
        case("GPT2LMHeadModel", {"activation_function": "gelu_pytorch_tanh"}, quick=False),
        case("GPT2LMHeadModel", {"layer_norm_epsilon": 0.1}, quick=False),
        case("GPT2LMHeadModel", {"n_layer": 1, "n_head": 1}, quick=False),
        case("GPT2LMHeadModel", {"pad_token_id": 7}, quick=False),
        case("GPT2LMHeadModel", {"reorder_and_upcast_attn": True}, quick=False),
        case(BART, {"scale_embedding": True}, quick=False),
        case("BartForSequenceClassification", {"scale_embedding": True}, quick=False),
        case(BART, {"activation_function": "relu"}, quick=False),
        case(BART, {"activation_function": "gelu_new"}, quick=False),
        case(BART, {"encoder_layers": 1, "decoder_layers": 3}, quick=False),
        case(BART, {"encoder_attention_heads": 1, "decoder_attention_heads": 6}, quick=False),
        case(BART, {"encoder_ffn_dim": 5, "decoder_ffn_dim": 70}, quick=False),
        case(
            BART, {"pad_token_id": 3, "eos_token_id": 5, "decoder_start_token_id": 0}, quick=False
        ),
        case("BartForSequenceClassification", {"pad_token_id": 3, "eos_token_id": 5}, quick=False),
        case("BartForSequenceClassification", {"decoder_start_token_id": 0}, quick=False),
        case(MARIAN, {"scale_embedding": False}, quick=False),
        case(MARIAN, {"activation_function": "relu"}, quick=False),
        case(
            MARIAN,
            {"d_model": 13, "encoder_attention_heads": 1, "decoder_attention_heads": 13},
            quick=False,
        ),
        case(MARIAN, {"decoder_start_token_id": 0}, quick=False),
        case(T5, {"feed_forward_proj": "gelu"}, quick=False),
        case(T5, {"feed_forward_proj": "silu"}, quick=False),
        case(T5, {"feed_forward_proj": "gated-gelu"}, quick=False),
        case(T5, {"feed_forward_proj": "gated-silu"}, quick=False),
        case(T5, {"feed_forward_proj": "gated-relu"}, quick=False),
        case(T5 + " 1.1", {"feed_forward_proj": "gated-silu"}, quick=False),
        case(T5 + " 1.1", {"feed_forward_proj": "relu"}, quick=False),
        # Leaves the head tied, but not scaled.
        case(T5, {"tie_word_embeddings": False}, quick=False),
        case(
            T5,
            {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 3},
            quick=False,
        ),
        case(
            T5,
            {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128},
            quick=False,
        ),
        case(T5, {"d_kv": 16, "num_heads": 2}, quick=False),
        case(T5, {"d_kv": 1, "num_heads": 5}, quick=False),
        case(T5, {"num_decoder_layers": 4}, quick=False),
        case(T5, {"num_decoder_layers": None}, quick=False),
        case(T5, {"layer_norm_epsilon": 0.1}, quick=False),
        case(T5, {"pad_token_id": 7, "decoder_start_token_id": 3}, quick=False),
    ],
    ids=str,
)
def test_fields_that_change_the_function(name, fields, tmp_path):
    ours, theirs = pair(name, tmp_path, **fields)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()


@pytest.mark.parametrize(
    ("name", "length", "fields"),
    [
        # As many tokens as the hidden size must not be confused with it.
        case("BertModel", 32, {"max_position_embeddings": 40}, quick=True),
        case("BertForQuestionAnswering", 2, {}, quick=True),
        *(
            case(name, length, {}, quick=False)
            for name in (BART, MARIAN, T5, "BartForSequenceClassification")
            for length in (2, 24)
        ),
    ],
)
def test_short_and_long_sequences(name, length, fields, tmp_path):
    ours, theirs = pair(name, tmp_path, **fields)
    report = compare(ours, theirs, random_batch(ours, length))
    assert report.equal, report.table()


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
@pytest.mark.parametrize("name", WITH_A_LOSS)
def test_twenty_steps_of_adamw_give_the_same_losses(name, variant, tmp_path):
    ours, theirs = pair(name, tmp_path, variant, torch.float64)
    our_losses, their_losses = courses_of_training(ours, theirs)
    # It does learn something, T5 more slowly.
    assert our_losses[-1] < (0.85 if name == T5 else 0.7) * our_losses[0]
    assert our_losses == pytest.approx(their_losses, abs=1e-9, rel=1e-9)


def courses_of_training(ours: Any, theirs: Any, steps: int = 20) -> tuple[list[float], list[float]]:
    """The losses of either side as AdamW lowers them, over the same two batches in turn."""
    courses: tuple[list[float], list[float]] = [], []
    for model, course in zip((ours, theirs), courses, strict=True):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        for step in range(steps):
            batch = random_batch(ours, length=11, seed=step % 2)
            if model is ours:
                loss = ours.loss(**batch)
            else:
                their_batch = parity.their_inputs(ours, batch)
                with parity.t5_norms_in_float64(theirs):
                    loss = parity._their_loss(ours, theirs(**their_batch), their_batch)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            course.append(loss.item())
    return courses


def there_and_back(ours: Any, path: Path, caplog: pytest.LogCaptureFixture) -> list[str]:
    """Save ours, load it there, save that and load it here: every tensor must stay the same.

    Returns:
        transformers' warnings while it loaded and saved.
    """
    ours.save_pretrained(path / "ours")
    our_class = reference_class(ours)
    their_class = getattr(transformers, our_class.__name__)
    with warnings.catch_warnings(), their_words(caplog) as messages:
        warnings.simplefilter("error")
        theirs, report = their_class.from_pretrained(
            path / "ours", output_loading_info=True, attn_implementation="eager"
        )
        theirs.save_pretrained(path / "back")
    messages += [f"{kind}: {names}" for kind, names in report.items() if names]
    result = compare(ours, theirs.eval(), random_batch(ours, length=11))
    assert result.equal, result.table()
    again = our_class.from_pretrained(path / "back")
    assert again.config == ours.config
    assert again.state_dict().keys() == ours.state_dict().keys()
    for name, tensor in ours.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor), name
    return messages


@contextmanager
def their_words(caplog: pytest.LogCaptureFixture) -> Iterator[list[str]]:
    """transformers' log messages, which do not reach the root logger."""
    messages: list[str] = []
    before = transformers.utils.logging.get_verbosity()  # another test may have silenced it
    transformers.utils.logging.set_verbosity_warning()
    transformers.utils.logging.enable_propagation()
    caplog.clear()
    try:
        with caplog.at_level("WARNING"):
            yield messages
    finally:
        transformers.utils.logging.disable_propagation()
        transformers.utils.logging.set_verbosity(before)
        messages += [record.getMessage() for record in caplog.records]


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        case(name, variant, quick=name in (*ENCODER_CLASSES, *tiny.UNTIED) and variant == "eager")
        for name in AND_UNTIED
        for variant in ("eager", "optimized")
    ],
)
def test_what_is_saved_here_loads_there_without_a_warning_and_back(
    name, variant, tmp_path, recwarn, caplog
):
    ours, _ = pair(name, tmp_path / "theirs", variant)
    assert recwarn.list == []
    messages = there_and_back(ours, tmp_path, caplog)
    # It has no field for an untied head any more, and warns of that for its own checkpoints too;
    # in a MarianModel without a head it misses the sinusoids, which it then computes.
    expected = {f"{T5} 1.1": "will NOT tie them", "MarianModel": "embed_positions.weight"}
    assert (messages != []) == (name in expected)
    assert all(expected[name] in message for message in messages)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CLASSES if name not in ENCODER_CLASSES])
def test_the_command(name, tmp_path, capsys):
    their_model(name).save_pretrained(tmp_path)
    assert main(["parity", str(tmp_path), "--length", "11"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name.removesuffix(' 1.1')}, torch.float32, tolerance 1e-05\n")
    assert out.endswith("\nthe same function\n")


# --- What encoders promise


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


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("name", [name for name in ENCODER_CLASSES if name.startswith("Roberta")])
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
@pytest.mark.parametrize("family", ENCODERS)
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


# Bugs that were really made, each put into our model, or a part of it, and the first module that
# must be named. No default initialization would show them, which is why parameters are perturbed.
@pytest.mark.parametrize(
    ("bug", "part", "first"),
    [
        (models.norms_stored_in_each_other.put_into_model, "", "backbone.layers.0.attention_norm"),
        (models.no_biases.put_into_model, "", "backbone.layers.0.attention.query"),
        (
            models.biases_of_query_and_key_swapped.put_into_model,
            "",
            "backbone.layers.0.attention.query",
        ),
        (bug_of(GELU, "tanh approximation"), "", "backbone.layers.0.feed_forward.down_proj"),
        (bug_of(TIED_LM_HEAD, "tanh in the head"), "", "lm_head.norm"),
        (models.eps_of_another_model.put_into_model, "", "backbone.embeddings.norm"),
        (bug_of(ATTENTION, "no scale"), "", "backbone.layers.0.attention.output"),
        (
            models.positions_without_offset.put_into_model,
            "",
            "backbone.embeddings.position_embedding.table",
        ),
        (
            models.positions_that_count_padding.put_into_model,
            "",
            "backbone.embeddings.position_embedding.table",
        ),
        (
            bug_of(TIED_LM_HEAD, "untied copy"),
            "",
            "gradient of backbone.embeddings.token_embedding.weight",
        ),
        (models.no_token_types.put_into_model, "", "backbone.embeddings.token_type_embedding"),
        (bug_of(ATTENTION, "mask ignored"), "", "backbone.layers.0.attention.output"),
        (
            bug_of(ENCODER_LAYER, "no residual around attention"),
            "backbone.layers.1",
            "backbone.layers.1.attention_norm",
        ),
        (bug_of(TIED_LM_HEAD, "no bias"), "", "logits"),
    ],
)
def test_the_comparison_finds_the_bug_and_names_the_module(bug, part, first, tmp_path):
    ours, theirs = pair("RobertaForMaskedLM", tmp_path)
    batch = random_batch(ours, length=11)
    assert compare(ours, theirs, batch).equal
    bug(ours.get_submodule(part))
    report = compare(ours, theirs, batch)
    assert report.first_difference is not None
    assert report.first_difference.name == first, report.table()
    assert f"first differs: {first}" in report.table()


def test_the_comparison_finds_missing_token_types(tmp_path):
    ours, theirs = pair("BertForTokenClassification", tmp_path)
    batch = random_batch(ours, length=11)
    assert set(batch["token_type_ids"].unique().tolist()) == {0, 1, 2}
    models.second_text_as_the_first.put_into_model(ours)
    report = compare(ours, theirs, batch)
    assert report.first_difference.name == "backbone.embeddings.token_type_embedding"


def test_outputs_missing_in_transformers_are_reported(tmp_path):
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


def test_half_precision_cannot_be_compared(tmp_path):
    ours, theirs = pair("BertModel", tmp_path, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="is torch.bfloat16; only float32 and float64"):
        compare(ours, theirs, random_batch(ours, length=5))


def test_other_shapes_and_absent_modules_are_reported_differently(tmp_path):
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


@every_variant
def test_what_is_masked_is_not_counted_whatever_its_id(variant, tmp_path):
    """Hugging Face would count it in positions; with position_ids, it agrees."""
    ours, theirs = pair("RobertaForMaskedLM", tmp_path, variant)
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    positions = position_ids_from_mask(mask.bool()) + 2
    expected = theirs(ids, attention_mask=mask, position_ids=positions).logits[0, 2:]
    torch.testing.assert_close(
        ours(ids, attention_mask=mask).logits[0, 2:], expected, rtol=1e-5, atol=1e-5
    )
    torch.testing.assert_close(ours(ids[:, 2:]).logits[0], expected, rtol=1e-5, atol=1e-5)
