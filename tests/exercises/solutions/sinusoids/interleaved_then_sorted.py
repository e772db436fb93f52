"""The paper's table in numpy, whose columns are put into Marian's order."""

import numpy as np
import torch


def sinusoids(num_positions, hidden_size):
    columns = np.arange(hidden_size)
    angles = np.outer(np.arange(num_positions), 10000.0 ** -(columns // 2 * 2 / hidden_size))
    angles[:, 0::2] = np.sin(angles[:, 0::2])
    angles[:, 1::2] = np.cos(angles[:, 1::2])
    order = np.argsort(columns % 2, kind="stable")
    return torch.from_numpy(angles[:, order])
