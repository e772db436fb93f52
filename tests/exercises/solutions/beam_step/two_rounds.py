"""The K best of each beam, and then the K best of these K * K; gather instead of an index."""

import torch
import torch.nn.functional as F


def beam_step(logits, histories, totals, eos, pad):
    sources, beams, vocab = logits.shape
    log_probs = logits - logits.logsumexp(2, keepdim=True)
    ended = histories.eq(eos).sum(2, keepdim=True) > 0
    only_pad = F.one_hot(torch.tensor(pad), vocab).bool()
    log_probs = torch.where(ended & only_pad, torch.zeros_like(log_probs), log_probs)
    log_probs = log_probs.masked_fill(ended & ~only_pad, float("-inf"))
    if histories.size(-1) == 0:
        # The best K tokens of the first beam.
        scores, tokens = (log_probs[:, 0] + totals[:, :1]).sort(1, descending=True)
        scores, tokens = scores[:, :beams], tokens[:, :beams]
        parents = torch.zeros_like(tokens)
    else:
        best, tokens = log_probs.topk(min(beams, vocab), dim=2)
        per_beam = best.shape[2]
        sums = (best + totals.unsqueeze(2)).reshape(sources, -1)
        scores, places = torch.sort(sums, dim=1, descending=True, stable=True)
        scores, places = scores[:, :beams], places[:, :beams]
        parents = torch.div(places, per_beam, rounding_mode="floor")
        tokens = tokens.reshape(sources, -1).gather(1, places)
    length = histories.size(-1)
    old = histories.gather(1, parents.unsqueeze(2).expand(-1, -1, length))
    return {
        "beams": parents,
        "sequences": torch.cat((old, tokens.unsqueeze(2)), -1),
        "scores": scores,
    }
