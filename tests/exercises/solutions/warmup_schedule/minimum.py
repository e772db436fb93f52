"""The smaller of both lines, which cross at the end of the warm-up."""


def warmup_schedule(s, w, n):
    return min((s + 1) / (w + 1), (n - s) / (n - w))
