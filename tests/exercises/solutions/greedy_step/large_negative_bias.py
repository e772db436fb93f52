"""The smallest float of the dtype added as a bias, a softmax by hand, multiplication by flags."""

import torch


def greedy_step(tokens, keys, values, mask, finished, weights, eos, pad):
    x = weights["token"][tokens] + weights["position"][mask.cumsum(1)[:, -1:].sum(1)]
    new = torch.stack([x @ weights[name] for name in ("query", "key", "value")])
    q, k, v = new.unbind()
    cache = torch.cat([torch.stack([keys, values]), torch.stack([k, v]).unsqueeze(2)], dim=2)
    real = torch.cat([mask, torch.full((len(tokens), 1), True)], dim=1)
    bias = (1.0 - real.to(x.dtype)) * torch.finfo(x.dtype).min
    scores = torch.bmm(cache[0], q.unsqueeze(2))[..., 0] * q.shape[1] ** -0.5 + bias
    scores -= scores.detach().amax(1, keepdim=True)
    p = torch.exp(scores)
    p = p / p.sum(1, keepdim=True)
    y = x + (p.unsqueeze(2) * cache[1]).sum(1) @ weights["output"]
    logits = (weights["token"] @ y.T).T
    running = (~finished).long()
    chosen = logits.max(1)[1] * running + pad * (1 - running)
    ended = (chosen == eos).long()
    return {
        "logits": logits,
        "tokens": chosen,
        "keys": cache[0],
        "values": cache[1],
        "mask": real,
        "finished": (1 - running + ended) > 0,
    }
