"""No submodules: formulas over the checkpoint's tensors, one sequence at a time."""

import json
from pathlib import Path
from types import SimpleNamespace

import torch
import torch.nn.functional as F
from safetensors import safe_open


class RobertaForMaskedLM(torch.nn.Module):
    @classmethod
    def from_pretrained(cls, path):
        model = cls()
        model.config = SimpleNamespace(**json.loads((Path(path) / "config.json").read_text()))
        with safe_open(Path(path) / "model.safetensors", framework="pt") as file:
            model.tensors = {name: file.get_tensor(name) for name in list(file.keys())}
        return model

    def linear(self, x, name):
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def norm(self, x, name):
        weight, bias = self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"]
        return F.layer_norm(x, weight.shape, weight, bias, self.config.layer_norm_eps)

    def layer(self, x, keep, name):
        heads = self.config.num_attention_heads
        q, k, v = (
            torch.stack(self.linear(x, f"{name}.attention.self.{part}").chunk(heads, dim=-1))
            for part in ("query", "key", "value")
        )  # (H, T, D)
        mixed = F.scaled_dot_product_attention(q, k[:, keep], v[:, keep])
        attended = self.linear(torch.cat(mixed.unbind(), -1), f"{name}.attention.output.dense")
        x = self.norm(attended + x, f"{name}.attention.output.LayerNorm")
        inner = F.gelu(self.linear(x, f"{name}.intermediate.dense"))
        return self.norm(self.linear(inner, f"{name}.output.dense") + x, f"{name}.output.LayerNorm")

    def logits(self, ids, keep):
        words = self.tensors["roberta.embeddings.word_embeddings.weight"]
        pad = self.config.pad_token_id
        rows = torch.full_like(ids, pad)
        rows[keep] = torch.arange(pad + 1, pad + 1 + int(keep.sum()))
        x = words[ids] + self.tensors["roberta.embeddings.position_embeddings.weight"][rows]
        x = x + self.tensors["roberta.embeddings.token_type_embeddings.weight"][0]
        x = self.norm(x, "roberta.embeddings.LayerNorm")
        for number in range(self.config.num_hidden_layers):
            x = self.layer(x, keep, f"roberta.encoder.layer.{number}")
        x = self.norm(F.gelu(self.linear(x, "lm_head.dense")), "lm_head.layer_norm")
        return torch.addmm(self.tensors["lm_head.bias"], x, words.t())

    def forward(self, input_ids, attention_mask):
        return torch.stack([*map(self.logits, input_ids, attention_mask.bool())])
