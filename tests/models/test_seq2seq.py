"""BART, Marian and T5: the wiring by hand, heads, the cache of a source, losses."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from minitransformer import BartConfig, MarianConfig, T5Config, T5ForConditionalGeneration
from minitransformer.layers.positional_embeddings import sinusoids
from minitransformer.models.base import Model
from tests.tiny import (
    FAMILIES,
    SEQ2SEQ,
    SEQ2SEQ_LMS,
    T5_1_1,
    T5_SIZES,
    assert_equal,
    backbone_of,
    build,
    every_variant,
    family_of,
    gradients,
    new,
    pad,
    random_ids,
    random_sequences,
)

every_class = pytest.mark.parametrize("name", SEQ2SEQ)
every_seq2seq_lm = pytest.mark.parametrize("name", SEQ2SEQ_LMS)
Weights = dict[str, Tensor]


# --- A second implementation, for one text at a time, from the weights


def linear(w: Weights, name: str, x: Tensor) -> Tensor:
    bias = w.get(f"{name}.bias")
    return x @ w[f"{name}.weight"].T + (0 if bias is None else bias)


def attend(
    w: Weights, name: str, x: Tensor, context: Tensor, heads: int, causal: bool, **terms: Any
) -> Tensor:
    """Of (T, E) over (S, E); terms: scale, and bias (H, T, S)."""
    query, key, value = (
        linear(w, f"{name}.{part}", tokens).chunk(heads, dim=-1)
        for part, tokens in (("query", x), ("key", context), ("value", context))
    )
    gathered = []
    for head in range(heads):
        scores = query[head] @ key[head].T
        scores = scores * terms.get("scale", query[head].shape[-1] ** -0.5)
        if "bias" in terms:
            scores = scores + terms["bias"][head]
        if causal:
            scores = scores + torch.full_like(scores, -math.inf).triu(1)
        gathered.append(scores.softmax(-1) @ value[head])
    return linear(w, f"{name}.output", torch.cat(gathered, -1))


def layer_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    deviation = x - x.mean(-1, keepdim=True)
    spread = (deviation.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return deviation / spread * w[f"{name}.weight"] + w[f"{name}.bias"]


def activated(name: str, x: Tensor) -> Tensor:
    if name == "gelu":
        return 0.5 * x * (1 + torch.erf(x / math.sqrt(2)))
    if name == "gelu_new":
        return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
    return x * torch.sigmoid(x) if name == "swish" else x.clamp(min=0)


def bart_by_hand(model: Any, source: Tensor, target: Tensor) -> Tensor:
    """BART's and Marian's decoder over one text: (T, E)."""
    config, w = model.config, dict(model.state_dict())
    sinusoidal = isinstance(config, MarianConfig)
    hidden = {}
    for stack, ids in (("encoder", source), ("decoder", target)):
        x = w["token_embedding.weight"][ids]
        if config.scale_embedding:
            x = x * math.sqrt(config.hidden_size)
        if sinusoidal:
            x = x + sinusoids(len(ids), config.hidden_size).float()
        else:
            x = x + w[f"{stack}.position_embedding.table.weight"][2 : 2 + len(ids)]
            x = layer_norm(w, f"{stack}.embedding_norm", x)
        encoding = stack == "encoder"
        layers = config.num_hidden_layers if encoding else config.num_decoder_layers
        heads = config.num_attention_heads if encoding else config.num_decoder_attention_heads
        for number in range(layers):
            name = f"{stack}.layers.{number}."
            x = layer_norm(
                w,
                f"{name}attention_norm",
                x + attend(w, f"{name}attention", x, x, heads, causal=not encoding),
            )
            if not encoding:
                crossed = attend(w, f"{name}cross_attention", x, hidden["encoder"], heads, False)
                x = layer_norm(w, f"{name}cross_attention_norm", x + crossed)
            wide = activated(config.hidden_act, linear(w, f"{name}feed_forward.up_proj", x))
            x = layer_norm(
                w,
                f"{name}feed_forward_norm",
                x + linear(w, f"{name}feed_forward.down_proj", wide),
            )
        hidden[stack] = x
    return hidden["decoder"]


def rms_norm(w: Weights, name: str, x: Tensor) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + 1e-6).sqrt() * w[f"{name}.weight"]


def t5_by_hand(model: Any, source: Tensor, target: Tensor) -> Tensor:
    """T5's decoder over one text: (T, E)."""
    config, w = model.config, dict(model.state_dict())
    hidden = {}
    for stack, ids in (("encoder", source), ("decoder", target)):
        encoding = stack == "encoder"
        x = w["token_embedding.weight"][ids]
        # Tested by itself, in tests/layers.
        bias = getattr(model, stack).position_bias(torch.arange(len(ids)), len(ids))[0]
        for number in range(config.num_hidden_layers if encoding else config.num_decoder_layers):
            name = f"{stack}.layers.{number}."
            normed = rms_norm(w, f"{name}attention_norm", x)
            terms = {"scale": 1.0, "bias": bias}
            heads = config.num_attention_heads
            x = x + attend(w, f"{name}attention", normed, normed, heads, not encoding, **terms)
            if not encoding:
                normed = rms_norm(w, f"{name}cross_attention_norm", x)
                seen = hidden["encoder"]
                x = x + attend(w, f"{name}cross_attention", normed, seen, heads, False, scale=1.0)
            normed = rms_norm(w, f"{name}feed_forward_norm", x)
            name = f"{name}feed_forward"
            if config.is_gated:
                wide = activated("gelu_new", linear(w, f"{name}.gate_proj", normed))
                wide = wide * linear(w, f"{name}.up_proj", normed)
            else:
                wide = activated("relu", linear(w, f"{name}.up_proj", normed))
            x = x + linear(w, f"{name}.down_proj", wide)
        hidden[stack] = rms_norm(w, f"{stack}.final_norm", x)
    return hidden["decoder"]


@every_class
@every_variant
@torch.no_grad()
def test_the_whole_model_by_hand(name, variant):
    model: Any = build(name, variant)
    backbone = backbone_of(model)
    source, target = random_ids(6), random_ids(4, 1)
    hidden = (t5_by_hand if name.startswith("T5") else bart_by_hand)(backbone, source, target)
    output = model(source[None], decoder_input_ids=target[None])
    if backbone is model:
        assert_equal(output.last_hidden_state[0], hidden)
        return
    if name == "T5ForConditionalGeneration":
        expected = hidden / math.sqrt(12) @ backbone.token_embedding.weight.T
    elif name == "T5ForConditionalGeneration 1.1":
        expected = hidden @ model.lm_head.weight.T
    else:
        expected = hidden @ backbone.token_embedding.weight.T + model.final_logits_bias[0]
    assert_equal(output.logits[0], expected)


def test_bart_with_scaled_embeddings_by_hand():
    model = new("BartModel", scale_embedding=True)
    source, target = random_ids(3), random_ids(5, 1)
    output = model(source[None], decoder_input_ids=target[None])
    assert_equal(output.last_hidden_state[0], bart_by_hand(model, source, target))


# --- Parts


def test_t5_has_one_table_of_positions_for_each_stack_and_none_for_cross_attention():
    model: Any = build("T5Model")
    tables = [name for name, _ in model.named_parameters() if "position" in name]
    assert tables == ["encoder.position_bias.table.weight", "decoder.position_bias.table.weight"]
    assert model.encoder.position_bias.bidirectional
    assert not model.decoder.position_bias.bidirectional
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]


def test_the_heads_of_t5():
    tied, untied = build("T5ForConditionalGeneration"), build("T5ForConditionalGeneration 1.1")
    assert tied.lm_head is None
    assert untied.lm_head.weight.shape == (31, 12)
    assert untied.lm_head.bias is None
    # Each of the two fields by itself.
    hidden = torch.randn(2, 12, dtype=torch.float64)
    scaled = new("T5ForConditionalGeneration 1.1", scale_decoder_outputs=True)
    assert_equal(scaled.logits(hidden), untied.logits(hidden) / math.sqrt(12))
    plain = new("T5ForConditionalGeneration", scale_decoder_outputs=False)
    assert_equal(plain.logits(hidden), tied.logits(hidden) * math.sqrt(12))


def test_any_number_of_tokens_fits_into_t5():
    model = build("T5ForConditionalGeneration")
    assert model.config.max_sequence_length is None
    assert model(
        random_sequences(1, 60), decoder_input_ids=random_sequences(1, 50)
    ).logits.shape == (1, 50, 31)


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "MarianMTModel"])
def test_as_many_tokens_fit_into_each_stack_as_there_are_positions(name):
    model = build(name)
    assert model.config.max_sequence_length == 24
    assert model(
        random_sequences(1, 24), decoder_input_ids=random_sequences(1, 24)
    ).logits.shape == (1, 24, 31)


def test_what_is_added_to_the_scores_is_stored_and_not_learnt():
    for name in ("BartForConditionalGeneration", "MarianMTModel"):
        model = build(name)
        assert "final_logits_bias" in model.state_dict()
        assert not [n for n, _ in model.named_parameters() if "final_logits_bias" in n]
        hidden = torch.zeros(1, 12, dtype=torch.float64)
        assert torch.equal(model.logits(hidden), model.final_logits_bias)
        assert model.final_logits_bias.any()


def test_marian_has_neither_learnt_positions_nor_a_norm_of_the_embeddings():
    names = dict(build("MarianModel").named_parameters())
    assert not [name for name in names if "position_embedding" in name or "embedding_norm" in name]
    names = dict(build("BartModel").named_parameters())
    assert len([name for name in names if "position_embedding" in name]) == 2
    assert len([name for name in names if "embedding_norm" in name]) == 4


def test_the_defaults_are_those_of_the_checkpoints():
    bart, marian, t5 = BartConfig(), MarianConfig(), T5Config()
    assert (bart.vocab_size, bart.decoder_start_token_id, bart.num_labels) == (50_265, 2, 3)
    assert (marian.pad_token_id, marian.decoder_start_token_id) == (58_100, 58_100)
    assert (t5.vocab_size, t5.hidden_size, t5.num_decoder_layers) == (32_128, 512, 6)
    assert t5.activation == "relu"
    for projection, activation in (
        ("gated-gelu", "gelu_new"),  # the one exception
        ("gelu", "gelu"),
        ("gated-silu", "silu"),
        ("gated-relu", "relu"),
    ):
        config = T5Config(feed_forward_proj=projection)
        assert config.activation == activation
        assert config.is_gated == projection.startswith("gated-")


def test_t5s_initial_weights_make_scaling_unnecessary():
    sizes = {"hidden_size": 128, "head_size": 32, "intermediate_size": 300, "vocab_size": 500}
    for factor in (1.0, 0.5):
        config = T5Config(**T5_SIZES | T5_1_1 | sizes | {"initializer_factor": factor})
        model = T5ForConditionalGeneration(config)
        layer = model.backbone.decoder.layers[0]
        for weight, deviation in (
            (model.backbone.token_embedding.weight, 1.0),
            (layer.attention.query.weight, (128 * 32) ** -0.5),
            (layer.cross_attention.query.weight, (128 * 32) ** -0.5),
            (layer.attention.key.weight, 128**-0.5),
            (layer.attention.value.weight, 128**-0.5),
            (layer.attention.output.weight, (3 * 32) ** -0.5),
            (layer.feed_forward.gate_proj.weight, 128**-0.5),
            (layer.feed_forward.up_proj.weight, 128**-0.5),
            (layer.feed_forward.down_proj.weight, 300**-0.5),
        ):
            assert weight.std().item() == pytest.approx(factor * deviation, rel=0.06)
        assert (layer.attention_norm.weight == factor).all()


# --- The source


@every_variant
@every_class
def test_encoding_is_the_first_half_of_forward(name, variant):
    model: Any = build(name, variant)
    ids, mask = pad([random_ids(4), random_ids(2, 1)], model.config.pad_token_id)
    encoded = model.encode(ids, mask)
    assert encoded.attention_mask.dtype == torch.bool
    assert torch.equal(encoded.attention_mask, mask.bool())
    output = model(ids, mask, random_sequences(2, 3))
    assert_equal(encoded.last_hidden_state, output.encoder_last_hidden_state)
    assert encoded.hidden_states is encoded.attentions is None
    without_padding = model.encode(ids[:1])  # its mask is one all the same
    assert torch.equal(without_padding.attention_mask, torch.ones_like(ids[:1], dtype=torch.bool))


@every_variant
@every_seq2seq_lm
@torch.no_grad()
def test_the_keys_of_a_source_are_computed_once(name, variant):
    model = new(name, variant)
    encoded, cache = model.encode(random_sequences(2, 4)), model.new_cache()
    counts: list[int] = []
    for layer in model.backbone.decoder.layers:
        layer.cross_attention.key.register_forward_hook(lambda *_inputs: counts.append(1))
    ids = random_sequences(2, 1)
    for step in range(3):
        model.next_token_logits(ids, encoded, cache=cache)
        if step == 0:
            cache.select(torch.tensor([0, 0, 1, 1]))
            ids = random_sequences(4, 1)
    assert len(counts) == 3  # one for each layer
    assert all(len(layer.cross_attention.keys) == 2 for layer in cache.layers)
    assert all(len(layer.self_attention.keys) == 4 for layer in cache.layers)


@every_variant
@every_seq2seq_lm
def test_the_scores_of_the_next_token_are_those_of_the_last_position(name, variant):
    model: Any = build(name, variant)
    ids, mask = pad([random_ids(4), random_ids(2, 1)], model.config.pad_token_id, left=True)
    source = random_sequences(2, 5)
    logits = model.next_token_logits(ids, model.encode(source), decoder_attention_mask=mask)
    whole = model(source, decoder_input_ids=ids, decoder_attention_mask=mask).logits
    assert_equal(logits, whole[:, -1])


@every_variant
@every_class
def test_what_is_collected_has_its_own_field(name, variant):
    model: Any = build(name, variant)
    ids, target = random_sequences(2, 5), random_sequences(2, 3)
    output = model(ids, decoder_input_ids=target, output_hidden_states=True, output_attentions=True)
    sizes = FAMILIES[family_of(name)]
    heads = sizes["num_attention_heads"]
    decoder_heads = sizes.get("num_decoder_attention_heads", heads)
    assert [tuple(s.shape) for s in output.encoder_hidden_states] == [(2, 5, 12)] * 3
    assert [tuple(s.shape) for s in output.decoder_hidden_states] == [(2, 3, 12)] * 4
    assert [tuple(m.shape) for m in output.encoder_attentions] == [(2, heads, 5, 5)] * 2
    assert [tuple(m.shape) for m in output.decoder_attentions] == [(2, decoder_heads, 3, 3)] * 3
    assert [tuple(m.shape) for m in output.cross_attentions] == [(2, decoder_heads, 3, 5)] * 3
    assert_equal(output.encoder_hidden_states[-1], output.encoder_last_hidden_state)
    if hasattr(output, "last_hidden_state"):
        assert_equal(output.decoder_hidden_states[-1], output.last_hidden_state)
    bare = model(ids, decoder_input_ids=target)
    for field in ("encoder_hidden_states", "decoder_attentions", "cross_attentions"):
        assert getattr(bare, field) is None


# --- Losses


@every_variant
@every_seq2seq_lm
@pytest.mark.parametrize("left", [False, True])
def test_labels_are_read_shifted_right_behind_the_start_token(name, left, variant):
    model: Any = build(name, variant)
    start, padding = model.config.decoder_start_token_id, model.config.pad_token_id
    texts = [random_ids(4), random_ids(2, 1)]
    labels, _ = pad(texts, -100, left=left)
    shifted = [torch.cat([torch.tensor([start]), text[:-1]]) for text in texts]
    decoder_input_ids, mask = pad(shifted, padding, left=left)
    source = random_sequences(2, 5)
    implied = model(source, labels=labels)
    explicit = model(
        source, decoder_input_ids=decoder_input_ids, decoder_attention_mask=mask, labels=labels
    )
    real = mask.bool()
    assert_equal(implied.logits[real], explicit.logits[real])
    assert_equal(implied.loss, explicit.loss)
    losses = [
        -explicit.logits[sequence, position].log_softmax(-1)[labels[sequence, position]]
        for sequence, position in real.nonzero().tolist()
    ]
    assert_equal(implied.loss, sum(losses) / 6)
    assert implied.num_supervised_tokens == 6
    total, count = model.loss_sum(input_ids=source, labels=labels)
    assert_equal(total, sum(losses))
    assert count == model.num_supervised_tokens({"labels": labels}) == 6


@every_seq2seq_lm
def test_the_loss_reaches_every_parameter(name):
    model = build(name)
    ids, mask = pad([random_ids(5), random_ids(3, 1)], model.config.pad_token_id)
    loss = model(ids, mask, labels=random_sequences(2, 4)).loss
    names = [parameter for parameter, _ in model.named_parameters()]
    for parameter, gradient in zip(names, gradients(model, loss), strict=True):
        assert gradient.any(), parameter


# --- BART's classifier


def classifier(variant: str = "sdpa") -> Model:
    return build("BartForSequenceClassification", variant)


@every_variant
@pytest.mark.parametrize("left", [False, True])
def test_a_text_is_classified_by_the_decoder_at_its_last_end_token(left, variant):
    model: Any = classifier(variant)
    end = torch.tensor([2])
    texts = [
        torch.cat([random_ids(3), end, random_ids(2, 1), end]),  # a pair: two ends
        torch.cat([random_ids(1), end]),
        torch.cat([random_ids(4), end, random_ids(1, 1)]),  # something comes after the end
    ]
    ids, mask = pad(texts, 1, left=left)
    output = model(ids, mask)
    assert output.logits.shape == (3, 3)
    for text, logits in zip(texts, output.logits, strict=True):
        shifted = torch.cat([torch.tensor([2]), text[:-1]])[None]
        hidden = model.model(text[None], decoder_input_ids=shifted).last_hidden_state[0]
        end_of_text = (text == 2).nonzero().max()
        head = model.classification_head
        dense = torch.tanh(head.dense.weight @ hidden[end_of_text] + head.dense.bias)
        assert_equal(logits, head.output.weight @ dense + head.output.bias)


def test_the_classifier_collects_what_the_backbone_does():
    ids = torch.tensor([[5, 6, 2]])
    output: Any = classifier()(ids, output_attentions=True, output_hidden_states=True)
    assert len(output.cross_attentions) == len(output.decoder_attentions) == 3
    assert len(output.encoder_attentions) == 2
    assert len(output.decoder_hidden_states) == 4
    assert output.encoder_last_hidden_state.shape == (1, 3, 12)


@every_seq2seq_lm
@every_variant
@torch.no_grad()
def test_the_next_token_follows_the_last_real_one(name, variant):
    """Where the targets so far are padded on the right."""
    model: Any = build(name, variant)
    sources, ids = random_sequences(2, 5), random_sequences(2, 4, seed=3)
    mask = torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]])
    together = model.next_token_logits(ids, model.encode(sources), decoder_attention_mask=mask)
    alone = model.next_token_logits(ids[1:, :2], model.encode(sources[1:]))
    assert_equal(together[1:], alone)


# --- Dropout


@pytest.mark.parametrize(
    ("name", "field"),
    [
        ("BartForConditionalGeneration", "hidden_dropout_prob"),
        ("BartForConditionalGeneration", "attention_probs_dropout_prob"),
        ("BartForConditionalGeneration", "activation_dropout"),
        ("BartForSequenceClassification", "classifier_dropout"),
        ("T5ForConditionalGeneration", "hidden_dropout_prob"),
    ],
)
@every_variant
def test_each_dropout_follows_its_config_field(name, field, variant):
    model = new(name, variant, **{field: 0.5})
    ids = torch.tensor([[5, 6, 7, 2]])
    inputs = {"input_ids": ids}
    if name != "BartForSequenceClassification":
        inputs["decoder_input_ids"] = ids
    assert torch.equal(model(**inputs).logits, model(**inputs).logits)
    model.train()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    # In either stack, but for the classification head's.
    backbone, of_the_head = model.backbone, field == "classifier_dropout"
    encoded = [backbone.encode(ids) for _ in range(2)]
    decoded = [backbone.decode(ids, encoded[0]) for _ in range(2)]
    for first, second in (encoded, decoded):
        assert torch.equal(first.last_hidden_state, second.last_hidden_state) == of_the_head
    without = new(name, variant)
    assert torch.equal(without.train()(**inputs).logits, without.eval()(**inputs).logits)


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "T5ForConditionalGeneration"])
def test_an_optimized_decoder_computes_no_token_after_the_last_label(name, monkeypatch):
    """Labels padded on the right need no mask: a decoder does not attend to later tokens."""
    model, seen = new(name, "optimized"), []
    norm = model.backbone.decoder.layers[0].attention_norm
    forward = type(norm).forward

    def noted(self, x):  # in the class: with a hook, or another class, the plain forward would run
        if self is norm:
            seen.append(x.shape[:2])
        return forward(self, x)

    monkeypatch.setattr(type(norm), "forward", noted)
    labels = torch.tensor([[5, -100, 7, 8], [9, -100, -100, -100], [4, 5, 6, -100]])
    source = random_sequences(3, 5)
    loss = model.loss(input_ids=source, labels=labels)
    assert seen == [(1, 4 + 1 + 3)]
    torch.testing.assert_close(loss, build(name).loss(input_ids=source, labels=labels))
