"""Plain Python lists and a counter."""

import torch


def roberta_positions(ids, pad):
    table = []
    for sentence in ids.tolist():
        row, following = [], pad + 1
        for token in sentence:
            if token == pad:
                row.append(pad)
            else:
                row.append(following)
                following += 1
        table.append(row)
    return torch.tensor(table)
