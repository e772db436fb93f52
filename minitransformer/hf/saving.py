"""Checkpoints out: config.json and model.safetensors as Hugging Face writes and reads them."""

from pathlib import Path

from minitransformer.files import atomic_directory, write_json
from minitransformer.hf.config import config_to_hf, family_of_model
from minitransformer.hf.generation_config import write_generation_config
from minitransformer.hf.names import is_transposed, stored_names
from minitransformer.hf.tensors import WEIGHTS
from minitransformer.models.base import Model
from minitransformer.models.writing_model import GenerativeModel


def save_pretrained(model: Model, path: str | Path) -> None:
    """Write the model so that Hugging Face loads it without a warning; see `Model`.

    Tied weights are written once, under the name that Hugging Face writes.
    """
    try:
        from safetensors.torch import save_file
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install safetensors") from error

    family = family_of_model(model)
    names = stored_names(family, model)
    tensors = {}
    for name, values in model.state_dict().items():
        stored = names[name]
        tensors[stored] = (values.T if is_transposed(stored, family) else values).contiguous()
    with atomic_directory(path, last="config.json") as directory:
        of_tasks = model.said_of_tasks if isinstance(model, GenerativeModel) else {}
        write_json(directory / "config.json", {**config_to_hf(model), **of_tasks})
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
        if isinstance(model, GenerativeModel):
            write_generation_config(model.generation_config, directory)
