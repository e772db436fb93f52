"""Training checkpoints: everything that a run needs to continue as if it had never stopped.

A checkpoint is a directory such as `step-00000100`, which is created by one rename, so it is always
complete. It contains the model, as `from_pretrained` reads it, and its tokenizer, if the run has
one; `optimizer.safetensors` with the states of the optimizer and of the random number generators;
and `state.json` with the progress of the run and its settings. Nothing is pickled.
"""

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from minitransformer.files import (
    TEMPORARY_PREFIX,
    CheckpointError,
    atomic_directory,
    read_json,
    write_json,
)
from minitransformer.hf.config import reference_class
from minitransformer.models.base import Model
from minitransformer.names import shortened
from minitransformer.tokenization import Tokenizer
from train.config import TrainingConfig

_NAME = re.compile(r"step-(\d{8,})")
_RANDOM = "random state of "
_ADAM_STATES = ("step", "exp_avg", "exp_avg_sq")
_ADVICE = "delete this checkpoint to resume from the one before"


def save_checkpoint(
    config: TrainingConfig,
    model: Model,
    optimizer: torch.optim.Optimizer,
    state: dict[str, Any],
    *,
    step: int,
    tokenizer: Tokenizer | None = None,
) -> None:
    """Write the checkpoint of `step`, unless it exists, and delete old checkpoints."""
    from safetensors.torch import save_file

    path = config.checkpoints / f"step-{step:08d}"
    if path.exists():
        return
    with atomic_directory(path) as directory:
        save_model(directory, model, tokenizer)
        save_file(
            _optimizer_tensors(model, optimizer) | _random_states(next(model.parameters()).device),
            directory / "optimizer.safetensors",
        )
        write_json(directory / "state.json", state)
    for old in list_checkpoints(config.checkpoints)[: -config.keep_checkpoints]:
        # Renamed first, since a half-deleted directory must not look like a checkpoint.
        renamed = old.with_name(TEMPORARY_PREFIX + old.name)
        old.rename(renamed)
        shutil.rmtree(renamed)


def save_model(path: Path, model: Model, tokenizer: Tokenizer | None) -> None:
    """Write a model and, if there is one, its tokenizer."""
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    model.save_pretrained(path)


def list_checkpoints(parent: Path) -> list[Path]:
    """The checkpoints in `parent`, from old to new."""
    if not parent.is_dir():
        return []
    return sorted(path for path in parent.iterdir() if _NAME.fullmatch(path.name))


def read_state(path: Path) -> dict[str, Any]:
    """Read state.json: `progress`, the settings of the `run`, `library`, and `scaler`.

    `run["implementation"]` is "plain" or "optimized". `library` is the one that multiplies matrices
    if the model is optimized and on a CPU (see :mod:`minitransformer.fast.linear`), else None.
    `scaler` is the state of the loss scaling with fp16, else empty.

    Raises:
        CheckpointError: the file is damaged.
        ValueError: the checkpoint was written by version 0.4 or older.
    """
    state = read_json(path / "state.json")
    if not all(isinstance(state.get(name), dict) for name in ("progress", "run")):
        raise CheckpointError(f"{path / 'state.json'} lacks progress or run; {_ADVICE}")
    if "implementation" not in state["run"]:
        raise ValueError(
            f"{path} was written by version 0.4 of minitransformer or an older one, whose models "
            "round differently, so the run cannot be resumed exactly; choose another --output, and "
            "load the weights there"
        )
    return state


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """The settings of a run that differ between two records, as text; those within a dict too."""
    found = []
    for name in sorted(before.keys() | now.keys()):
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            found += [f"{name}: {difference}" for difference in differences(old, new)]
        elif old != new:
            found.append(f"{name} was {shortened(old)}, now it is {shortened(new)}")
    return found


def load_checkpoint(path: Path, model: Model, optimizer: torch.optim.Optimizer) -> None:
    """Restore the model, the optimizer and the random number generators.

    Raises:
        CheckpointError: a file of the checkpoint is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    model.load_state_dict(reference_class(model).from_pretrained(path).state_dict())
    names = _parameter_names(model, optimizer)
    saved = optimizer.state_dict()
    try:
        tensors = load_file(path / "optimizer.safetensors")
        saved["state"] = {
            index: {key: tensors[f"{name}.{key}"] for key in _ADAM_STATES}
            for index, name in enumerate(names)
            if f"{name}.step" in tensors
        }
        torch.set_rng_state(tensors[f"{_RANDOM}cpu"])
    except (SafetensorError, OSError, KeyError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); {_ADVICE}") from error
    optimizer.load_state_dict(saved)
    device = next(model.parameters()).device
    if device.type == "cuda" and f"{_RANDOM}cuda" in tensors:
        torch.cuda.set_rng_state(tensors[f"{_RANDOM}cuda"], device)


def _optimizer_tensors(model: Model, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    states = optimizer.state_dict()["state"]
    return {
        f"{name}.{key}": value
        for index, name in enumerate(_parameter_names(model, optimizer))
        for key, value in states.get(index, {}).items()
    }


def _parameter_names(model: Model, optimizer: torch.optim.Optimizer) -> list[str]:
    """The names of the parameters, in the order in which the optimizer numbers them."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return [names[id(p)] for group in optimizer.param_groups for p in group["params"]]


def _random_states(device: torch.device) -> dict[str, Tensor]:
    """The states of PyTorch's generators, which dropout uses; data and masks need no state."""
    states = {f"{_RANDOM}cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states[f"{_RANDOM}cuda"] = torch.cuda.get_rng_state(device)
    return states
