"""Token by token, on lists."""

import torch


def mask_tokens(ids, mask, special, chosen_draw, kind_draw, random_ids, mask_id):
    inputs, labels = ids.tolist(), [[-100] * ids.shape[1] for _ in range(ids.shape[0])]
    for row in range(ids.shape[0]):
        for column in range(ids.shape[1]):
            at = row, column
            if special[at] or not mask[at] or chosen_draw[at] >= 0.15:
                continue
            labels[row][column] = inputs[row][column]
            if kind_draw[at] < 0.8:
                inputs[row][column] = mask_id
            elif kind_draw[at] < 0.9:
                inputs[row][column] = int(random_ids[at])
    return torch.tensor(inputs), torch.tensor(labels)
