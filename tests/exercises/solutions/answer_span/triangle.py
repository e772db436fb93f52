"""All spans as a matrix, whose forbidden places are masked by triu and tril."""

import torch


def answer_span(s, e, offsets, sequence_ids, context, max_len, cls, threshold):
    inside = torch.tensor([i == 1 for i in sequence_ids])
    matrix = s[:, None] + e[None, :]
    ok = (inside[:, None] & inside[None, :]).triu().tril(max_len - 1)
    matrix = matrix.masked_fill(~ok, -torch.inf)
    flat = matrix.flatten().argmax().item()
    i, j = divmod(flat, len(s))
    null = s[cls] + e[cls]
    if threshold is not None and null > matrix[i, j] + threshold:
        return {"answer": "", "start": 0, "end": 0, "score": null}
    start, end = offsets[i][0], offsets[j][1]
    return {"score": matrix[i, j], "answer": context[start:end], "start": start, "end": end}
