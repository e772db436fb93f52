"""A tiny training job for the tests; also a script that is killed while it saves.

    python -m tests.train.tiny_job OUTPUT KILLS

trains once undisturbed, then KILLS times in processes that are killed at a random file operation
under OUTPUT and resumed; prints the digests of the final weights, one a line.
"""

import hashlib
import importlib
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch

from minitransformer import RobertaForMaskedLM
from minitransformer.fast import optimize
from minitransformer.fast.linear import set_library
from tests.tiny import roberta_config
from train.loop import Progress, TrainingConfig, train
from train.masking import MaskedBatches
from train.text import TokenSequences

TOKENIZER: Any = SimpleNamespace(
    pad_token_id=1, mask_token_id=4, vocab_size=99, special_ids=frozenset(range(5))
)


def sequences(count: int = 21, seed: int = 3) -> TokenSequences:
    """Sequences of 4 to 12 random tokens between 0 and 2."""
    random_ = np.random.default_rng(seed)
    lengths = random_.integers(4, 13, count)
    ids = np.concatenate([[0, *random_.integers(5, 99, n - 2), 2] for n in lengths])
    bounds = np.concatenate([[0], lengths.cumsum()])
    return TokenSequences(ids.astype(np.int32), random_.random(len(ids)) < 0.7, bounds)


def model(dropout: float = 0.1, attention: str = "sdpa", plain: bool = False) -> RobertaForMaskedLM:
    """A one-layer RoBERTa with dropout, drawn from a fixed seed."""
    torch.manual_seed(7)
    built = RobertaForMaskedLM(
        roberta_config(
            num_hidden_layers=1, hidden_dropout_prob=dropout, attention_probs_dropout_prob=dropout
        ),
        attention=attention,
    )
    return built if plain else optimize(built)


def run(
    output: Path,
    *,
    evaluate: Callable[..., Any] | str | None = None,
    callbacks: Any = (),
    fingerprint: Any = None,
    plain: bool = False,
    **changes: Any,
) -> tuple[RobertaForMaskedLM, Progress]:
    """Two epochs of six steps: 21 sequences in batches of 2 are 11, two and two make a step."""
    settings: dict[str, Any] = {"epochs": 2, "accumulate": 2, "save_every": 4, "evaluate_every": 5}
    config = TrainingConfig(output=output, learning_rate=1e-2, **(settings | changes))
    trained = model(plain=plain)

    def weigh(_should_stop: Any) -> dict[str, float]:
        """A "loss" that any process finds the same for the same weights."""
        return {"loss": int(digest(trained)[:6], 16) / 1e6}

    batches = MaskedBatches(sequences(), TOKENIZER, batch_size=2, probability=0.3, seed=1)
    progress = train(
        trained,
        batches,
        config,
        evaluate=weigh if evaluate == "weights" else evaluate,
        callbacks=callbacks,
        fingerprint=fingerprint,
    )
    return trained, progress


def digest(trained: torch.nn.Module) -> str:
    """The sha256 of all weights."""
    result = hashlib.sha256()
    for name, tensor in sorted(trained.state_dict().items()):
        result.update(name.encode() + tensor.numpy().tobytes())
    return result.hexdigest()


def _count_operations(under: Path, die_at: int) -> list[int]:
    """Count the file operations under a directory; kill this process at the given one."""
    count = [0]

    def note() -> None:
        count[0] += 1
        if count[0] == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        watched = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
        if event in watched and str(under) in str(arguments[0]):
            note()

    flush = os.fsync

    def fsync(descriptor: int) -> None:
        note()
        flush(descriptor)

    sys.addaudithook(audit)
    os.fsync = fsync
    return count


def _in_child(work: Callable[[], str]) -> str | None:
    """What `work` returns, from a process of its own; None if that process was killed."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        os.write(writer, work().encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        result = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return None
    assert status == 0, "the child failed by itself"
    return result


def _train_and_die(output: Path, die_at: int) -> str:
    torch.set_num_threads(1)
    set_library("default")  # a run that is killed before it saves would measure once more
    count = _count_operations(output, die_at)
    trained, _ = run(output, save_every=1, resume=True, patience=2, evaluate="weights")
    trained.save_pretrained(output)
    return f"{digest(trained)} {count[0]}"


def main(output: Path, kills: int) -> None:
    # This process only imports and forks: threads of the parent would be missing in the children.
    for slow in ("torch._dynamo", "safetensors.torch"):
        importlib.import_module(slow)
    undisturbed = _in_child(lambda: _train_and_die(output / "undisturbed", die_at=-1))
    assert undisturbed is not None
    expected, operations = undisturbed.split()
    print(expected)
    for number, die_at in enumerate(random.Random(0).sample(range(1, int(operations)), kills)):
        place = output / str(number)
        assert _in_child(lambda p=place, n=die_at: _train_and_die(p, n)) is None
        resumed = _in_child(lambda p=place: _train_and_die(p, -1))
        assert resumed is not None
        print(resumed.split()[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
