"""permute, contiguous, view, as in older code."""


def merge_heads(x):
    x = x.permute(0, 2, 1, 3).contiguous()
    return x.view(*x.size()[:-2], x.size(-2) * x.size(-1))
