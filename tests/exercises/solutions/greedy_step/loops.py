"""One sequence after the other, and one key after the other."""

import math

import torch


def greedy_step(tokens, keys, values, mask, finished, weights, eos, pad):
    rows = {name: [] for name in ("logits", "tokens", "keys", "values", "mask", "finished")}
    for b in range(len(tokens)):
        n = int(mask[b].sum())
        x = weights["token"][tokens[b]] + weights["position"][n]
        q, k, v = x @ weights["query"], x @ weights["key"], x @ weights["value"]
        all_keys = [*keys[b], k]
        all_values = [*values[b], v]
        real = [*mask[b].tolist(), True]
        scores = [(q * key).sum() / math.sqrt(len(q)) for key in all_keys]
        exponentials = [s.exp() if r else 0.0 * s for s, r in zip(scores, real, strict=True)]
        total = sum(exponentials)
        context = sum(e / total * value for e, value in zip(exponentials, all_values, strict=True))
        logits = (x + context @ weights["output"]) @ weights["token"].T
        was_finished = bool(finished[b])
        token = pad if was_finished else int(logits.argmax())
        rows["logits"].append(logits)
        rows["tokens"].append(torch.tensor(token))
        rows["keys"].append(torch.stack(all_keys))
        rows["values"].append(torch.stack(all_values))
        rows["mask"].append(torch.tensor(real))
        rows["finished"].append(torch.tensor(was_finished or token == eos))
    return {name: torch.stack(row) for name, row in rows.items()}
