"""Row by row, token by token, with Python's own sort."""

import math

import torch


def sample_filter(logits, temperature, top_k, top_p):
    rows = []
    for row in logits / temperature:
        values = row.tolist()
        best = sorted(range(len(values)), key=values.__getitem__, reverse=True)
        best = best[:top_k] if top_k > 0 else best
        if top_p < 1:
            exponentials = [math.exp(values[i] - values[best[0]]) for i in best]
            kept, total = [], 0.0
            for i, e in zip(best, exponentials, strict=True):
                if kept and total >= top_p:
                    break
                kept.append(i)
                total += e / sum(exponentials)
            best = kept
        rows.append(torch.stack([x if i in best else x * 0 - math.inf for i, x in enumerate(row)]))
    return torch.stack(rows)
