"""Feed-forward networks in blocks of tokens with at most 30 MB of intermediate values, on a CPU.

glibc returns an allocation of 32 MB or more to the system as soon as it is freed, and allocating it
again takes a tenth of the time of a matrix product. In smaller blocks, a batch of 3,700 to 7,000
tokens took 3 to 5% less time without gradients, and a SQuAD step of 3,171 tokens 1 to 2% less.

Speeds up the rows "encode, ragged sequences", "classify, ragged sequences" and "SQuAD, windows of
384". Measurements: benchmarks/results/README.md, "Measurements behind decisions".

E hidden size, I intermediate size.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

_MAX_BYTES = 30 * 2**20  # of the intermediate values of a block


def in_blocks(
    network: Callable[[Tensor], Tensor], hidden: Tensor, intermediate_size: int
) -> Tensor:
    """network(hidden), for as many tokens at a time as have 30 MB of intermediate values.

    Args:
        network: (..., E) to (..., E), each token independently of the others.
        hidden: (..., E), not empty.
        intermediate_size: I.

    Returns:
        (..., E).
    """
    num_tokens = hidden.numel() // hidden.shape[-1]
    num_blocks = math.ceil(num_tokens * intermediate_size * hidden.element_size() / _MAX_BYTES)
    if num_blocks <= 1:
        return network(hidden)
    blocks = hidden.flatten(0, -2).chunk(num_blocks)  # (tokens of a block, E) each
    return torch.cat([network(block) for block in blocks]).view_as(hidden)
