"""What the parity promise means for BART, Marian and T5; `test_parity.py` tests the rest.

Source and target differ in length, and are padded on opposite sides. The bugs that must be found
are in `tests/models/test_seq2seq_bugs.py`.
"""

import json

import pytest
import torch

import minitransformer
from minitransformer import CheckpointError
from minitransformer.exercises.models import attend_otherwise
from minitransformer.parity import compare, random_batch, t5_norms_in_float64
from tests.tiny import (
    BART,
    MARIAN,
    SEQ2SEQ_LMS,
    T5,
    every_variant,
    pair,
    their_model,
)

pytest.importorskip("transformers", reason="parity needs transformers")


def test_the_batch_confuses_nothing_with_anything_else():
    config = minitransformer.BartConfig(
        vocab_size=99, hidden_size=32, num_attention_heads=4, num_decoder_attention_heads=2,
        intermediate_size=37, decoder_intermediate_size=41, num_hidden_layers=1,
        num_decoder_layers=1, max_position_embeddings=20,
    )  # fmt: skip
    model = minitransformer.BartForConditionalGeneration(config)
    batch = random_batch(model, length=11)
    assert batch["input_ids"].shape == (3, 11)
    assert batch["decoder_input_ids"].shape == batch["labels"].shape == (3, 7)
    source, target = batch["attention_mask"], batch["decoder_attention_mask"]
    assert source[0].all() and target[0].all()
    assert source[1, 0] == 0 == target[1, -1] and source[1, -1] == 1 == target[1, 0]
    assert source[2, -1] == 0 == target[2, 0] and source[2, 0] == 1 == target[2, -1]
    first = target.argmax(dim=1, keepdim=True)
    assert set(batch["decoder_input_ids"].gather(1, first).flatten().tolist()) == {2}
    assert (batch["input_ids"][source == 0] == 1).all()
    assert not (batch["labels"][target == 0] != -100).any()
    assert 0 < (batch["labels"] != -100).sum() < target.sum()


def test_the_report_follows_the_order_of_computation(tmp_path):
    ours, theirs = pair("T5ForConditionalGeneration", tmp_path)
    names = [row.name for row in compare(ours, theirs, random_batch(ours, length=11)).rows]
    order = [
        "backbone.token_embedding (source)",
        "backbone.encoder.position_bias.table",
        "backbone.encoder.layers.0.attention_norm",
        "backbone.encoder.layers.1.feed_forward.down_proj",
        "backbone.encoder.final_norm",
        "backbone.token_embedding (target)",
        "backbone.decoder.position_bias.table",
        "backbone.decoder.layers.0.attention.output",
        "backbone.decoder.layers.0.cross_attention_norm",
        "backbone.decoder.layers.0.cross_attention.key",
        "backbone.decoder.layers.1.feed_forward.down_proj",
        "backbone.decoder.final_norm",
        "encoder_hidden_states[0]",
        "encoder_last_hidden_state",
        "cross_attentions[0]",
        "logits",
        "loss",
        "gradient of backbone.token_embedding.weight",
    ]
    assert [name for name in names if name in order] == order


@pytest.mark.slow
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("variant", ["eager", "optimized"])
@pytest.mark.parametrize("name", SEQ2SEQ_LMS)
def test_the_decoder_reads_the_labels_moved_to_the_right(name, variant, dtype, side, tmp_path):
    ours, theirs = pair(name, tmp_path, variant, dtype)
    batch = random_batch(ours, length=11)
    labels = torch.randint(3, 30, (3, 7))
    labels[1, slice(0, 3) if side == "left" else slice(4, None)] = -100
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    batch = source | {"labels": labels}
    report = compare(ours, theirs, batch)
    assert report.equal, report.table()


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("name", [name for name in SEQ2SEQ_LMS if name.startswith("T5")])
def test_t5_is_equal_with_padding_on_either_side(name, variant, tmp_path):
    """Distances are the same there, so nothing is moved."""
    ours, theirs = pair(name, tmp_path, variant)
    batch = random_batch(ours, length=11)
    inputs = {key: values for key, values in batch.items() if key != "labels"}
    source, target = inputs["attention_mask"].bool(), inputs["decoder_attention_mask"].bool()
    our_result, their_result = ours(**inputs), theirs(**inputs)
    states = "encoder_last_hidden_state"
    for field, real in ((states, source), ("logits", target)):
        torch.testing.assert_close(
            getattr(our_result, field)[real], getattr(their_result, field)[real],
            rtol=1e-5, atol=1e-5,
        )  # fmt: skip


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A checkpoint of each family."""
    paths = {name: tmp_path_factory.mktemp("checkpoint") for name in (BART, MARIAN, T5)}
    for name, path in paths.items():
        their_model(name).save_pretrained(path)
    return paths


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "field", "value"),
    [
        (BART, "encoder_layerdrop", 0.1),
        (BART, "decoder_layerdrop", 0.1),
        (BART, "normalize_before", True),
        (BART, "normalize_embedding", False),
        (BART, "add_final_layer_norm", True),
        (BART, "static_position_embeddings", True),
        (BART, "is_encoder_decoder", False),
        (MARIAN, "encoder_layerdrop", 0.1),
        (MARIAN, "normalize_before", True),
        (MARIAN, "normalize_embedding", True),
        (MARIAN, "decoder_vocab_size", 98),
        (MARIAN, "share_encoder_decoder_embeddings", False),
        (MARIAN, "static_position_embeddings", False),
        (T5, "is_encoder_decoder", False),
        (T5, "is_decoder", True),
    ],
)
def test_fields_that_would_make_another_model_are_refused(
    name, field, value, checkpoints, tmp_path
):
    for file in checkpoints[name].iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = tmp_path / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {field: value}))
    with pytest.raises(CheckpointError, match=f"{field}={value!r} is not supported, only"):
        minitransformer.from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (BART, {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.4}),
        (MARIAN, {"dropout": 0.3, "attention_dropout": 0.2, "activation_dropout": 0.4}),
        (
            "BartForSequenceClassification",
            {"dropout": 0.3, "activation_dropout": 0.4, "classifier_dropout": 0.2},
        ),
        (T5, {"dropout_rate": 0.3}),
        (T5 + " 1.1", {"dropout_rate": 0.3}),
    ],
)
def test_dropout_is_applied_in_the_same_places(name, fields, tmp_path):
    """The same seed gives the same masks only if each dropout has the same place and size."""
    ours, theirs = pair(name, tmp_path, **fields)
    batch = random_batch(ours, length=11)
    batch["attention_mask"].fill_(1)
    batch = {n: values for n, values in batch.items() if not n.startswith("decoder")}
    if name in SEQ2SEQ_LMS:
        batch["labels"] = torch.randint(3, 30, (3, 7))
    else:
        batch["input_ids"] = torch.randint(3, 30, (3, 11))
        batch["input_ids"][:, 8] = ours.config.eos_token_id
    losses = []
    for model in (ours.train(), theirs.train()):
        torch.manual_seed(3)
        losses.append(model(**batch).loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    torch.manual_seed(4)
    assert abs(ours(**batch).loss.item() - losses[0]) > 1e-3


@pytest.mark.slow
def test_their_norm_computes_in_float64_only_while_it_is_compared(tmp_path):
    ours, theirs = pair("T5Model", tmp_path, dtype=torch.float64)
    norm, hidden = theirs.encoder.final_layer_norm, torch.randn(5, 12, dtype=torch.float64)
    expected = ours.encoder.final_norm(hidden)
    rounded = norm(hidden)
    assert 1e-10 < (rounded - expected).abs().max() < 1e-6
    with t5_norms_in_float64(theirs):
        assert (norm(hidden) - expected).abs().max() < 1e-14
    assert torch.equal(norm(hidden), rounded)
    with t5_norms_in_float64(theirs.float()):
        assert "forward" not in vars(norm)


# Beams: K sequences are decoded from one source, whose keys and values are computed once.
def our_next_scores(ours, batch, decoded):
    with torch.no_grad():
        encoded = ours.encode(batch["input_ids"], batch["attention_mask"])
        return ours.next_token_logits(decoded, encoded, cache=ours.new_cache())


def check_beams(ours, theirs):
    batch = random_batch(ours, length=11)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    if not ours.config.__class__.__name__.startswith("T5"):  # whose positions count no padding
        source = {name: values[[0, 2]] for name, values in source.items()}
    decoded = torch.randint(3, 30, (2 * len(source["input_ids"]), 5))
    copied = {name: values.repeat_interleave(2, dim=0) for name, values in source.items()}
    with torch.no_grad():
        expected = theirs(**copied, decoder_input_ids=decoded).logits[:, -1]
    torch.testing.assert_close(
        our_next_scores(ours, source, decoded), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("name", SEQ2SEQ_LMS)
def test_two_beams_of_each_source(name, variant, tmp_path):
    check_beams(*pair(name, tmp_path, variant))


@pytest.mark.slow
def test_beams_of_the_wrong_source_are_caught(tmp_path):
    ours, theirs = pair(BART, tmp_path)

    def copied_in_turn(key, value, **_):  # source 0, 1, 0, 1 instead of 0, 0, 1, 1
        order = torch.arange(len(key)).reshape(-1, 2).T.flatten()
        return {"key": key[order], "value": value[order]}

    attend_otherwise((layer.cross_attention for layer in ours.model.decoder.layers), copied_in_turn)
    with pytest.raises(AssertionError, match="not close"):
        check_beams(ours, theirs)
