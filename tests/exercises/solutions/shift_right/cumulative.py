"""A cumulative sum finds the beginning; the start token is written in place."""

import torch


def shift_right(labels, start_token_id, pad_token_id):
    has_label = labels.ne(-100)
    begun = has_label.cumsum(1).gt(0) | ~has_label.any(1, keepdim=True)
    clean = labels.clone()
    clean[~has_label] = pad_token_id
    inputs = torch.full_like(labels, pad_token_id)
    inputs[:, 1:] = clean[:, :-1]
    rows = torch.arange(len(labels))
    inputs[rows, begun.long().argmax(1)] = start_token_id
    return inputs, begun
