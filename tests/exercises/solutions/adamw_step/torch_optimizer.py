"""torch.optim.AdamW itself, with its state filled in."""

import torch


def adamw_step(parameters, gradients, means, squares, step, learning_rate, weight_decay):
    leaves = {name: torch.nn.Parameter(value) for name, value in parameters.items()}
    groups = [
        {"params": [leaf], "weight_decay": weight_decay if leaf.dim() > 1 else 0.0}
        for leaf in leaves.values()
    ]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate)
    for name, leaf in leaves.items():
        leaf.grad = gradients[name]
        optimizer.state[leaf] = {
            "step": torch.tensor(float(step - 1)),
            "exp_avg": means[name],
            "exp_avg_sq": squares[name],
        }
    optimizer.step()
    state = {name: optimizer.state[leaf] for name, leaf in leaves.items()}
    return (
        {name: leaf.detach() for name, leaf in leaves.items()},
        {name: values["exp_avg"] for name, values in state.items()},
        {name: values["exp_avg_sq"] for name, values in state.items()},
    )
