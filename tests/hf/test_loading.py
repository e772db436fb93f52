"""Loading and saving checkpoints: a damaged one is one clear error before memory is allocated."""

import dataclasses
import json
import os
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from minitransformer import (
    BertModel,
    CheckpointError,
    RobertaForMaskedLM,
    RobertaModel,
    from_pretrained,
)
from minitransformer.hf.config import FAMILIES, config_from_fields, stated_fields
from tests.tiny import bert_config, perturb, roberta_config


@pytest.fixture
def saved(tmp_path) -> Path:
    """A complete RobertaForMaskedLM checkpoint."""
    perturb(RobertaForMaskedLM(roberta_config())).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def edit_config(directory: Path, **changes: object) -> None:
    path = directory / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


def edit_tensors(directory: Path, change) -> None:
    tensors = load_file(directory / "model.safetensors")
    save_file(change(tensors), directory / "model.safetensors", metadata={"format": "pt"})


def shard(directory: Path) -> dict[str, str]:
    """Split the weights into two files and an index; returns the index's map."""
    tensors = load_file(directory / "model.safetensors")
    (directory / "model.safetensors").unlink()
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for file, part in shards.items():
        save_file(
            {name: tensors[name] for name in part}, directory / file, metadata={"format": "pt"}
        )
    weight_map = {name: file for file, part in shards.items() for name in part}
    write_index(directory, weight_map)
    return weight_map


def write_index(directory: Path, weight_map: object) -> None:
    content = {"metadata": {"total_size": 1}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(content))


def equal(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


@pytest.mark.parametrize(
    ("model_class", "config"),
    [
        (RobertaForMaskedLM, roberta_config()),
        (RobertaModel, roberta_config()),
        (BertModel, bert_config()),
    ],
)
def test_round_trip(model_class, config, tmp_path):
    model = perturb(model_class(config))
    model.save_pretrained(tmp_path / "a" / "new" / "directory")
    again = from_pretrained(tmp_path / "a" / "new" / "directory")
    assert type(again) is model_class
    assert again.config == config
    assert equal(again, model)
    assert not again.training
    assert sorted(os.listdir(tmp_path / "a" / "new")) == ["directory"]  # no temporary one is left


def test_dtype_is_float32_by_default(saved):
    model = from_pretrained(saved).to(torch.float16)
    model.save_pretrained(saved)
    assert json.loads((saved / "config.json").read_text())["dtype"] == "float16"
    assert {p.dtype for p in from_pretrained(saved).parameters()} == {torch.float32}
    assert {p.dtype for p in from_pretrained(saved, dtype=torch.bfloat16).parameters()} == {
        torch.bfloat16
    }


def test_attention_is_chosen_at_loading(saved):
    assert from_pretrained(saved, attention="eager").attention == "eager"
    assert from_pretrained(saved).attention == "sdpa"


def test_tied_weights_are_stored_once(saved):
    names = load_file(saved / "model.safetensors").keys()
    assert not [name for name in names if "decoder" in name]


def test_other_files_of_the_directory_survive_a_save(saved):
    (saved / "tokenizer.json").write_text("{}")
    from_pretrained(saved).save_pretrained(saved)
    assert (saved / "tokenizer.json").read_text() == "{}"


def test_shards(saved):
    whole = from_pretrained(saved)
    shard(saved)
    assert equal(from_pretrained(saved), whole)


def test_old_names_and_buffers(saved):
    whole = from_pretrained(saved)

    def age(tensors):
        old = {
            name.replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): tensor
            for name, tensor in tensors.items()
        }
        old["roberta.embeddings.position_ids"] = torch.arange(20)[None]
        old["lm_head.decoder.weight"] = tensors["roberta.embeddings.word_embeddings.weight"].clone()
        old["lm_head.decoder.bias"] = old.pop("lm_head.bias")
        assert any("gamma" in name for name in old)
        return old

    edit_tensors(saved, age)
    assert equal(from_pretrained(saved), whole)


def test_missing_fields_have_hugging_face_s_defaults(saved):
    edit_config(saved, layer_norm_eps=...)
    assert from_pretrained(saved).config.layer_norm_eps == 1e-12


def config_of(content: dict[str, Any]) -> Any:
    """The config of a config.json."""
    family, path = FAMILIES[content["model_type"]], Path("config.json")
    stated = stated_fields(family.adjust(content, ()), family, path)
    return config_from_fields(stated, family, path, {})


@pytest.mark.parametrize("model_type", FAMILIES)
def test_a_config_without_fields_is_that_of_transformers(model_type):
    transformers = pytest.importorskip("transformers", reason="needs transformers' defaults")
    family, ours = FAMILIES[model_type], config_of({"model_type": model_type})
    theirs = transformers.AutoConfig.for_model(model_type)
    for field in dataclasses.fields(ours):
        if (model_type, field.name) == ("t5", "decoder_start_token_id"):
            continue  # transformers' T5Config has no such field
        value = getattr(theirs, family.config_names.get(field.name, field.name))
        assert getattr(ours, field.name) == value, field.name


@pytest.mark.parametrize(
    ("model_type", "names"),
    [
        ("distilbert", {"dropout": "hidden", "attention_dropout": "attention_probs"}),
        ("bart", {"dropout": "hidden", "attention_dropout": "attention_probs"}),
        (
            "gpt2",
            {"resid_pdrop": "hidden", "embd_pdrop": "embedding", "attn_pdrop": "attention_probs"},
        ),
    ],
)
def test_each_dropout_is_read_from_its_own_field(model_type, names):
    # By default all have the same probability, so swapped names would not show.
    values = {theirs: number / 10 for number, theirs in enumerate(names, start=2)}
    content = {"model_type": model_type, **values}
    config = config_of(content)
    read = {theirs: getattr(config, f"{ours}_dropout_prob") for theirs, ours in names.items()}
    assert read == values


def test_a_new_head_is_named_and_initialized(saved, monkeypatch):
    to_empty = torch.nn.Module.to_empty

    def to_poison(module, **settings):
        for parameter in to_empty(module, **settings).parameters():
            parameter.data.fill_(float("nan"))  # tensors that were not loaded are detected
        return module

    monkeypatch.setattr(torch.nn.Module, "to_empty", to_poison)
    edit_tensors(saved, lambda t: {n: v for n, v in t.items() if not n.startswith("lm_head")})
    edit_config(saved, architectures=["RobertaModel"])
    with pytest.warns(UserWarning, match="no matching lm_head: newly initialized"):
        model = RobertaForMaskedLM.from_pretrained(saved)
    assert all(p.isfinite().all() for p in model.parameters())
    assert torch.equal(model.lm_head.bias, torch.zeros(99))
    assert model.lm_head.dense.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_a_backbone_from_a_model_with_a_head(saved):
    with pytest.warns(UserWarning) as warned:
        model = RobertaModel.from_pretrained(saved)
    assert "pooler" in str(warned[0].message)
    assert "lm_head.dense.weight" in str(warned[1].message)
    whole = from_pretrained(saved)
    assert torch.equal(
        model.layers[0].attention.query.weight, whole.roberta.layers[0].attention.query.weight
    )


def test_a_head_that_is_missing_where_it_is_promised(saved):
    edit_tensors(saved, lambda t: {n: v for n, v in t.items() if not n.startswith("lm_head")})
    with pytest.raises(CheckpointError, match="no weights for lm_head"):
        from_pretrained(saved)


def test_half_a_head_is_damage(saved):
    edit_tensors(saved, lambda t: {n: v for n, v in t.items() if n != "lm_head.dense.bias"})
    edit_config(saved, architectures=["RobertaModel"])
    with pytest.raises(CheckpointError, match="missing .*lm_head.dense.bias"):
        RobertaForMaskedLM.from_pretrained(saved)


def remove(name):
    return lambda directory: edit_tensors(
        directory, lambda t: {n: v for n, v in t.items() if n != name}
    )


def add(name, tensor):
    return lambda directory: edit_tensors(directory, lambda t: {**t, name: tensor})


def truncate(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def header_too_long(directory):
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", 2**40) + b"{}")


def header_not_json(directory):
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", 4) + b"oops")


def empty_weights(directory):
    (directory / "model.safetensors").write_bytes(b"")


def config_is(text):
    return lambda directory: (directory / "config.json").write_text(text)


def pickle_instead(directory):
    (directory / "model.safetensors").rename(directory / "pytorch_model.bin")


def link_weights_out(directory):
    outside = directory.parent / "secret.safetensors"
    shutil.move(directory / "model.safetensors", outside)
    (directory / "model.safetensors").symlink_to(outside)


def link_config_out(directory):
    outside = directory.parent / "secret.json"
    shutil.move(directory / "config.json", outside)
    (directory / "config.json").symlink_to(outside)


def shard_at(place):
    def change(directory):
        weight_map = shard(directory)
        target = directory.parent / "secret.safetensors"
        shutil.copy(directory / "model-00001-of-00002.safetensors", target)
        name = next(iter(weight_map))
        write_index(directory, {**weight_map, name: place.format(parent=directory.parent)})

    return change


def index_lists_more(directory):
    write_index(directory, {**shard(directory), "roberta.more": "model-00001-of-00002.safetensors"})


def index_contradicts_shard(directory):
    weight_map = shard(directory)
    files = sorted(set(weight_map.values()))
    name = next(n for n, f in weight_map.items() if f == files[0])
    write_index(directory, {**weight_map, name: files[1]})


def index_lists_less(directory):
    weight_map = shard(directory)
    write_index(directory, dict(list(weight_map.items())[1:]))


def index_without_map(directory):
    shard(directory)
    write_index(directory, ["a"])


def config(**changes):
    return lambda directory: edit_config(directory, **changes)


DAMAGE = {
    "no config": (lambda d: (d / "config.json").unlink(), "config.json is missing"),
    "config not JSON": (config_is("{"), "config.json is not valid JSON"),
    "config a list": (config_is("[]"), r"config.json contains \[\]; it must be"),
    "config in Latin-1": (lambda d: (d / "config.json").write_bytes(b'{"\xe8": 1}'), "config.json"),
    "no model type": (
        config(model_type=..., architectures=...),
        "has no model_type.* by its class, .*RobertaForMaskedLM",
    ),
    "other model type": (config(model_type="roberto"), "'roberto'; did you mean 'roberta'"),
    "other architecture": (
        config(architectures=["RobertaForMaskedLm"]),
        "did you mean 'RobertaForMaskedLM'",
    ),
    "no architecture": (
        config(architectures=...),
        "names no architecture.*RobertaForMaskedLM.from_pre",
    ),
    "misspelled field": (
        config(hidden_size=..., hiden_size=32),
        "'hiden_size': did you mean 'hidden_size'",
    ),
    "relative positions": (
        config(position_embedding_type="relative_key"),
        "position_embedding_type=",
    ),
    "decoder": (config(is_decoder=True), "is_decoder=True"),
    "no untied head": (
        config(tie_word_embeddings=False),
        "lm_head.output.weight.*tie_word_embeddings=False needs a stored LM head",
    ),
    "negative size": (config(hidden_size=-8), "hidden_size=-8"),
    "size as text": (config(hidden_size="32"), "hidden_size='32'"),
    "NaN": (config(layer_norm_eps=float("nan")), "layer_norm_eps=nan"),
    "unknown activation": (config(hidden_act="os.system"), "hidden_act='os.system'"),
    "huge vocabulary": (
        config(vocab_size=10**9),
        r"has shape \(99,\), but the config needs \(1000000000,\)",
    ),
    "many layers": (config(num_hidden_layers=10**6), "num_hidden_layers=1000000, .* 3 layers"),
    "a layer far away": (
        lambda d: (
            add("roberta.encoder.layer.2999.x", torch.zeros(1))(d),
            edit_config(d, num_hidden_layers=3000),
        ),
        "num_hidden_layers=3000, .* 3 layers",
    ),
    "a layer beyond numbers": (
        add(f"roberta.encoder.layer.{'9' * 5000}.output.dense.bias", torch.zeros(1)),
        "unexpected .*roberta.encoder.layer.999",
    ),
    "a layer with a zero before": (
        add("roberta.encoder.layer.01.output.dense.bias", torch.zeros(1)),
        "unexpected .*layer.01",
    ),
    "model type a list": (config(model_type=["roberta"]), "unknown model_type"),
    "activation a list": (config(hidden_act=["gelu"]), "hidden_act="),
    "number of 5000 digits": (
        lambda d: (d / "config.json").write_text('{"vocab_size": ' + "9" * 5000 + "}"),
        "config.json is not valid JSON",
    ),
    "size beyond all": (config(vocab_size=10**30), "vocab_size=1000"),
    "sizes that overflow": (config(intermediate_size=2**31 - 1), "has shape"),
    "fewer layers": (config(num_hidden_layers=2), "num_hidden_layers=2, .* 3 layers"),
    "wider": (config(hidden_size=64), "has shape"),
    "more positions": (config(max_position_embeddings=30), "position_embeddings.weight has shape"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "index.json; add the weights"),
    "cut off": (truncate, "model.safetensors is not a complete safetensors file"),
    "header too long": (header_too_long, "model.safetensors is not a complete safetensors file"),
    "header not JSON": (header_not_json, "model.safetensors is not a complete safetensors file"),
    "empty": (empty_weights, "model.safetensors is not a complete safetensors file"),
    "missing tensor": (
        remove("roberta.encoder.layer.1.output.dense.bias"),
        "missing .*layers.1.feed_forward.down_proj.bias",
    ),
    "unexpected tensor": (
        add("roberta.extra.weight", torch.zeros(2)),
        "unexpected .*roberta.extra.weight",
    ),
    "odd name": (add("../../etc/passwd", torch.zeros(2)), "unexpected .*etc/passwd"),
    "integers": (
        add("lm_head.bias", torch.zeros(99, dtype=torch.int64)),
        "lm_head.bias has dtype I64",
    ),
    "untied in fact": (
        add("lm_head.decoder.weight", torch.zeros(99, 32)),
        "differs from the tensor that it is tied to",
    ),
    "pickle": (
        pickle_instead,
        "only pytorch_model.bin. Pickled .*convert them: python -c .*RobertaForMaskedLM",
    ),
    "weights by a link": (link_weights_out, "model.safetensors is a link that leads out"),
    "config by a link": (link_config_out, "config.json is a link that leads out"),
    "shard above": (shard_at("../secret.safetensors"), "not a plain file name"),
    "shard absolute": (shard_at("{parent}/secret.safetensors"), "not a plain file name"),
    "shard Windows": (shard_at("..\\secret.safetensors"), "not a plain file name"),
    "shard a pickle": (shard_at("pytorch_model.bin"), "which is not a .safetensors file"),
    "shard absent": (shard_at("model-3.safetensors"), "model-3.safetensors is missing"),
    "index lists more": (index_lists_more, "no shard has: .*roberta.more"),
    "index contradicts": (index_contradicts_shard, "says is in model-00002.*save the whole"),
    "index lists less": (index_lists_less, "index.json does not list; .*save the whole"),
    "index without a map": (index_without_map, "weight_map must map"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_one_clear_error(damage, saved):
    change, message = DAMAGE[damage]
    change(saved)
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(saved)


def test_nothing_of_a_claimed_size_is_allocated(saved, monkeypatch):
    edit_config(saved, vocab_size=10**9)
    monkeypatch.setattr(torch, "zeros_like", lambda *_a, **_k: pytest.fail("memory was taken"))
    monkeypatch.setattr(
        "minitransformer.hf.checkpoint.map_files", lambda *_a: pytest.fail("a tensor was read")
    )
    with pytest.raises(CheckpointError, match="has shape"):
        from_pretrained(saved)


def test_the_links_of_the_hubs_cache_are_followed(saved, tmp_path):
    blobs, snapshot = tmp_path / "repo" / "blobs", tmp_path / "repo" / "snapshots" / "abc"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for number, name in enumerate(["config.json", "model.safetensors"]):
        shutil.copy(saved / name, blobs / str(number))
        (snapshot / name).symlink_to(Path("../../blobs") / str(number))
    assert equal(from_pretrained(snapshot), from_pretrained(saved))


def test_the_wrong_family_and_the_wrong_path(saved, tmp_path):
    with pytest.raises(CheckpointError, match="'roberta', but a BertModel needs 'bert'"):
        BertModel.from_pretrained(saved)
    with pytest.raises(CheckpointError, match="nowhere"):
        from_pretrained(tmp_path / "nowhere")


def test_an_unknown_field_is_named_and_ignored(saved):
    edit_config(saved, adapters={"a": 1})
    with pytest.warns(UserWarning, match="'adapters' is unknown and ignored"):
        from_pretrained(saved)


def test_heads_of_other_tasks_are_named_and_left_out(tmp_path):
    perturb(BertModel(bert_config())).save_pretrained(tmp_path)
    add("cls.predictions.bias", torch.zeros(99))(tmp_path)
    with pytest.warns(UserWarning, match="no use for cls.predictions.bias"):
        BertModel.from_pretrained(tmp_path)


def test_a_save_that_fails_leaves_the_old_files(saved, monkeypatch):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    model = perturb(from_pretrained(saved))
    monkeypatch.setattr(
        "safetensors.torch.save_file", lambda *_a, **_k: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        model.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before
    assert os.listdir(saved.parent) == [saved.name]


def test_a_kill_between_two_files_leaves_no_mixture(saved, monkeypatch):
    model = RobertaForMaskedLM(roberta_config(layer_norm_eps=1e-3))
    replace, done = os.replace, []

    def replace_once(source, target):
        if done:
            raise KeyboardInterrupt
        done.append(Path(target).name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", replace_once)
    with pytest.raises(KeyboardInterrupt):
        model.save_pretrained(saved)
    assert done == ["model.safetensors"]
    with pytest.raises(CheckpointError, match="config.json is missing"):
        from_pretrained(saved)


def test_a_shell_command_in_a_config_is_not_passed_on(saved):
    edit_config(saved, architectures=["RobertaModel; import os; os.system('id') #"])
    pickle_instead(saved)
    with pytest.raises(CheckpointError) as error:
        RobertaForMaskedLM.from_pretrained(saved)
    assert "os.system" not in str(error.value)


def test_a_head_with_numbers_is_no_layer(tmp_path):
    perturb(BertModel(bert_config())).save_pretrained(tmp_path)
    add("classifier.12.weight", torch.zeros(2))(tmp_path)
    with pytest.warns(UserWarning, match="no use for classifier.12.weight"):
        BertModel.from_pretrained(tmp_path)


def test_saving_onto_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(NotADirectoryError, match="is a file"):
        RobertaForMaskedLM(roberta_config()).save_pretrained(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
