"""Sequence by sequence, on lists."""

import torch


def shift_right(labels, start, pad):
    read, mask = [], []
    for row in labels.tolist():
        begin = next((i for i, label in enumerate(row) if label != -100), 0)
        text = [start, *(pad if label == -100 else label for label in row[begin:-1])]
        read.append([pad] * begin + text)
        mask.append([i >= begin for i in range(len(row))])
    return torch.tensor(read), torch.tensor(mask)
