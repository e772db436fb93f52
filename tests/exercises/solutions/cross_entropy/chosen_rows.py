"""The labelled rows first; a loop over them from the last to the first."""

import torch


def cross_entropy(logits, labels):
    precise = torch.promote_types(logits.dtype, torch.float32)
    rows = logits[labels >= 0].to(precise)
    classes = labels[labels >= 0].tolist()
    loss = 0 * logits.to(precise).sum()
    for row, label in zip(reversed(rows.unbind()), reversed(classes), strict=True):
        loss = loss + (row.logsumexp(0) - row[label]) / len(classes)
    return loss
