"""PyTorch's attention, einsum, other names, a cache that is allocated and filled."""

import torch
import torch.nn.functional as F


def greedy_step(ids, k_cache, v_cache, attention_mask, done, w, eos_id, pad_id):
    batch, length, size = k_cache.shape
    h = F.embedding(ids, w["token"]) + w["position"].index_select(0, attention_mask.long().sum(1))
    q = torch.einsum("be,ed->bd", h, w["query"])
    k_new = k_cache.new_empty(batch, length + 1, size)
    v_new = torch.empty_like(k_new)
    k_new[:, :length], k_new[:, length] = k_cache, h @ w["key"]
    v_new[:, :length], v_new[:, length] = v_cache, h @ w["value"]
    attention_mask = F.pad(attention_mask, (0, 1), value=True)
    context = F.scaled_dot_product_attention(
        q.unsqueeze(1), k_new, v_new, attn_mask=attention_mask.unsqueeze(1)
    ).squeeze(1)
    logits = F.linear(torch.addmm(h, context, w["output"]), w["token"])
    chosen = logits.topk(1, dim=1).indices.flatten()
    next_ids = torch.where(done, torch.full_like(chosen, pad_id), chosen)
    done = done.logical_or(chosen.eq(eos_id))
    return {
        "mask": attention_mask,
        "finished": done,
        "tokens": next_ids,
        "keys": k_new,
        "values": v_new,
        "logits": logits,
    }
