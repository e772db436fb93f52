"""One reshape, sizes by name; a comparison that leaves the values as they are."""


def padding_mask(real):
    sequences, tokens = real.size(0), real.size(1)
    return real.ne(False).view(sequences, 1, 1, tokens)
