"""An empty result that is filled in place, head by head."""


def merge_heads(attended):
    batch, heads, tokens, size = attended.shape
    merged = attended.new_empty(batch, tokens, heads * size)
    for head in range(heads):
        merged[..., head * size : (head + 1) * size] = attended[:, head]
    return merged
