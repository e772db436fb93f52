"""A student's model: its own modules and names, into which the checkpoint's tensors are renamed."""

import json
import math

import torch
import torch.nn as nn
from safetensors.torch import load_file


class Embeddings(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.pad = cfg["pad_token_id"]
        self.words = nn.Embedding(cfg["vocab_size"], cfg["hidden_size"])
        self.positions = nn.Embedding(cfg["max_position_embeddings"], cfg["hidden_size"])
        self.types = nn.Embedding(cfg["type_vocab_size"], cfg["hidden_size"])
        self.ln = nn.LayerNorm(cfg["hidden_size"], eps=cfg["layer_norm_eps"])

    def forward(self, ids, mask):
        positions = torch.cumsum(mask, dim=1) * mask + self.pad
        types = torch.zeros_like(ids)
        return self.ln(self.words(ids) + self.positions(positions) + self.types(types))


class Attention(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        hidden = cfg["hidden_size"]
        self.n_heads = cfg["num_attention_heads"]
        self.head_dim = hidden // self.n_heads
        self.q = nn.Linear(hidden, hidden)
        self.k = nn.Linear(hidden, hidden)
        self.v = nn.Linear(hidden, hidden)
        self.out = nn.Linear(hidden, hidden)

    def forward(self, x, bias):
        batch, seq, hidden = x.shape

        def split(t):
            return t.view(batch, seq, self.n_heads, self.head_dim).permute(0, 2, 1, 3)

        q, k, v = split(self.q(x)), split(self.k(x)), split(self.v(x))
        scores = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(self.head_dim) + bias
        probs = torch.softmax(scores, dim=-1)
        context = torch.matmul(probs, v).permute(0, 2, 1, 3).reshape(batch, seq, hidden)
        return self.out(context)


class Block(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        hidden, eps = cfg["hidden_size"], cfg["layer_norm_eps"]
        self.attn = Attention(cfg)
        self.ln1 = nn.LayerNorm(hidden, eps=eps)
        self.fc1 = nn.Linear(hidden, cfg["intermediate_size"])
        self.fc2 = nn.Linear(cfg["intermediate_size"], hidden)
        self.ln2 = nn.LayerNorm(hidden, eps=eps)
        self.act = nn.GELU()

    def forward(self, x, bias):
        x = self.ln1(x + self.attn(x, bias))
        return self.ln2(x + self.fc2(self.act(self.fc1(x))))


class Head(nn.Module):
    def __init__(self, cfg, word_weight):
        super().__init__()
        self.dense = nn.Linear(cfg["hidden_size"], cfg["hidden_size"])
        self.ln = nn.LayerNorm(cfg["hidden_size"], eps=cfg["layer_norm_eps"])
        self.decoder = nn.Linear(cfg["hidden_size"], cfg["vocab_size"])
        self.decoder.weight = word_weight  # tied
        self.act = nn.GELU()

    def forward(self, x):
        return self.decoder(self.ln(self.act(self.dense(x))))


RENAMED = [
    ("roberta.embeddings.word_embeddings", "emb.words"),
    ("roberta.embeddings.position_embeddings", "emb.positions"),
    ("roberta.embeddings.token_type_embeddings", "emb.types"),
    ("roberta.embeddings.LayerNorm", "emb.ln"),
    ("roberta.encoder.layer.", "blocks."),
    ("attention.self.query", "attn.q"),
    ("attention.self.key", "attn.k"),
    ("attention.self.value", "attn.v"),
    ("attention.output.dense", "attn.out"),
    ("attention.output.LayerNorm", "ln1"),
    ("intermediate.dense", "fc1"),
    ("output.dense", "fc2"),
    ("output.LayerNorm", "ln2"),
    ("lm_head.bias", "head.decoder.bias"),
    ("lm_head.layer_norm", "head.ln"),
    ("lm_head.dense", "head.dense"),
]


class RobertaForMaskedLM(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.emb = Embeddings(cfg)
        self.blocks = nn.ModuleList([Block(cfg) for _ in range(cfg["num_hidden_layers"])])
        self.head = Head(cfg, self.emb.words.weight)

    @classmethod
    def from_pretrained(cls, path):
        with open(f"{path}/config.json") as file:
            model = cls(json.load(file))
        state = {}
        for name, tensor in load_file(f"{path}/model.safetensors").items():
            for old, new in RENAMED:
                name = name.replace(old, new)
            state[name] = tensor
        state["head.decoder.weight"] = state["emb.words.weight"]
        model.load_state_dict(state)
        return model.eval()

    def forward(self, input_ids, attention_mask):
        bias = torch.zeros(attention_mask.shape, dtype=self.head.ln.weight.dtype)
        bias = bias.masked_fill(attention_mask == 0, float("-inf"))[:, None, None, :]
        x = self.emb(input_ids, attention_mask)
        for block in self.blocks:
            x = block(x, bias)
        return self.head(x)
