"""Finds what is not decayed by its name; comprehensions in place of a loop; a weighted p."""


def adamw_step(params, grads, exp_avg, exp_avg_sq, step, lr, decay):
    m = {k: g + 0.9 * (exp_avg[k] - g) for k, g in grads.items()}
    v = {k: g * g + 0.999 * (exp_avg_sq[k] - g * g) for k, g in grads.items()}

    def shrink(name):
        return 1.0 if "bias" in name or "norm" in name else 1.0 - lr * decay

    def update(name):
        size = (v[name] / (1 - 0.999**step)) ** 0.5 + 1e-8
        return lr / (1 - 0.9**step) * m[name] / size

    return {k: shrink(k) * p - update(k) for k, p in params.items()}, m, v
