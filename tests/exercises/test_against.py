"""A model of one's own beside the reference: the first module that differs, and the mistake."""

import json
from pathlib import Path

import pytest
import torch

from minitransformer.cli import main
from minitransformer.exercises.against import compare_with_file
from tests import tiny

OWN_STRUCTURE = Path(__file__).parent / "solutions/roberta_for_masked_lm/own_structure.py"

STUDENT = """
import math

import torch
import torch.nn.functional as F
from torch import nn


class Embeddings(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.word_embeddings = nn.Embedding(c.vocab_size, c.hidden_size)
        self.position_embeddings = nn.Embedding(c.max_position_embeddings, c.hidden_size)
        self.token_type_embeddings = nn.Embedding(c.type_vocab_size, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)
        self.pad = c.pad_token_id

    def forward(self, ids, real):
        positions = real.cumsum(1) * real + self.pad
        x = self.word_embeddings(ids) + self.position_embeddings(positions)
        return self.LayerNorm(x + self.token_type_embeddings(torch.zeros_like(ids)))


class SelfAttention(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.heads = c.num_attention_heads
        self.query, self.key, self.value = (
            nn.Linear(c.hidden_size, c.hidden_size) for _ in range(3)
        )

    def forward(self, x, real):
        b, t, e = x.shape
        split = lambda y: y.view(b, t, self.heads, -1).transpose(1, 2)
        q, k, v = split(self.query(x)), split(self.key(x)), split(self.value(x))
        scores = q @ k.mT / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(real[:, None, None] == 0, -math.inf)
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, t, e)


class AddAndNorm(nn.Module):
    def __init__(self, size, c):
        super().__init__()
        self.dense = nn.Linear(size, c.hidden_size)
        self.LayerNorm = nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps)

    def forward(self, x, residual):
        return self.LayerNorm(self.dense(x) + residual)


class Layer(nn.Module):
    def __init__(self, c):
        super().__init__()
        output = AddAndNorm(c.hidden_size, c)
        self.attention = nn.ModuleDict({"self": SelfAttention(c), "output": output})
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(c.hidden_size, c.intermediate_size)})
        self.output = AddAndNorm(c.intermediate_size, c)

    def forward(self, x, real):
        x = self.attention["output"](self.attention["self"](x, real), x)
        return self.output(F.gelu(self.intermediate["dense"](x)), x)


class Roberta(nn.Module):
    def __init__(self, c):
        super().__init__()
        self.roberta = nn.ModuleDict({
            "embeddings": Embeddings(c),
            "encoder": nn.ModuleDict({
                "layer": nn.ModuleList(Layer(c) for _ in range(c.num_hidden_layers))
            }),
        })
        self.lm_head = nn.ModuleDict({
            "dense": nn.Linear(c.hidden_size, c.hidden_size),
            "layer_norm": nn.LayerNorm(c.hidden_size, eps=c.layer_norm_eps),
        })
        self.lm_head.register_parameter("bias", nn.Parameter(torch.zeros(c.vocab_size)))

    def forward(self, input_ids, attention_mask):
        x = self.roberta["embeddings"](input_ids, attention_mask)
        for layer in self.roberta["encoder"]["layer"]:
            x = layer(x, attention_mask)
        x = self.lm_head["layer_norm"](F.gelu(self.lm_head["dense"](x)))
        weight = self.roberta["embeddings"].word_embeddings.weight
        return F.linear(x, weight, self.lm_head.bias)
"""


GPT2 = """
import math

import torch
import torch.nn.functional as F
from torch import nn


class Stored(nn.Module):
    def __init__(self, i, o):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(i, o))
        self.bias = nn.Parameter(torch.zeros(o))

    def forward(self, x):
        return x @ self.weight + self.bias


def part(**modules):
    return nn.ModuleDict(modules)


class Block(nn.Module):
    def __init__(self, c):
        super().__init__()
        e, i = c.hidden_size, c.intermediate_size or 4 * c.hidden_size
        self.heads = c.num_attention_heads
        self.ln_1, self.ln_2 = (nn.LayerNorm(e, eps=c.layer_norm_eps) for _ in range(2))
        self.attn = part(c_attn={conv}(e, 3 * e), c_proj={conv}(e, e))
        self.mlp = part(c_fc={conv}(e, i), c_proj={conv}(i, e))

    def forward(self, x, mask):
        q, k, v = (
            y.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for y in self.attn["c_attn"](self.ln_1(x)).chunk(3, -1)
        )
        scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
        weights = scores.softmax(-1).masked_fill(~mask, 0)
        x = x + self.attn["c_proj"]((weights @ v).transpose(1, 2).flatten(2))
        middle = F.gelu(self.mlp["c_fc"](self.ln_2(x)), approximate="tanh")
        return x + self.mlp["c_proj"](middle)


class GPT2(nn.Module):
    def __init__(self, c):
        super().__init__()
        e = c.hidden_size
        self.transformer = part(
            wte=nn.Embedding(c.vocab_size, e),
            wpe=nn.Embedding(c.max_position_embeddings, e),
            h=nn.ModuleList(Block(c) for _ in range(c.num_hidden_layers)),
            ln_f=nn.LayerNorm(e, eps=c.layer_norm_eps),
        )

    def forward(self, input_ids, attention_mask):
        parts, real = self.transformer, attention_mask.bool()
        positions = (real.cumsum(1) - 1).clamp(min=0)
        x = parts["wte"](input_ids) + parts["wpe"](positions)
        mask = real[:, None, None] & torch.ones(real.shape[1], real.shape[1]).bool().tril()
        for block in parts["h"]:
            x = block(x, mask)
        return parts["ln_f"](x) @ parts["wte"].weight.T
"""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint")
    tiny.their_model("RobertaForMaskedLM").save_pretrained(path)
    return path


def written(tmp_path, old="", new=""):
    assert STUDENT.count(old) >= 1
    path = tmp_path / "mine.py"
    path.write_text(STUDENT.replace(old, new) if old else STUDENT)
    return path


@pytest.mark.parametrize("reference", ["ours", "transformers"])
def test_a_right_model_is_the_same_function(reference, tmp_path, checkpoint):
    if reference == "transformers":
        pytest.importorskip("transformers", reason="the reference is transformers")
    path = written(tmp_path)
    found = compare_with_file(f"{path}:Roberta", checkpoint, reference=reference, length=11)
    assert found.report.equal, found.text()
    assert found.text().endswith("all equal\nthe same function")
    names = [row.name for row in found.report.rows]
    assert "backbone.layers.1.attention.output" in names and "logits" in names
    assert "gradient of backbone.layers.0.attention.query.bias" in names
    assert found.unpaired == ()


LAYER = "backbone.layers.0"
MISTAKES = [
    (" / math.sqrt(q.shape[-1])", "", f"{LAYER}.attention.output", "no scale"),
    ("real[:, None, None] == 0", "real[:, None, None] < 0",
     f"{LAYER}.attention.output", "mask ignored"),
    ("positions = real.cumsum(1) * real + self.pad",
     "positions = torch.arange(ids.shape[1]) + self.pad + 1",
     "backbone.embeddings.position_embedding.table", "padding numbered"),
    ("F.gelu(self.intermediate", "F.gelu(approximate='tanh', input=self.intermediate",
     f"{LAYER}.feed_forward.down_proj", "tanh for exact gelu"),
    ("x = self.attention[", "x = x + self.attention[", None, None),
    ("y.view(b, t, self.heads, -1).transpose(1, 2)", "y.view(b, self.heads, t, -1)",
     f"{LAYER}.attention.output", "split by reshaping"),
    (".word_embeddings.weight\n", ".word_embeddings.weight.detach()\n",
     "gradient of backbone.embeddings.token_embedding.weight", "untied copy"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "first", "name"), MISTAKES)
def test_the_mistake_is_named_at_the_first_module_that_differs(
    old, new, first, name, tmp_path, checkpoint
):
    path = written(tmp_path, old, new)
    found = compare_with_file(f"{path}:Roberta", checkpoint, length=11)
    assert found.dtype == torch.float64
    if first is not None:
        assert found.report.first_difference.name == first, found.text()
    names = [mistake.name for mistake in found.mistakes]
    assert ", ".join(names) == (name or ""), found.text()
    if name is None:
        assert "none of the known mistakes" in found.text()


def test_logits_of_another_shape_are_said_to_be(tmp_path, checkpoint):
    path = written(tmp_path, "weight, self.lm_head.bias)", "weight, self.lm_head.bias)[:, -1]")
    found = compare_with_file(f"{path}:Roberta", checkpoint, length=11)
    first = found.report.first_difference
    assert (first.name, first.status, first.shape) == ("logits", "SHAPE", (1, 3, 99))


def test_a_model_with_its_own_names_is_compared_by_its_results(tmp_path, checkpoint):
    text = OWN_STRUCTURE.read_text()
    path = tmp_path / "mine.py"
    path.write_text(text)
    found = compare_with_file(f"{path}:RobertaForMaskedLM", checkpoint, length=11)
    assert found.report.equal and [row.name for row in found.report.rows] == ["logits"]
    path.write_text(text.replace(" / math.sqrt(self.head_dim)", ""))
    found = compare_with_file(f"{path}:RobertaForMaskedLM", checkpoint, length=11)
    assert [mistake.name for mistake in found.mistakes] == ["no scale"]


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["ours", "transformers"])
@pytest.mark.parametrize("name", tiny.CLASSES)
def test_every_class_is_the_same_function_as_itself(name, reference, tmp_path):
    tiny.their_model(name).save_pretrained(tmp_path)
    path = tmp_path / "mine.py"
    base = tiny.class_of(name).__name__
    path.write_text(f"from minitransformer import {base}\n\n\nclass Mine({base}):\n    pass\n")
    found = compare_with_file(f"{path}:Mine", tmp_path, reference=reference, length=11)
    assert found.report.equal, found.text()
    assert not found.unpaired and len(found.report.rows) > 30


def test_matrices_that_are_stored_transposed_are_loaded_and_compared(tmp_path):
    """A model with Hugging Face's names for GPT-2 may store them so, or as nn.Linear does."""
    tiny.their_model("GPT2LMHeadModel").save_pretrained(tmp_path)
    path = tmp_path / "mine.py"
    for made in ("Stored", "nn.Linear"):
        path.write_text(GPT2.format(conv=made))
        found = compare_with_file(f"{path}:GPT2", tmp_path, length=11)
        assert found.report.equal, found.text()
        named = "gradient of backbone.layers.0.attention.query_key_value.weight"
        assert named in [row.name for row in found.report.rows], made


def test_the_command_prints_a_document_for_programs(tmp_path, checkpoint, capsys):
    path = written(tmp_path, " / math.sqrt(q.shape[-1])", "")
    command = ["parity", "--against", f"{path}:Roberta", str(checkpoint), "--length", "11"]
    assert main([*command, "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert not document["equal"]
    assert [mistake["name"] for mistake in document["mistakes"]] == ["no scale"]
    assert document["mistakes"][0]["read"]["file"] == "minitransformer/layers/attention.py"
    assert main(command) == 1
    out = capsys.readouterr().out
    assert f"first differs: {LAYER}.attention.output\n" in out
    assert "\nThe mistake: The scores are not divided by sqrt(D)" in out


@pytest.mark.parametrize(
    ("old", "new", "named", "message"),
    [
        ("", "", "mine.py", "'mine.py' is not FILE.py:Class, as in roberta.py:Roberta"),
        ("", "", "absent.py:Roberta", "absent.py is not a file"),
        ("", "", "mine.py:Robert", "mine.py has no torch.nn.Module named Robert"),
        ("import math", "1 / 0", "mine.py:Roberta",
         "mine.py cannot be imported: ZeroDivisionError: division by zero (line 2)"),
        ("c.layer_norm_eps", "c.eps", "mine.py:Roberta", "Roberta cannot be built: AttributeError"),
        ("self.position_embeddings", "self.positon_embeddings", "mine.py:Roberta",
         "unknown parameter 'roberta.embeddings.positon_embeddings.weight'; did you mean "
         "'roberta.embeddings.position_embeddings.weight'?"),
        ("self.token_type_embeddings = nn.Embedding(c.type_vocab_size,",
         "self.token_type_embeddings = nn.Embedding(9,", "mine.py:Roberta",
         "the parameter roberta.embeddings.token_type_embeddings.weight has shape (9, 32)"),
        ("forward(self, input_ids, attention_mask)", "forward(self, ids, attention_mask)",
         "mine.py:Roberta", "Roberta.forward takes ids, attention_mask; it must take input_ids"),
        ("return F.linear(x, weight, self.lm_head.bias)", "return 5", "mine.py:Roberta",
         "the model returns neither a tensor nor one of logits, start_logits"),
        ("F.gelu(self.lm_head", "F.gelou(self.lm_head", "mine.py:Roberta",
         "Roberta cannot be called: AttributeError: module 'torch.nn.functional' has no"),
        ("q @ k.mT", "q @ k", "mine.py:Roberta", "Roberta cannot be called: RuntimeError: "),
        ("x = self.roberta", "exit(0); x = self.roberta", "mine.py:Roberta",
         "Roberta cannot be called: SystemExit"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_compared_is_one_sentence(
    old, new, named, message, tmp_path, checkpoint, capsys, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    written(tmp_path, old, new)
    assert main(["parity", "--against", named, str(checkpoint)]) == 1
    error = capsys.readouterr().err
    assert message in error and len(error.splitlines()) == 1


def test_a_reference_needs_a_model_to_compare(capsys):
    with pytest.raises(SystemExit):
        main(["parity", "--reference", "transformers"])
    assert "--reference goes with --against" in capsys.readouterr().err
