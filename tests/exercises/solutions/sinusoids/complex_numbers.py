"""Powers of complex numbers, whose imaginary parts are the sines."""

import torch


def sinusoids(rows, size):
    frequencies = torch.logspace(0, -1, size + 1, base=10000.0, dtype=torch.float64)[:size:2]
    turns = torch.polar(torch.ones_like(frequencies), frequencies)
    waves = turns[None] ** torch.arange(rows, dtype=torch.float64)[:, None]
    return torch.cat([waves.imag, waves.real[:, : size // 2]], 1)
