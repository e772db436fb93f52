"""Checkpoints of decoders, in and out: old layouts, both forms of T5 1.1, what is damaged."""

import ast
import copy
import functools
import json
import os
import tempfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from minitransformer import CheckpointError, from_pretrained
from minitransformer.generation_config import GenerationConfig
from minitransformer.layers.positional_embeddings import SinusoidalPositions, sinusoids
from minitransformer.models.gpt2 import GPT2LMHeadModel, GPT2Model
from minitransformer.models.marian import MarianMTModel
from tests.hf.test_loading import edit_config, edit_tensors, equal, shard
from tests.tiny import DECODER_CLASSES, LANGUAGE_MODELS, SEQ2SEQ, new, random_sequences

pytestmark = pytest.mark.filterwarnings("error")  # a warning is either expected or wrong
Tensors = dict[str, Tensor]


@functools.cache
def checkpoint(
    name: str, changes: tuple[tuple[str, str], ...] = ()
) -> tuple[Any, dict[str, bytes]]:
    """A perturbed float32 model, and the files of its checkpoint.

    Args:
        name: of the class.
        changes: fields of its config, with their values.
    """
    model = new(name, **{field: ast.literal_eval(value) for field, value in changes}).float()
    for module in model.modules():
        if isinstance(module, SinusoidalPositions):
            module.fill()  # as they are, not as they were rounded to float64 and back
    with tempfile.TemporaryDirectory() as directory:
        model.save_pretrained(directory)
        return model, {path.name: path.read_bytes() for path in Path(directory).iterdir()}


def save(name: str, directory: Path, **changes: object) -> Any:
    """Put a checkpoint there, and give a model that is equal to it."""
    fixed = tuple((field, repr(value)) for field, value in changes.items())
    model, files = checkpoint(name, fixed)
    directory.mkdir(parents=True, exist_ok=True)
    for file, content in files.items():
        (directory / file).write_bytes(content)
    return copy.deepcopy(model)


def stored(directory: Path) -> Tensors:
    return load_file(directory / "model.safetensors")


def renamed(change: Any) -> Any:
    """An edit of tensors by their names; a new name of None leaves one out."""
    return lambda tensors: {
        new_name: values for name, values in tensors.items() if (new_name := change(name))
    }


def added(**more: Tensor) -> Any:
    """An edit that adds tensors; their names have __ instead of dots."""
    return lambda tensors: {
        **tensors,
        **{name.replace("__", "."): values for name, values in more.items()},
    }


def poison(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is allocated full of NaN, so that tensors that were not loaded are detected."""
    to_empty = torch.nn.Module.to_empty

    def to_poison(module: torch.nn.Module, **settings: Any) -> torch.nn.Module:
        module = to_empty(module, **settings)
        for values in [*module.parameters(), *module.buffers()]:
            values.data.fill_(float("nan"))
        return module

    monkeypatch.setattr(torch.nn.Module, "to_empty", to_poison)


# --- Out and in again


@pytest.mark.parametrize("name", DECODER_CLASSES)
def test_round_trip(name, tmp_path, monkeypatch):
    model = save(name, tmp_path / "model")
    poison(monkeypatch)
    again = from_pretrained(tmp_path / "model")
    assert type(again) is type(model)
    assert again.config == model.config
    assert equal(again, model)
    for ours, theirs in zip(again.buffers(), model.buffers(), strict=True):
        assert torch.equal(ours, theirs)  # those too that are not stored
    files = {"config.json", "model.safetensors"}
    files |= {"generation_config.json"} if name in LANGUAGE_MODELS else set()
    assert {*os.listdir(tmp_path / "model")} == files
    again.save_pretrained(tmp_path / "again")
    for file in files:
        assert (tmp_path / "again" / file).read_bytes() == (tmp_path / "model" / file).read_bytes()


@pytest.mark.parametrize(
    ("name", "names"),
    [
        ("GPT2Model", {"wte.weight", "h.1.attn.c_attn.weight", "ln_f.bias"}),
        ("GPT2LMHeadModel", {"transformer.wte.weight", "transformer.h.0.mlp.c_proj.bias"}),
        ("GPT2ForSequenceClassification", {"transformer.wpe.weight", "score.weight"}),
        ("BartModel", {"shared.weight", "encoder.embed_positions.weight"}),
        ("BartForConditionalGeneration", {"model.shared.weight", "final_logits_bias"}),
        ("BartForSequenceClassification", {"classification_head.out_proj.bias"}),
        ("MarianMTModel", {"model.shared.weight", "final_logits_bias"}),
        ("T5Model", {"shared.weight", "decoder.block.2.layer.2.DenseReluDense.wi.weight"}),
        (
            "T5ForConditionalGeneration 1.1",
            {"lm_head.weight", "encoder.block.1.layer.1.DenseReluDense.wi_0.weight"},
        ),
    ],
)
def test_the_names_of_saved_tensors(name, names, tmp_path):
    save(name, tmp_path)
    written = stored(tmp_path)
    assert names <= {*written}
    tied = {n for n in written if "embed_tokens" in n or n == "lm_head.weight"}
    assert tied == ({"lm_head.weight"} if name == "T5ForConditionalGeneration 1.1" else set())
    assert not [n for n in written if "embed_positions" in n and "Marian" in name]


def test_gpt2_s_matrices_are_stored_the_other_way_round(tmp_path):
    model = save("GPT2Model", tmp_path)
    written = stored(tmp_path)
    for theirs, ours in (
        ("attn.c_attn", model.layers[1].attention.query_key_value),
        ("attn.c_proj", model.layers[1].attention.output),
        ("mlp.c_fc", model.layers[1].feed_forward.up_proj),
        ("mlp.c_proj", model.layers[1].feed_forward.down_proj),
    ):
        assert torch.equal(written[f"h.1.{theirs}.weight"], ours.weight.T)
    assert torch.equal(written["wte.weight"], model.token_embedding.weight)


@pytest.mark.parametrize(
    "name", ["GPT2LMHeadModel", "T5ForConditionalGeneration 1.1", "BartForConditionalGeneration"]
)
def test_a_save_that_fails_leaves_the_old_files(name, tmp_path, monkeypatch):
    save(name, tmp_path / "model")
    before = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    model: Any = new(name, vocab_size=77)
    monkeypatch.setattr(
        "minitransformer.hf.checkpoint.write_generation_config",
        lambda *_arguments: (_ for _ in ()).throw(OSError("disk full")),
    )
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(tmp_path / "model")
    assert {p.name: p.read_bytes() for p in (tmp_path / "model").iterdir()} == before
    assert os.listdir(tmp_path) == ["model"]


def test_a_kill_between_two_files_leaves_no_mixture(tmp_path, monkeypatch):
    save("GPT2LMHeadModel", tmp_path)
    model, done, replace = new("GPT2LMHeadModel", layer_norm_eps=1e-3), [], os.replace

    def replace_once(source: Any, target: Any) -> None:
        if done:
            raise KeyboardInterrupt
        done.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_once)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(tmp_path)
    assert done != ["config.json"]
    with pytest.raises(CheckpointError, match="config.json is missing"):
        from_pretrained(tmp_path)


# --- Old layouts


def test_the_real_gpt2_has_no_prefix_and_stores_its_masks(tmp_path):
    model = save("GPT2LMHeadModel", tmp_path)
    edit_tensors(tmp_path, renamed(lambda name: name.removeprefix("transformer.")))
    masks: Tensors = {}
    for layer in range(2):
        masks[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 24, 24).tril().to(torch.uint8)
        masks[f"h.{layer}.attn.masked_bias"] = torch.tensor(-10_000.0)
    edit_tensors(tmp_path, lambda tensors: {**tensors, **masks})
    assert equal(from_pretrained(tmp_path), model)
    assert equal(GPT2Model.from_pretrained(tmp_path), model.transformer)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "table"),
    [
        ("GPT2LMHeadModel", "transformer.wte.weight"),
        ("BartForConditionalGeneration", "model.shared.weight"),
        ("MarianMTModel", "model.shared.weight"),
        ("T5ForConditionalGeneration", "shared.weight"),
    ],
)
def test_a_tied_head_may_be_stored_again_but_must_be_the_same(name, table, tmp_path):
    model = save(name, tmp_path)
    edit_tensors(tmp_path, lambda t: {**t, "lm_head.weight": t[table].clone()})
    assert equal(from_pretrained(tmp_path), model)
    # A stored head without the embedding is enough.
    both = stored(tmp_path)
    edit_tensors(tmp_path, lambda t: {n: v for n, v in t.items() if n != table})
    assert equal(from_pretrained(tmp_path), model)
    save_file(both, tmp_path / "model.safetensors")
    edit_tensors(tmp_path, lambda t: {**t, "lm_head.weight": t[table] + 1})
    with pytest.raises(CheckpointError, match="differs from the tensor that it is tied to"):
        from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SEQ2SEQ if not name.endswith(" 1.1")])
def test_the_token_embedding_of_the_stacks_may_be_stored_again_but_must_be_the_same(name, tmp_path):
    model = save(name, tmp_path)
    (shared,) = [stored_name for stored_name in stored(tmp_path) if "shared" in stored_name]
    prefix = shared.removesuffix("shared.weight")

    def copies(tensors: Tensors, more: float = 0) -> Tensors:
        table = tensors[shared]
        return {
            **tensors,
            f"{prefix}encoder.embed_tokens.weight": table.clone(),
            f"{prefix}decoder.embed_tokens.weight": table + more,
        }

    edit_tensors(tmp_path, copies)
    assert equal(from_pretrained(tmp_path), model)
    edit_tensors(tmp_path, lambda tensors: copies(tensors, 0.5))
    with pytest.raises(CheckpointError, match="embed_tokens.weight differs|shared.weight differs"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["BartForConditionalGeneration", "MarianMTModel"])
def test_no_bias_of_the_scores_is_one_of_zeros(name, tmp_path, monkeypatch):
    model = save(name, tmp_path)
    edit_tensors(tmp_path, renamed(lambda n: None if n == "final_logits_bias" else n))
    poison(monkeypatch)
    again: Any = from_pretrained(tmp_path)
    assert torch.equal(again.final_logits_bias, torch.zeros(1, 31))
    model.final_logits_bias.zero_()
    assert equal(again, model)


def test_sinusoids_that_are_stored_are_not_read(tmp_path):
    model = save("MarianMTModel", tmp_path)
    edit_tensors(
        tmp_path,
        added(
            model__encoder__embed_positions__weight=torch.full((24, 12), 7.0),
            model__decoder__embed_positions__weight=torch.full((512, 12), 7.0),
        ),
    )
    again: Any = from_pretrained(tmp_path)
    assert equal(again, model)
    assert torch.equal(again.model.encoder.position_embedding.table, sinusoids(24, 12).float())


@pytest.mark.parametrize(
    ("dtype", "error"), [(torch.float32, 1e-5), (torch.float64, 1e-12), (torch.bfloat16, 0.05)]
)
def test_sinusoids_are_right_in_every_dtype(dtype, error, tmp_path, monkeypatch):
    exact = save("MarianMTModel", tmp_path).double()
    poison(monkeypatch)
    model: Any = from_pretrained(tmp_path, dtype=dtype)
    expected = sinusoids(24, 12).float().to(dtype)
    for stack in (model.model.encoder, model.model.decoder):
        assert stack.position_embedding.table.dtype == dtype
        assert torch.equal(stack.position_embedding.table, expected)
    assert {p.dtype for p in model.parameters()} == {dtype}
    assert model.final_logits_bias.dtype == dtype
    batch = {"input_ids": random_sequences(1, 3), "labels": random_sequences(1, 2)}
    found, right = model(**batch).logits.double(), exact(**batch).logits
    assert (found - right).norm() < error * right.norm()


@pytest.mark.slow
def test_swish_is_what_the_opus_checkpoints_call_it(tmp_path):
    save("MarianMTModel", tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["activation_function"] == "swish"
    again = from_pretrained(tmp_path)
    assert again.config.hidden_act == "swish"
    edit_config(tmp_path, activation_function="silu")
    inputs = {"input_ids": random_sequences(1, 4), "labels": random_sequences(1, 3)}
    assert torch.equal(from_pretrained(tmp_path)(**inputs).logits, again(**inputs).logits)


@pytest.mark.parametrize("name", ["T5Model", "T5ForConditionalGeneration"])
def test_t5_does_not_fit_float16(name, tmp_path):
    save(name, tmp_path)
    with pytest.raises(ValueError, match=f"a {name} overflows in it; .*torch.bfloat16"):
        from_pretrained(tmp_path, dtype=torch.float16)


def test_what_fairseq_left_in_the_first_barts_is_left_out(tmp_path):
    model = save("BartForConditionalGeneration", tmp_path)
    versions = {f"model__{stack}__version": torch.ones(1) for stack in ("encoder", "decoder")}
    edit_tensors(tmp_path, added(**versions))
    assert equal(from_pretrained(tmp_path), model)


def test_the_bias_of_cross_attention_in_the_first_t5_checkpoints_is_left_out(tmp_path):
    model = save("T5ForConditionalGeneration", tmp_path)
    name = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    edit_tensors(tmp_path, lambda tensors: {**tensors, name: torch.ones(6, 3)})
    assert equal(from_pretrained(tmp_path), model)


@pytest.mark.slow
def test_shards_with_copies_in_both(tmp_path):
    model = save("T5ForConditionalGeneration", tmp_path)
    edit_tensors(
        tmp_path,
        lambda t: {
            **t,
            "lm_head.weight": t["shared.weight"].clone(),
            "encoder.embed_tokens.weight": t["shared.weight"].clone(),
        },
    )
    shard(tmp_path)
    assert equal(from_pretrained(tmp_path), model)


# --- T5's two versions


def test_t5_1_1_in_its_old_form(tmp_path):
    """One field meant both: the head is not tied, and the decoder's output is not scaled."""
    model = save("T5ForConditionalGeneration 1.1", tmp_path)
    edit_config(tmp_path, tie_word_embeddings=False, scale_decoder_outputs=...)
    again = from_pretrained(tmp_path)
    assert equal(again, model)
    assert again.config == model.config


def test_t5_1_1_in_its_new_form(tmp_path):
    """Transformers 5 always saves that the token embedding is tied."""
    model = save("T5ForConditionalGeneration 1.1", tmp_path)
    edit_config(tmp_path, tie_word_embeddings=True, scale_decoder_outputs=False)
    again = from_pretrained(tmp_path)
    assert equal(again, model)
    assert again.config == model.config


def test_a_tied_head_may_be_unscaled(tmp_path):
    """In the new form, the head is untied only if it is stored."""
    model = save("T5ForConditionalGeneration", tmp_path, scale_decoder_outputs=False)
    again = from_pretrained(tmp_path)
    assert equal(again, model)
    assert again.config == model.config


def test_t5_1_0_has_neither_field(tmp_path):
    model = save("T5ForConditionalGeneration", tmp_path)
    edit_config(tmp_path, tie_word_embeddings=..., scale_decoder_outputs=...)
    assert from_pretrained(tmp_path).config == model.config
    edit_config(tmp_path, tie_word_embeddings=True, num_decoder_layers=None, num_layers=2)
    with pytest.raises(CheckpointError, match="num_decoder_layers=2, .* 3 layers"):
        from_pretrained(tmp_path)


def test_t5_1_1_without_its_head_is_damage_and_without_gates_too(tmp_path):
    save("T5ForConditionalGeneration 1.1", tmp_path)
    whole = stored(tmp_path)
    edit_tensors(tmp_path, renamed(lambda n: None if n == "lm_head.weight" else n))
    with pytest.raises(CheckpointError, match="no weights for lm_head"):
        from_pretrained(tmp_path)
    save_file(whole, tmp_path / "model.safetensors")
    edit_config(tmp_path, feed_forward_proj="relu")
    with pytest.raises(CheckpointError, match=r"missing .*up_proj.weight.* unexpected .*wi_0"):
        from_pretrained(tmp_path)


@pytest.mark.slow
def test_transformers_own_t5_1_1(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the reference is not installed")
    config = transformers.T5Config(
        vocab_size=31,
        d_model=12,
        d_kv=5,
        d_ff=17,
        num_layers=2,
        num_decoder_layers=3,
        num_heads=3,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    theirs = transformers.T5ForConditionalGeneration(config).eval()
    theirs.save_pretrained(tmp_path)
    model: Any = from_pretrained(tmp_path, dtype=torch.float32)
    assert model.config.scale_decoder_outputs is False
    source, target = random_sequences(2, 5), random_sequences(2, 4)
    with torch.no_grad():
        expected = theirs(input_ids=source, decoder_input_ids=target).logits
        logits = model(source, decoder_input_ids=target).logits
    torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)


# --- Damage


@pytest.mark.parametrize(
    ("matrix", "shape"),
    [
        ("h.1.attn.c_attn.weight", r"\(12, 36\)"),
        ("h.0.mlp.c_fc.weight", r"\(12, 17\)"),
        ("h.0.mlp.c_proj.weight", r"\(17, 12\)"),
    ],
)
def test_a_transposed_matrix_is_an_error_that_names_both_shapes(matrix, shape, tmp_path):
    save("GPT2LMHeadModel", tmp_path)
    name = f"transformer.{matrix}"
    edit_tensors(tmp_path, lambda t: {**t, name: t[name].T.contiguous()})
    with pytest.raises(CheckpointError, match=rf"{name} has shape .*but the config needs {shape}"):
        from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("name", "layer", "message"),
    [
        ("GPT2LMHeadModel", "transformer.h.1.", "n_layer=2, .* 1 layers"),
        ("BartModel", "encoder.layers.1.", "encoder_layers=2, .* 1 layers"),
        ("BartModel", "decoder.layers.2.", "decoder_layers=3, .* 2 layers"),
        ("MarianMTModel", "model.decoder.layers.0.", "decoder_layers=3, .* 2 layers"),
        ("T5Model", "encoder.block.1.", "num_layers=2, .* 1 layers"),
        ("T5ForConditionalGeneration 1.1", "decoder.block.2.", "num_decoder_layers=3, .* 2 layers"),
    ],
)
def test_a_layer_that_is_missing_in_one_stack(name, layer, message, tmp_path):
    save(name, tmp_path)
    edit_tensors(tmp_path, renamed(lambda n: None if n.startswith(layer) else n))
    with pytest.raises(CheckpointError, match=f": {message}"):
        from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("GPT2LMHeadModel", "transformer.wpe.weight"),
        ("GPT2LMHeadModel", "transformer.h.0.attn.c_attn.bias"),
        ("BartForConditionalGeneration", "model.decoder.layers.1.encoder_attn.k_proj.bias"),
        ("BartForConditionalGeneration", "model.shared.weight"),
        ("MarianMTModel", "model.encoder.layers.0.fc2.weight"),
        ("T5Model", "decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("T5Model", "decoder.final_layer_norm.weight"),
    ],
)
def test_a_tensor_that_is_missing(name, tensor, tmp_path):
    save(name, tmp_path)
    assert tensor in stored(tmp_path)
    edit_tensors(tmp_path, renamed(lambda n: None if n == tensor else n))
    with pytest.raises(CheckpointError, match="missing .*unexpected \\[\\]"):
        from_pretrained(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("GPT2LMHeadModel", "transformer.h.0.crossattention.c_attn.weight"),
        ("BartForConditionalGeneration", "model.encoder.layer_norm.weight"),
        ("MarianMTModel", "model.encoder.layernorm_embedding.weight"),
        ("T5Model", "decoder.block.1.layer.0.SelfAttention.relative_attention_bias.weight"),
        ("T5Model", "encoder.block.0.layer.0.SelfAttention.q.bias"),
    ],
)
def test_a_tensor_that_is_unknown(name, tensor, tmp_path):
    save(name, tmp_path)
    edit_tensors(tmp_path, lambda tensors: {**tensors, tensor: torch.ones(12)})
    with pytest.raises(CheckpointError, match=f"unexpected .*{tensor}"):
        from_pretrained(tmp_path)


def test_barts_positions_have_two_more_rows_than_in_the_config(tmp_path):
    save("BartModel", tmp_path)
    assert stored(tmp_path)["encoder.embed_positions.weight"].shape == (26, 12)
    edit_config(tmp_path, max_position_embeddings=26)
    with pytest.raises(CheckpointError, match=r"has shape \(26, 12\), .* \(28, 12\)"):
        from_pretrained(tmp_path)


def test_the_wrong_family(tmp_path):
    save("BartForConditionalGeneration", tmp_path)
    with pytest.raises(CheckpointError, match="'bart', but a MarianMTModel needs 'marian'"):
        MarianMTModel.from_pretrained(tmp_path)


# --- generation_config.json


@pytest.mark.slow
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_the_generation_config_is_loaded_and_saved_with_the_model(name, tmp_path):
    model = save(name, tmp_path)
    assert from_pretrained(tmp_path).generation_config == model.generation_config
    model.generation_config = GenerationConfig(
        max_new_tokens=7,
        num_beams=3,
        length_penalty=0.5,
        bad_words_ids=((5, 6), (7,)),
        eos_token_id=(1, 2),
        early_stopping="never",
        pad_token_id=0,
        forced_bos_token_id=4,
    )
    model.save_pretrained(tmp_path)
    assert from_pretrained(tmp_path).generation_config == model.generation_config


def test_a_token_that_is_changed_at_loading_is_changed_in_the_generation_config_too(tmp_path):
    save("GPT2LMHeadModel", tmp_path)
    model = GPT2LMHeadModel.from_pretrained(tmp_path, pad_token_id=0)
    assert model.config.pad_token_id == model.generation_config.pad_token_id == 0
    assert model.generation_config.eos_token_id == 2


def test_the_file_overrides_config_json(tmp_path):
    save("BartForConditionalGeneration", tmp_path)
    edit_config(tmp_path, num_beams=4, max_length=99)
    (tmp_path / "generation_config.json").write_text('{"num_beams": 2, "eos_token_id": 2}')
    config: GenerationConfig = from_pretrained(tmp_path).generation_config
    assert (config.num_beams, config.max_length, config.eos_token_id) == (2, None, 2)
    (tmp_path / "generation_config.json").unlink()
    config = from_pretrained(tmp_path).generation_config
    assert (config.num_beams, config.max_length, config.eos_token_id) == (4, 99, 2)


def test_every_file_of_a_checkpoint_is_requested_from_the_hub(tmp_path, monkeypatch):
    save("GPT2LMHeadModel", tmp_path)
    requested = []

    def resolve(path, patterns, revision=None):
        requested.append(patterns)
        return path

    monkeypatch.setattr("minitransformer.hf.checkpoint.resolve_checkpoint", resolve)
    from_pretrained(tmp_path)
    (patterns,) = requested
    files = [*os.listdir(tmp_path), "model.safetensors.index.json", "model-00001-of-2.safetensors"]
    assert "generation_config.json" in files
    assert [f for f in files if not any(fnmatch(f, pattern) for pattern in patterns)] == []


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "generation_config.json is not valid JSON"),
        ("[]", r"generation_config.json contains \[\]; it must be a JSON object"),
        ('{"num_beams": 0}', "generation_config.json: num_beams=0"),
        ('{"num_beam": 2}', "unknown field 'num_beam': did you mean 'num_beams'"),
        ('{"penalty_alpha": 0.6}', "penalty_alpha=0.6 .*not supported"),
    ],
)
def test_a_broken_generation_config_is_one_clear_error(content, message, tmp_path):
    save("GPT2LMHeadModel", tmp_path)
    (tmp_path / "generation_config.json").write_text(content)
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(tmp_path)


def test_the_generation_config_is_read_before_memory_is_taken(tmp_path, monkeypatch):
    save("GPT2LMHeadModel", tmp_path)
    (tmp_path / "generation_config.json").write_text('{"num_beams": 0}')
    monkeypatch.setattr(torch.nn.Module, "to_empty", lambda *_a, **_n: pytest.fail("too late"))
    with pytest.raises(CheckpointError, match="num_beams"):
        from_pretrained(tmp_path)


def test_a_generation_config_that_leads_out_is_refused(tmp_path):
    save("GPT2LMHeadModel", tmp_path / "model")
    path = tmp_path / "model" / "generation_config.json"
    path.rename(tmp_path / "secret.json")
    path.symlink_to(tmp_path / "secret.json")
    with pytest.raises(CheckpointError, match="leads out of its directory"):
        from_pretrained(tmp_path / "model")
