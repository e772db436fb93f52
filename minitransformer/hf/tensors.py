"""The tensors of a checkpoint directory: model.safetensors, or shards and their index.

Names, shapes and dtypes come from the files' headers; no tensor is read until it is asked for.
"""

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from minitransformer.files import CheckpointError, checkpoint_file, read_json

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """Where a tensor lies and what it is, before it is read."""

    name: str
    path: Path
    shape: tuple[int, ...]
    dtype: str  # safetensors' word, such as "F32"


def list_tensors(directory: Path, architecture: str) -> dict[str, StoredTensor]:
    """Every tensor of the checkpoint by its name.

    Args:
        directory: of the checkpoint.
        architecture: the class to be loaded, for the advice about a pickle.

    Raises:
        CheckpointError: there are no weights, or only pickled ones; a shard leads out of the
            directory; a header is wrong; index and shards disagree.
    """
    if (directory / WEIGHTS).exists():
        return {t.name: t for t in _read_header(checkpoint_file(directory, WEIGHTS))}
    if (directory / INDEX).exists():
        return _list_shards(directory)
    pickles = [path.name for pattern in _PICKLES for path in sorted(directory.glob(pattern))]
    program = (
        f"import transformers; transformers.{architecture}.from_pretrained({str(directory)!r})"
        f".save_pretrained({str(directory)!r})"
    )
    raise CheckpointError(
        f"{directory} holds no {WEIGHTS} and no {INDEX}{', only ' * bool(pickles)}"
        f"{', '.join(pickles)}. Pickled weights are refused, because reading them can run code; if "
        f"you trust them, convert them: python -c {shlex.quote(program)}"
    )


def _list_shards(directory: Path) -> dict[str, StoredTensor]:
    index = checkpoint_file(directory, INDEX)
    shard_of = read_json(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(s, str) for s in shard_of.values()):
        raise CheckpointError(f"{index}: weight_map must map the names of tensors to files")
    for shard in sorted(set(shard_of.values())):
        if not shard.endswith(".safetensors"):
            raise CheckpointError(f"{index} names {shard!r}, which is no .safetensors file")
    paths = {shard: checkpoint_file(directory, shard) for shard in sorted(set(shard_of.values()))}
    tensors = {}
    for shard, path in paths.items():
        for tensor in _read_header(path):
            if shard_of.get(tensor.name) != shard:
                raise CheckpointError(f"{path} holds {tensor.name!r}, which {index} puts elsewhere")
            tensors[tensor.name] = tensor
    absent = sorted(set(shard_of) - set(tensors))
    if absent:
        raise CheckpointError(f"{index} promises tensors that no shard holds: {absent[:5]}")
    return tensors


def _read_header(path: Path) -> list[StoredTensor]:
    safe_open, SafetensorError = _safetensors()
    try:
        with safe_open(path, framework="pt") as file:
            slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118
            return [
                StoredTensor(
                    name=name,
                    path=path,
                    shape=tuple(stored.get_shape()),
                    dtype=stored.get_dtype(),
                )
                for name, stored in slices.items()
            ]
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is not a whole safetensors file: {error}") from error


def read_tensors(tensors: list[StoredTensor]) -> Iterator[tuple[StoredTensor, Tensor]]:
    """Read tensors one by one, opening each file once."""
    safe_open, _ = _safetensors()
    for path in sorted({tensor.path for tensor in tensors}):
        with safe_open(path, framework="pt") as file:
            for tensor in tensors:
                if tensor.path == path:
                    yield tensor, file.get_tensor(tensor.name)


def _safetensors() -> tuple:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ImportError("checkpoints need safetensors: pip install safetensors") from error
    return safe_open, SafetensorError
