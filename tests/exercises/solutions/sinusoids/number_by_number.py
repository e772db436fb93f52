"""math.sin and math.cos for each number, cosines as shifted sines."""

import math

import torch


def sinusoids(num_positions, hidden_size):
    num_sines = math.ceil(hidden_size / 2)

    def entry(position, column):
        quarter = 0 if column < num_sines else math.pi / 2
        wave = column % num_sines
        speed = math.exp(-math.log(10000) * 2 * wave / hidden_size)
        return math.sin(position * speed + quarter)

    return torch.tensor(
        [[entry(p, c) for c in range(hidden_size)] for p in range(num_positions)],
        dtype=torch.float64,
    )
