"""What is GPT-2's own: the wiring by hand, its scales, its head, its losses, its last token."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from minitransformer import GPT2Config, GPT2LMHeadModel
from tests.tiny import (
    GPT2_SIZES,
    THREE_CLASSES,
    assert_equal,
    build,
    every_variant,
    gradients,
    new,
    pad,
    random_ids,
    random_sequences,
)


def norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5) -> Tensor:
    deviation = x - x.mean(-1, keepdim=True)
    return deviation / (deviation.square().mean(-1, keepdim=True) + eps).sqrt() * weight + bias


def by_hand(model: GPT2LMHeadModel, ids: Tensor) -> Tensor:
    """The logits of one text, (T,), computed from the weights as in the paper."""
    config = model.config
    w = dict(model.transformer.state_dict())
    hidden = w["token_embedding.weight"][ids] + w["position_embedding.table.weight"][: len(ids)]
    size = config.hidden_size // config.num_attention_heads
    for number in range(config.num_hidden_layers):
        name = f"layers.{number}."
        x = norm(hidden, w[f"{name}attention_norm.weight"], w[f"{name}attention_norm.bias"])
        x = x @ w[f"{name}attention.query_key_value.weight"].T
        x = x + w[f"{name}attention.query_key_value.bias"]
        query, key, value = x.split(config.hidden_size, dim=-1)
        gathered = []
        for head in range(config.num_attention_heads):
            part = slice(head * size, head * size + size)
            scores = query[:, part] @ key[:, part].T
            if config.scale_attn_weights:
                scores = scores / math.sqrt(size)
            if config.scale_attn_by_inverse_layer_idx:
                scores = scores / (number + 1)
            weights = torch.zeros_like(scores)
            for t in range(len(ids)):
                weights[t, : t + 1] = scores[t, : t + 1].softmax(-1)
            gathered.append(weights @ value[:, part])
        x = torch.cat(gathered, dim=-1) @ w[f"{name}attention.output.weight"].T
        hidden = hidden + x + w[f"{name}attention.output.bias"]
        x = norm(hidden, w[f"{name}feed_forward_norm.weight"], w[f"{name}feed_forward_norm.bias"])
        x = x @ w[f"{name}feed_forward.up_proj.weight"].T + w[f"{name}feed_forward.up_proj.bias"]
        x = 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))
        x = x @ w[f"{name}feed_forward.down_proj.weight"].T
        hidden = hidden + x + w[f"{name}feed_forward.down_proj.bias"]
    hidden = norm(hidden, w["final_norm.weight"], w["final_norm.bias"])
    return hidden @ w["token_embedding.weight"].T


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("by_layer", [True, False])
@every_variant
@torch.no_grad()
def test_the_whole_model_by_hand(scaled, by_layer, variant):
    model = new(
        "GPT2LMHeadModel",
        variant,
        scale_attn_weights=scaled,
        scale_attn_by_inverse_layer_idx=by_layer,
        num_hidden_layers=3,
    )
    ids = random_ids(6)
    assert_equal(model(ids[None]).logits[0], by_hand(model, ids))


def test_the_hidden_states_end_with_the_last_norm():
    model = build("GPT2LMHeadModel")
    output = model(random_sequences(2, 4), output_hidden_states=True)
    assert len(output.hidden_states) == 3
    embedding = model.transformer.token_embedding.weight
    assert_equal(output.logits, output.hidden_states[-1] @ embedding.T)
    backbone = build("GPT2Model")
    output = backbone(random_sequences(2, 4), output_hidden_states=True)
    assert torch.equal(output.hidden_states[-1], output.last_hidden_state)
    assert not torch.allclose(output.hidden_states[-2], output.last_hidden_state)


def test_the_intermediate_size_defaults_to_four_times_the_hidden_size():
    widths = [
        GPT2LMHeadModel(GPT2Config(**GPT2_SIZES | {"intermediate_size": size}))
        .transformer.layers[0]
        .feed_forward.up_proj.out_features
        for size in (None, 17)
    ]
    assert widths == [4 * 12, 17]


def test_residual_projections_are_initialized_smaller_in_deeper_models():
    """ "Language Models are Unsupervised Multitask Learners", section 2.3: 1 / sqrt(2 L)."""
    sizes = {"hidden_size": 96, "intermediate_size": 384, "num_hidden_layers": 8}
    model = GPT2LMHeadModel(GPT2Config(**GPT2_SIZES | sizes)).transformer
    for layer in model.layers:
        for linear, deviation in (
            (layer.attention.output, 0.02 / 4),
            (layer.feed_forward.down_proj, 0.02 / 4),
            (layer.attention.query_key_value, 0.02),
            (layer.feed_forward.up_proj, 0.02),
        ):
            assert linear.weight.std().item() == pytest.approx(deviation, rel=0.05)
            assert not linear.bias.any()


def test_the_head_is_the_token_embedding():
    model = build("GPT2LMHeadModel")
    assert len(list(model.parameters())) == len(list(model.transformer.parameters()))
    assert "lm_head.weight" not in model.state_dict()


@every_variant
def test_the_loss_is_that_of_each_token_but_the_first_by_hand(variant):
    model = build("GPT2LMHeadModel", variant)
    ids, mask = pad([random_ids(4), random_ids(2, 1)], 0, left=True)
    labels = ids.masked_fill(mask == 0, -100)
    labels[0, 2] = -100
    output = model(ids, mask, labels)
    losses = [
        -output.logits[sequence, position].log_softmax(-1)[ids[sequence, position + 1]]
        for sequence, position in ((0, 0), (0, 2), (1, 2))
    ]
    assert output.num_supervised_tokens == 3
    assert_equal(output.loss, sum(losses) / 3)
    total, count = model.loss_sum(input_ids=ids, attention_mask=mask, labels=labels)
    assert_equal(total, sum(losses))
    assert count == model.num_supervised_tokens({"labels": labels, "attention_mask": mask}) == 3


@every_variant
def test_the_scores_of_the_next_token_are_those_of_the_last_position(variant):
    model = build("GPT2LMHeadModel", variant)
    ids, mask = pad([random_ids(4), random_ids(2, 1)], 0, left=True)
    logits = model.next_token_logits(ids, mask)
    assert logits.shape == (2, 31)
    assert_equal(logits, model(ids, mask).logits[:, -1])


@every_variant
def test_the_scores_of_the_next_token_alone_are_computed(variant, monkeypatch):
    model = new("GPT2LMHeadModel", variant)
    seen, logits = [], model.logits
    monkeypatch.setattr(model, "logits", lambda hidden: seen.append(hidden.shape) or logits(hidden))
    model.next_token_logits(random_sequences(2, 5))
    assert seen == [(2, 12)]


@every_variant
@pytest.mark.parametrize("left", [False, True])
def test_a_text_is_classified_by_its_last_token(left, variant):
    model = build("GPT2ForSequenceClassification", variant)
    texts = [random_ids(5), random_ids(2, 1), random_ids(4, 2)]
    ids, mask = pad(texts, 0, left=left)
    output = model(ids, mask, output_hidden_states=True)
    assert output.logits.shape == (3, len(THREE_CLASSES))
    for text, logits in zip(texts, output.logits, strict=True):
        hidden = model.transformer(text[None]).last_hidden_state[0, -1]
        assert_equal(logits, model.score.weight @ hidden)
    last = [int(real.nonzero().max()) for real in mask]
    assert_equal(output.logits, model.score(output.hidden_states[-1][range(3), last]))


def test_the_last_token_is_that_of_the_mask_whatever_its_id():
    """Hugging Face looks for the last id that is not the padding token's."""
    model = new("GPT2ForSequenceClassification", pad_token_id=2)
    text = torch.cat(
        [random_ids(3), torch.tensor([2])]
    )  # it ends with the end token, which pads too
    ids, mask = pad([text, random_ids(2)], 2)
    assert_equal(model(ids, mask).logits[:1], model(text[None], torch.ones(1, 4).long()).logits)
    without_end = model(text[None, :3], torch.ones(1, 3).long()).logits
    assert not torch.allclose(model(ids, mask).logits[:1], without_end)


def test_the_head_for_classes_has_no_bias_and_learns():
    model = build("GPT2ForSequenceClassification")
    assert [name for name, _ in model.score.named_parameters()] == ["weight"]
    loss = model(random_sequences(2, 3), labels=torch.tensor([0, 2])).loss
    assert any(gradient.any() for gradient in gradients(model.score, loss))
    logits = model(random_sequences(2, 3)).logits
    assert_equal(loss, F.cross_entropy(logits, torch.tensor([0, 2])))


def test_as_many_tokens_fit_as_there_are_positions():
    model = build("GPT2LMHeadModel")
    assert model.config.max_sequence_length == 24
    assert model(random_sequences(1, 24)).logits.shape == (1, 24, 31)


def test_the_defaults_are_those_of_gpt2():
    config = GPT2Config()
    assert (config.num_hidden_layers, config.num_attention_heads, config.hidden_size) == (
        12,
        12,
        768,
    )
    assert config.eos_token_id == config.bos_token_id == 50_256
    assert config.pad_token_id is None
    assert config.num_labels == 2
    assert dataclasses.replace(config, num_hidden_layers=6).num_hidden_layers == 6


def test_generation_begins_with_the_tokens_of_the_config():
    config = build("GPT2LMHeadModel").generation_config
    assert (config.bos_token_id, config.eos_token_id, config.pad_token_id) == (2, 2, None)
    assert config.max_new_tokens is None


@every_variant
def test_each_dropout_follows_its_config_field(variant):
    for field in (
        "hidden_dropout_prob",
        "embedding_dropout_prob",
        "attention_probs_dropout_prob",
    ):
        model = new("GPT2LMHeadModel", variant, **{field: 0.5})
        ids = random_sequences(1, 4)
        assert torch.equal(model(ids).logits, model(ids).logits)
        model.train()
        assert not torch.equal(model(ids).logits, model(ids).logits), field


@every_variant
def test_what_comes_next_is_read_off_the_last_real_token(variant):
    model = build("GPT2LMHeadModel", variant)
    ids = torch.tensor([[5, 6, 7, 8]])
    padded = torch.tensor([[5, 6, 7, 8, 0, 0]])
    expected = model.next_token_logits(ids)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    torch.testing.assert_close(model.next_token_logits(padded, mask), expected)
    left = model.next_token_logits(padded.roll(2, dims=1), mask.roll(2, dims=1))
    torch.testing.assert_close(left, expected)


def test_labels_and_a_cache_do_not_go_together():
    model = build("GPT2LMHeadModel")
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad(), pytest.raises(ValueError, match="labels need whole sequences"):
        model(ids, labels=ids, cache=model.new_cache())
