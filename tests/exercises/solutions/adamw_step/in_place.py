"""In place, with the corrections in the step size, as efficient implementations do it."""

import math


def adamw_step(parameters, gradients, means, squares, t, lr, wd, betas=(0.9, 0.999), eps=1e-8):
    for name in parameters:
        p, g, m, v = parameters[name], gradients[name], means[name], squares[name]
        if len(p.shape) >= 2:
            p.mul_(1 - lr * wd)
        m.lerp_(g, 1 - betas[0])
        v.mul_(betas[1]).addcmul_(g, g, value=1 - betas[1])
        denominator = v.sqrt().div_(math.sqrt(1 - betas[1] ** t)).add_(eps)
        p.addcdiv_(m, denominator, value=-lr / (1 - betas[0] ** t))
    return parameters, means, squares
