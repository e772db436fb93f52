"""Probabilities summed from the least likely on; the mask is brought back by the inverse order."""

import torch


def sample_filter(logits, temperature, top_k, top_p):
    scores = (logits / temperature).clone()
    vocab = scores.shape[1]
    if 0 < top_k < vocab:
        scores[torch.ones_like(scores).bool().scatter(1, scores.topk(top_k)[1], False)] = -torch.inf
    if top_p < 1.0:
        p, order = torch.sort(scores.softmax(1), dim=1)
        tail = p.cumsum(1) <= 1 - top_p
        tail[:, -1] = False
        scores[tail.gather(1, order.argsort(1))] = -torch.inf
    return scores
