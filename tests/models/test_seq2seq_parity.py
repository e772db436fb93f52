"""The parity promise for BART, Marian and T5, as `tests/models/test_parity.py` tests it.

Source and target differ in length, and are padded on opposite sides. The bugs that must be found
stand in `tests/models/test_seq2seq_bugs.py`.
"""

import json

import pytest
import torch

import minitransformer
from minitransformer import CheckpointError
from minitransformer.cli import main
from minitransformer.parity import as_exact_as_its_dtype, compare, random_batch
from tests.models.pairs import (
    BART,
    MARIAN,
    SEQ2SEQ_CLASSES,
    T5,
    WRITERS,
    attend_otherwise,
    courses_of_training,
    pair,
    their_model,
    there_and_back,
)
from tests.tiny import every_variant

pytest.importorskip("transformers", reason="parity needs transformers")

WITH_A_LOSS = [*WRITERS, "BartForSequenceClassification"]


@pytest.mark.parametrize("name", SEQ2SEQ_CLASSES)
def test_parity(name, tmp_path):
    check_parity(name, "eager", torch.float32, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "dtype"),
    [
        ("sdpa", torch.float32),
        ("eager", torch.float64),
        ("sdpa", torch.float64),
        ("optimized", torch.float32),
        ("optimized", torch.float64),
    ],
)
@pytest.mark.parametrize("name", SEQ2SEQ_CLASSES)
def test_parity_of_every_variant_and_in_float64(name, variant, dtype, tmp_path):
    check_parity(name, variant, dtype, tmp_path)


def check_parity(name, variant, dtype, path):
    ours, theirs = pair(name, path, variant, dtype)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()
    expected = {"encoder_hidden_states[3]", "encoder_attentions[2]", "encoder_last_hidden_state"}
    expected |= {"decoder_hidden_states[2]", "decoder_attentions[1]", "cross_attentions[1]"}
    expected |= {"logits", "loss"} if name in WITH_A_LOSS else {"last_hidden_state"}
    if name in WITH_A_LOSS:
        expected |= {f"gradient of {parameter}" for parameter, _ in ours.named_parameters()}
    names = [row.name for row in report.rows]
    assert expected <= set(names)
    assert len(names) == len(set(names))


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


def test_the_report_goes_in_the_order_of_computation(tmp_path):
    ours, theirs = pair("T5ForConditionalGeneration", tmp_path)
    names = [row.name for row in compare(ours, theirs, random_batch(ours, length=11)).rows]
    order = [
        "backbone.token_embedding (source)",
        "backbone.encoder.position_bias.table",
        "backbone.encoder.layers.0.attention_norm",
        "backbone.encoder.layers.2.feed_forward.down_proj",
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
@pytest.mark.parametrize("name", WRITERS)
def test_the_decoder_reads_the_labels_moved_to_the_right(name, variant, dtype, side, tmp_path):
    ours, theirs = pair(name, tmp_path, variant, dtype)
    batch = random_batch(ours, length=11)
    labels = torch.randint(3, 98, (3, 7))
    labels[1, slice(0, 3) if side == "left" else slice(4, None)] = -100
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    batch = source | {"labels": labels}
    report = compare(ours, theirs, batch)
    assert report.equal, report.table()


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("name", [name for name in WRITERS if name.startswith("T5")])
def test_t5_is_equal_wherever_padding_stands(name, variant, tmp_path):
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


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "problem",
    [
        {"problem_type": "multi_label_classification"},
        {"problem_type": "regression"},
        {"id2label": {0: "stars"}},
    ],
)
def test_parity_of_other_problems(problem, dtype, tmp_path):
    ours, theirs = pair("BartForSequenceClassification", tmp_path, dtype=dtype, **problem)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "fields"),
    [
        (BART, {"scale_embedding": True}),
        ("BartForSequenceClassification", {"scale_embedding": True}),
        (BART, {"activation_function": "relu"}),
        (BART, {"activation_function": "gelu_new"}),
        (BART, {"encoder_layers": 1, "decoder_layers": 3}),
        (BART, {"encoder_attention_heads": 1, "decoder_attention_heads": 8}),
        (BART, {"encoder_ffn_dim": 5, "decoder_ffn_dim": 70}),
        (BART, {"pad_token_id": 3, "eos_token_id": 5, "decoder_start_token_id": 0}),
        ("BartForSequenceClassification", {"pad_token_id": 3, "eos_token_id": 5}),
        ("BartForSequenceClassification", {"decoder_start_token_id": 0}),
        (MARIAN, {"scale_embedding": False}),
        (MARIAN, {"activation_function": "relu"}),
        (MARIAN, {"d_model": 31, "encoder_attention_heads": 1, "decoder_attention_heads": 31}),
        (MARIAN, {"decoder_start_token_id": 0}),
        (T5, {"feed_forward_proj": "gelu"}),
        (T5, {"feed_forward_proj": "silu"}),
        (T5, {"feed_forward_proj": "gated-gelu"}),
        (T5, {"feed_forward_proj": "gated-silu"}),
        (T5, {"feed_forward_proj": "gated-relu"}),
        (T5 + " 1.1", {"feed_forward_proj": "gated-silu"}),
        (T5 + " 1.1", {"feed_forward_proj": "relu"}),
        (T5, {"tie_word_embeddings": False}),  # which leaves the head tied, but not scaled
        (T5, {"relative_attention_num_buckets": 4, "relative_attention_max_distance": 3}),
        (T5, {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}),
        (T5, {"d_kv": 16, "num_heads": 2}),
        (T5, {"d_kv": 1, "num_heads": 5}),
        (T5, {"num_decoder_layers": 4}),
        (T5, {"num_decoder_layers": None}),
        (T5, {"layer_norm_epsilon": 0.1}),
        (T5, {"pad_token_id": 7, "decoder_start_token_id": 3}),
    ],
    ids=str,
)
def test_fields_that_change_the_function(name, fields, tmp_path):
    ours, theirs = pair(name, tmp_path, **fields)
    report = compare(ours, theirs, random_batch(ours, length=11))
    assert report.equal, report.table()


@pytest.mark.slow
@pytest.mark.parametrize("length", [2, 20])
@pytest.mark.parametrize("name", [BART, MARIAN, T5, "BartForSequenceClassification"])
def test_short_and_long_sequences(name, length, tmp_path):
    ours, theirs = pair(name, tmp_path)
    report = compare(ours, theirs, random_batch(ours, length))
    assert report.equal, report.table()


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
        (BART, "tie_word_embeddings", False),
        (BART, "is_encoder_decoder", False),
        (MARIAN, "encoder_layerdrop", 0.1),
        (MARIAN, "normalize_before", True),
        (MARIAN, "normalize_embedding", True),
        (MARIAN, "decoder_vocab_size", 98),
        (MARIAN, "share_encoder_decoder_embeddings", False),
        (MARIAN, "tie_word_embeddings", False),
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
@pytest.mark.parametrize("variant", ["sdpa", "optimized"])
@pytest.mark.parametrize("name", WITH_A_LOSS)
def test_twenty_steps_of_adamw_give_the_same_losses(name, variant, tmp_path):
    ours, theirs = pair(name, tmp_path, variant, torch.float64)
    our_losses, their_losses = courses_of_training(ours, theirs)
    assert our_losses[-1] < 0.8 * our_losses[0]  # it does learn something
    assert our_losses == pytest.approx(their_losses, abs=1e-9, rel=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["eager", "optimized"])
@pytest.mark.parametrize("name", SEQ2SEQ_CLASSES)
def test_what_is_saved_here_loads_there_without_a_warning_and_back(
    name, variant, tmp_path, recwarn, caplog
):
    ours, _ = pair(name, tmp_path / "theirs", variant)
    assert recwarn.list == []
    said = there_and_back(ours, tmp_path, caplog)
    # It has no field any more for a head that is not tied, and says so of its own checkpoints too;
    # in a MarianModel without a head it misses the sinusoids, which it then computes.
    expected = {
        "T5ForConditionalGeneration 1.1": "will NOT tie them",
        "MarianModel": "embed_positions.weight",
    }
    assert (said != []) == (name in expected)
    assert all(expected[name] in message for message in said)


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
def test_dropout_falls_in_the_same_places(name, fields, tmp_path):
    """The same seed draws the same masks only if every dropout has the same place and size."""
    ours, theirs = pair(name, tmp_path, **fields)
    batch = random_batch(ours, length=11)
    batch["attention_mask"].fill_(1)
    batch = {n: values for n, values in batch.items() if not n.startswith("decoder")}
    if name in WRITERS:
        batch["labels"] = torch.randint(3, 98, (3, 7))
    else:
        batch["input_ids"] = torch.randint(3, 98, (3, 11))
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
    norm, hidden = theirs.encoder.final_layer_norm, torch.randn(5, 32, dtype=torch.float64)
    expected = ours.encoder.final_norm(hidden)
    rounded = norm(hidden)
    assert 1e-10 < (rounded - expected).abs().max() < 1e-6
    with as_exact_as_its_dtype(theirs):
        assert (norm(hidden) - expected).abs().max() < 1e-14
    assert torch.equal(norm(hidden), rounded)
    with as_exact_as_its_dtype(theirs.float()):
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
    decoded = torch.randint(3, 98, (2 * len(source["input_ids"]), 5))
    copied = {name: values.repeat_interleave(2, dim=0) for name, values in source.items()}
    with torch.no_grad():
        expected = theirs(**copied, decoder_input_ids=decoded).logits[:, -1]
    torch.testing.assert_close(
        our_next_scores(ours, source, decoded), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.slow
@every_variant
@pytest.mark.parametrize("name", WRITERS)
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


@pytest.mark.slow
@pytest.mark.parametrize("name", SEQ2SEQ_CLASSES)
def test_the_command(name, tmp_path, capsys):
    their_model(name).save_pretrained(tmp_path)
    assert main(["parity", str(tmp_path), "--length", "11"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"{name.removesuffix(' 1.1')}, torch.float32, tolerance 1e-05\n")
    assert "\nthe same function" in out
