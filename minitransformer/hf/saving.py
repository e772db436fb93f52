"""Checkpoints out: config.json and model.safetensors as Hugging Face writes and reads them."""

from pathlib import Path

from minitransformer.files import atomic_directory, write_json
from minitransformer.hf.config import config_to_hf, family_of_model
from minitransformer.hf.names import stored_names
from minitransformer.hf.tensors import WEIGHTS
from minitransformer.models.base import Model


def save_pretrained(model: Model, path: str | Path) -> None:
    """Write the model so that Hugging Face loads it without a warning; see `Model`.

    Tied weights are written once, under the name that Hugging Face writes.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install safetensors") from error

    names = stored_names(family_of_model(model), model)
    tensors = {names[name]: value.contiguous() for name, value in model.state_dict().items()}
    with atomic_directory(path, last="config.json") as directory:
        write_json(directory / "config.json", config_to_hf(model))
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
