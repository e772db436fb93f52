"""Thresholds in place of masks: the last logit that remains, looked up in sorted logits."""

import torch


def sample_filter(logits, temperature, top_k, top_p):
    scores = logits * (1.0 / temperature)
    if top_k:
        k = min(top_k, scores.size(-1))
        kth = torch.kthvalue(scores, scores.size(-1) - k + 1, dim=-1, keepdim=True).values
        scores = torch.where(scores >= kth, scores, torch.full_like(scores, float("-inf")))
    if top_p < 1:
        ordered = scores.sort(dim=-1, descending=True).values
        cumulative = torch.softmax(ordered, dim=-1).cumsum(dim=-1)
        needed = (cumulative < top_p).sum(dim=-1, keepdim=True) + 1
        last = ordered.gather(-1, needed.clamp(max=scores.size(-1)) - 1)
        scores = torch.where(scores >= last, scores, torch.full_like(scores, float("-inf")))
    return scores
