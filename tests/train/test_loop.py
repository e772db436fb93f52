"""The training loop: it learns, stops on a signal, and resumes as if it had never stopped."""

import functools
import importlib
import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from minitransformer import CheckpointError, RobertaForMaskedLM, from_pretrained
from minitransformer.fast import is_optimized, linear
from minitransformer.files import TEMPORARY_PREFIX
from minitransformer.models.losses import IGNORED_LABEL
from tests.tiny import JOB_TOKENIZER, digest, job_model, job_sequences
from train.checkpoints import list_checkpoints
from train.config import TrainingConfig
from train.loop import NonFiniteError, Progress, optimize_unless_plain, train
from train.masking import MaskedBatches
from train.metrics import read_metrics
from train.optimizer import SCHEDULES, build_optimizer

ROOT = Path(__file__).parents[2]


def train_job(
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
    trained = job_model(plain=plain)

    def weigh(_should_stop: Any) -> dict[str, float]:
        """A "loss" that any process finds the same for the same weights."""
        return {"loss": int(digest(trained)[:6], 16) / 1e6}

    batches = MaskedBatches(job_sequences(), JOB_TOKENIZER, batch_size=2, probability=0.3, seed=1)
    progress = train(
        trained,
        batches,
        config,
        evaluate=weigh if evaluate == "weights" else evaluate,
        callbacks=callbacks,
        fingerprint=fingerprint,
    )
    return trained, progress


def stop_at(step: int, number: int = signal.SIGINT):
    def callback(progress, record):
        if progress.step == step and "loss" in record:
            os.kill(os.getpid(), number)

    return callback


def test_the_steps_by_hand(tmp_path):
    """Three steps of the loop are three steps of PyTorch's AdamW on the whole batches."""
    changes = {"max_steps": 3, "warmup": 0.6, "clip_norm": 0.5, "weight_decay": 0.1}
    model = job_model(dropout=0.0)
    batches = MaskedBatches(job_sequences(), JOB_TOKENIZER, batch_size=2, probability=0.3, seed=1)
    config = TrainingConfig(output=tmp_path, accumulate=2, learning_rate=1e-2, **changes)
    train(model, batches, config)

    expected = job_model(dropout=0.0)
    decayed = [p for p in expected.parameters() if p.dim() > 1]
    others = [p for p in expected.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    )
    for step in range(3):
        optimizer.zero_grad()
        total, count = 0.0, 0
        for index in (2 * step, 2 * step + 1):
            loss, tokens = expected.loss_sum(**batches.batch(0, index))
            total, count = total + loss, count + tokens
        (total / count).backward()
        norm = torch.sqrt(sum(p.grad.square().sum() for p in expected.parameters()))
        for p in expected.parameters():
            p.grad *= min(1.0, 0.5 / (norm.item() + 1e-6))
        for group in optimizer.param_groups:
            group["lr"] = 1e-2 * (1 / 3, 2 / 3, 1)[step]  # two steps of warm-up, then the top
        optimizer.step()
    theirs = expected.state_dict()
    for name, ours in model.state_dict().items():
        if not name.endswith("key.bias"):  # no gradient but what is rounded, which Adam enlarges
            torch.testing.assert_close(ours, theirs[name], rtol=1e-4, atol=1e-6)


def test_accumulation_is_the_big_batch(tmp_path):
    """Normalised by all supervised tokens, however unequally the micro-batches have them."""
    changes = {"max_steps": 1, "warmup": 0.0}
    seen = []
    for name, batch_size, accumulate in (("big", 8, 1), ("small", 2, 4)):
        model = job_model(dropout=0.0)
        batches = MaskedBatches(job_sequences(8), JOB_TOKENIZER, batch_size=8, seed=1)
        whole = batches.batch(0, 0)
        counts = (whole["labels"] != IGNORED_LABEL).sum(dim=1)
        assert len(set(counts.tolist())) > 1

        class Parts:
            num_batches = accumulate

            def batch(self, _epoch, index, size=batch_size, whole=whole):
                return {n: t[index * size : (index + 1) * size] for n, t in whole.items()}

        config = TrainingConfig(output=tmp_path / name, accumulate=accumulate, **changes)
        train(model, Parts(), config)
        seen.append(read_metrics(tmp_path / name / "metrics.jsonl")[0])
    assert seen[0]["loss"] == pytest.approx(seen[1]["loss"], rel=1e-6)
    assert seen[0]["gradient_norm"] == pytest.approx(seen[1]["gradient_norm"], rel=1e-5)


def test_it_learns_and_reports_it(tmp_path):
    model, progress = train_job(tmp_path, epochs=12)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records] == list(range(1, 73))
    assert {r["epoch"] for r in records} == set(range(12))
    tokens = [r["tokens"] for r in records if r["epoch"] == 11]
    assert sum(tokens) == len(job_sequences().ids)  # without padding
    losses = [r["loss"] for r in records]
    assert sum(losses[-6:]) < 0.9 * sum(losses[:6])
    assert progress.step == 72
    assert progress.stop_signal is None
    assert not model.training


# Steps 1 and 3 lie within an epoch of six steps, 6 at its end; every step ends an accumulation.
@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize(
    ("step", "number"),
    [(1, signal.SIGTERM), (3, signal.SIGINT), (6, signal.SIGTERM), (11, signal.SIGINT)],
)
def test_a_resumed_run_gives_the_same_bits(step, number, plain, tmp_path):
    whole, _ = train_job(tmp_path / "whole", plain=plain)
    assert is_optimized(whole) is not plain
    _, stopped = train_job(tmp_path / "stopped", plain=plain, callbacks=[stop_at(step, number)])
    assert stopped.step == step
    assert stopped.stop_signal == number
    resumed, progress = train_job(tmp_path / "stopped", plain=plain, resume=True)
    assert progress.step == 12
    assert digest(resumed) == digest(whole)

    def untimed(path):
        return [{k: v for k, v in r.items() if k != "seconds"} for r in read_metrics(path)]

    assert untimed(tmp_path / "stopped" / "metrics.jsonl") == untimed(
        tmp_path / "whole" / "metrics.jsonl"
    )


def test_resuming_takes_the_random_state_along(tmp_path, monkeypatch):
    """The test above can fail: without the generator's state, dropout is another."""
    whole, _ = train_job(tmp_path / "whole")
    train_job(tmp_path / "stopped", callbacks=[stop_at(3)])
    monkeypatch.setattr(torch, "set_rng_state", lambda _state: None)
    resumed, _ = train_job(tmp_path / "stopped", resume=True)
    assert digest(resumed) != digest(whole)


def test_records_after_the_checkpoint_are_rewritten(tmp_path):
    train_job(tmp_path, callbacks=[stop_at(5)])
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"step": 6, "loss": "of a run that was killed before it saved"}\n')
    train_job(tmp_path, resume=True)
    assert [r["step"] for r in read_metrics(tmp_path / "metrics.jsonl")] == list(range(1, 13))


@pytest.mark.slow
def test_kills_and_resumes(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "tests.train.test_loop", str(tmp_path), "8"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    digests = result.stdout.split()
    assert len(digests) == 9
    assert len(set(digests)) == 1
    assert not list(tmp_path.rglob(f"{TEMPORARY_PREFIX}*"))  # what a kill left is cleaned up
    for run in tmp_path.iterdir():
        assert digest(from_pretrained(run)) == digests[0]


def test_checkpoints_are_models_and_only_the_last_are_kept(tmp_path):
    trained, _ = train_job(tmp_path, save_every=2, keep_checkpoints=3)
    names = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step-00000008", "step-00000010", "step-00000012"]
    last = from_pretrained(tmp_path / "checkpoints" / names[-1])
    assert digest(last) == digest(trained)
    files = {path.name for path in (tmp_path / "checkpoints" / names[-1]).iterdir()}
    assert files == {"config.json", "model.safetensors", "optimizer.safetensors", "state.json"}


@pytest.mark.parametrize(
    ("where", "message"),
    [("loss", "the loss is nan"), ("gradient", "gradient of lm_head.bias is the first")],
)
def test_what_is_not_finite_stops_the_run_before_the_step(where, message, tmp_path):
    model = job_model()
    loss_sum = model.loss_sum
    calls = []

    def poisoned(**batch):
        calls.append(1)
        total, count = loss_sum(**batch)
        if len(calls) == 7:  # the first batch of the fourth step
            if where == "loss":
                return total * math.nan, count
            model.lm_head.bias.register_hook(lambda gradient: gradient * math.inf)
        return total, count

    model.loss_sum = poisoned
    batches = MaskedBatches(job_sequences(), JOB_TOKENIZER, batch_size=2, probability=0.3, seed=1)
    before = []
    config = TrainingConfig(output=tmp_path, epochs=2, accumulate=2, save_every=3)
    with pytest.raises(NonFiniteError, match=f"step 4: .*{message}"):
        train(model, batches, config, callbacks=[lambda *_: before.append(digest(model))])
    assert digest(model) == before[2]  # the third step was the last
    last = list_checkpoints(tmp_path / "checkpoints")[-1]
    assert last.name == "step-00000003"
    assert digest(from_pretrained(last)) == before[2]


def test_evaluation_early_stopping_and_the_best_weights(tmp_path):
    losses = iter([5.0, 6.0, 3.0, 4.0, 3.0, 1.0])  # the third is the best; the fifth equals it
    seen = []

    def evaluate(_should_stop):
        seen.append(digest(model))
        return {"loss": next(losses)}

    model = job_model()
    batches = MaskedBatches(job_sequences(), JOB_TOKENIZER, batch_size=2, seed=1)
    config = TrainingConfig(output=tmp_path, epochs=5, evaluate_every=2, patience=2)
    progress = train(model, batches, config, evaluate=evaluate)
    assert progress.step == 10
    assert progress.best_value == 3.0
    assert digest(model) == seen[2]
    evaluated = [
        (r["step"], r["eval_loss"])
        for r in read_metrics(tmp_path / "metrics.jsonl")
        if "eval_loss" in r
    ]
    assert evaluated == [(2, 5.0), (4, 6.0), (6, 3.0), (8, 4.0), (10, 3.0)]


def test_the_last_step_is_evaluated_and_once(tmp_path):
    steps = []
    train_job(
        tmp_path,
        evaluate=lambda _should_stop: {"loss": 1.0},
        callbacks=[
            lambda progress, record: steps.append(progress.step) if "eval_loss" in record else None
        ],
    )
    assert steps == [5, 10, 12]


def test_a_signal_during_evaluation_is_heard_and_the_evaluation_made_up_for(tmp_path):
    def evaluate(should_stop):
        if not seen:
            seen.append(1)
            os.kill(os.getpid(), signal.SIGTERM)
        return None if should_stop() else {"loss": 1.0}

    seen: list[int] = []
    whole, _ = train_job(tmp_path / "whole", evaluate=lambda _s: {"loss": 1.0})
    _, progress = train_job(tmp_path / "stopped", evaluate=evaluate)
    assert (progress.step, progress.stop_signal) == (5, signal.SIGTERM)
    resumed, _ = train_job(tmp_path / "stopped", evaluate=evaluate, resume=True)
    assert digest(resumed) == digest(whole)
    records = read_metrics(tmp_path / "stopped" / "metrics.jsonl")
    assert [r["step"] for r in records if "eval_loss" in r] == [5, 10, 12]


def test_a_second_run_does_not_bury_the_first(tmp_path):
    train_job(tmp_path, max_steps=2)
    with pytest.raises(ValueError, match="already contains a run.*--resume"):
        train_job(tmp_path, max_steps=2)


def test_another_run_is_not_resumed(tmp_path):
    train_job(tmp_path, callbacks=[stop_at(3)])
    with pytest.raises(ValueError, match="learning_rate was 0.01, now it is 0.02"):
        train(
            job_model(),
            MaskedBatches(job_sequences(), JOB_TOKENIZER, batch_size=2),
            TrainingConfig(
                output=tmp_path,
                epochs=2,
                accumulate=2,
                evaluate_every=5,
                learning_rate=2e-2,
                resume=True,
            ),
        )
    state = json.loads((list_checkpoints(tmp_path / "checkpoints")[-1] / "state.json").read_text())
    assert state["progress"]["step"] == 3  # nothing was lost


def test_a_run_on_other_data_is_not_resumed(tmp_path):
    train_job(tmp_path, callbacks=[stop_at(3)], fingerprint={"text": 1})
    with pytest.raises(ValueError, match="text was 1, now it is 2.*choose another --output"):
        train_job(tmp_path, resume=True, fingerprint={"text": 2})
    with pytest.raises(ValueError, match="text was 1, now it is None"):
        train_job(tmp_path, resume=True)


@pytest.mark.parametrize("step", [3, 5, 7])
def test_early_stopping_is_resumed_too(step, tmp_path):
    def evaluate_with(name):
        # The same result at the same step in every process.
        course = {2: 5.0, 4: 3.0, 6: 4.0, 8: 3.5, 10: 1.0}
        return lambda _should_stop: {"loss": course[progress_of[name]]}

    progress_of: dict[str, int] = {}

    def run(name, *more, **changes):
        def note(progress, _record):
            progress_of[name] = progress.step

        return train_job(
            tmp_path / name, evaluate=evaluate_with(name), callbacks=[note, *more],
            evaluate_every=2, patience=2, **changes,
        )  # fmt: skip

    whole, _ = run("whole")
    run("stopped", stop_at(step))
    resumed, progress = run("stopped", resume=True)
    assert (progress.step, progress.best_value) == (8, 3.0)
    assert digest(resumed) == digest(whole)
    assert digest(from_pretrained(tmp_path / "whole" / "checkpoints" / "best")) == digest(whole)


@pytest.mark.parametrize("changes", [{"patience": 9}, {"best_metric": "accuracy"}])
def test_the_best_weights_need_evaluations(changes, tmp_path):
    with pytest.raises(ValueError, match=f"{next(iter(changes))} needs evaluations"):
        train_job(tmp_path, **changes)


def test_a_held_out_loss_that_is_not_finite_stops_the_run(tmp_path):
    with pytest.raises(NonFiniteError, match="step 5: the held-out loss is nan"):
        train_job(tmp_path, evaluate=lambda _s: {"loss": math.nan}, patience=3)


def test_a_new_run_leaves_what_others_put_beside_it(tmp_path):
    for name in ("best", ".tmp-mine", "checkpoints/notes"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "file").write_text("mine")
    train_job(tmp_path, evaluate=lambda _s: {"loss": 1.0}, patience=3)
    for name in ("best", ".tmp-mine", "checkpoints/notes"):
        assert (tmp_path / name / "file").read_text() == "mine"


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("optimizer.safetensors", b"cut off", "step-00000003 is damaged.*the one before"),
        ("model.safetensors", b"cut off", "model.safetensors is not a complete"),
        ("state.json", b"{}", "lacks progress or run.*the one before"),
        ("state.json", b"{", "state.json is not valid JSON"),
    ],
)
def test_a_damaged_checkpoint_is_named(file, content, message, tmp_path):
    train_job(tmp_path, callbacks=[stop_at(3)])
    (tmp_path / "checkpoints" / "step-00000003" / file).write_bytes(content)
    with pytest.raises(CheckpointError, match=message):
        train_job(tmp_path, resume=True)


def test_lost_metrics_do_not_stop_a_run(tmp_path):
    whole, _ = train_job(tmp_path / "whole")
    train_job(tmp_path / "stopped", callbacks=[stop_at(3)])
    (tmp_path / "stopped" / "metrics.jsonl").unlink()
    resumed, _ = train_job(tmp_path / "stopped", resume=True)
    assert digest(resumed) == digest(whole)
    records = read_metrics(tmp_path / "stopped" / "metrics.jsonl")
    assert [r["step"] for r in records] == list(range(4, 13))


def test_metrics_after_the_checkpoint_are_written_once(tmp_path):
    """As after a kill: the last steps before it are in the metrics, but in no checkpoint."""
    train_job(tmp_path, callbacks=[stop_at(6)])
    shutil.rmtree(tmp_path / "checkpoints" / "step-00000006")  # step 4's is still there
    train_job(tmp_path, resume=True)
    steps = [record["step"] for record in read_metrics(tmp_path / "metrics.jsonl")]
    assert steps == list(range(1, 13))


def test_resuming_without_a_checkpoint_starts_and_reports_it(tmp_path, capsys):
    whole, _ = train_job(tmp_path / "whole")
    begun, _ = train_job(tmp_path / "begun", resume=True)
    assert digest(begun) == digest(whole)
    assert "no checkpoint in" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"accumulate": 0}, "accumulate=0"),
        ({"patience": 0}, "patience=0"),
        ({"learning_rate": -1.0}, "learning_rate=-1.0"),
        ({"learning_rate": math.nan}, "learning_rate=nan"),
        ({"warmup": 2.0}, "warmup=2.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    ],
)
def test_settings_without_meaning_are_named(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        TrainingConfig(output=tmp_path, **changes)


def test_only_matrices_decay():
    model = job_model()
    decayed, others = build_optimizer(model, 1e-3, 0.1).param_groups
    assert decayed["weight_decay"] == 0.1
    assert others["weight_decay"] == 0.0
    names = {id(p): name for name, p in model.named_parameters()}
    assert all(
        names[id(p)].endswith("weight") and "norm" not in names[id(p)] for p in decayed["params"]
    )
    assert all("bias" in names[id(p)] or "norm" in names[id(p)] for p in others["params"])
    assert len(decayed["params"]) + len(others["params"]) == len(names)


def test_the_learning_rate_rises_and_falls():
    rates = [SCHEDULES["linear"](step, 10, 4) for step in range(11)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


@pytest.mark.parametrize("warmup_steps", [0, 1, 7])
@pytest.mark.parametrize("name", SCHEDULES)
def test_schedules_are_those_of_transformers(name, warmup_steps):
    """After the warm-up; in it ours is one step ahead, so that the first step has a rate."""
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    name_there = {"constant": "constant_with_warmup", "inverse-sqrt": "inverse_sqrt"}.get(
        name, name
    )

    def theirs(step, warmup_steps):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        scheduler = transformers.get_scheduler(name_there, optimizer, warmup_steps, 30)
        return scheduler.lr_lambdas[0](step)

    for step in range(31):
        factor = SCHEDULES[name](step, 30, warmup_steps)
        if step < warmup_steps:
            assert factor == pytest.approx(theirs(step + 1, warmup_steps + 1))
            assert factor > theirs(step, warmup_steps)
        else:
            assert factor == pytest.approx(theirs(step, warmup_steps))


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{"bf16": True}, {"compile": True}])
def test_flags_that_change_how_but_not_what(changes, tmp_path, monkeypatch):
    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda function: compile_(function, backend="aot_eager"))
    train_job(tmp_path / "plain", max_steps=1, accumulate=1)
    train_job(tmp_path / "flag", max_steps=1, accumulate=1, **changes)
    plain, flag = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("plain", "flag"))
    assert plain[0]["loss"] == pytest.approx(flag[0]["loss"], rel=0.05)
    if "bf16" in changes:
        assert plain[0]["loss"] != flag[0]["loss"]


def test_another_attention_implementation_is_another_run(tmp_path, monkeypatch):
    train_job(tmp_path / "run", max_steps=8, callbacks=[stop_at(4)])
    eager = functools.partial(job_model, attention="eager")
    monkeypatch.setattr(sys.modules[__name__], "job_model", lambda **_: eager())
    with pytest.raises(ValueError, match="attention was 'sdpa', now it is 'eager'"):
        train_job(tmp_path / "run", max_steps=8, resume=True)


@pytest.mark.parametrize("plain", [False, True])
def test_a_run_resumes_only_with_the_same_settings(plain, tmp_path):
    train_job(tmp_path, plain=plain, callbacks=[stop_at(4)])
    words = ["plain", "optimized"] if plain else ["optimized", "plain"]
    with pytest.raises(ValueError, match="implementation was '{}', now it is '{}'".format(*words)):
        train_job(tmp_path, plain=not plain, resume=True)

    def job(resume: bool, plain: bool) -> bool:
        model = job_model(plain=True)
        config = TrainingConfig(output=tmp_path, resume=resume)
        optimize_unless_plain(model, config, plain=plain)
        return is_optimized(model)

    assert job(resume=True, plain=False) is not plain  # other settings stay as they were
    if plain:
        assert job(resume=True, plain=True) is False
    else:
        with pytest.raises(
            ValueError, match="--plain contra.*00004, which belongs to a run of an opt"
        ):
            job(resume=True, plain=True)
    with pytest.raises(ValueError, match="already contains a run"):
        job(resume=False, plain=plain)


@pytest.mark.parametrize("plain", [False, True])
def test_a_new_run_is_optimized_unless_it_is_to_be_plain(plain, tmp_path):
    model = job_model(plain=True)
    optimize_unless_plain(model, TrainingConfig(output=tmp_path, resume=True), plain=plain)
    assert is_optimized(model) is not plain


def test_a_run_resumes_with_the_library_that_it_began_with(tmp_path, monkeypatch):
    if not linear.onednn_works():
        pytest.skip("this PyTorch has one library")
    monkeypatch.setattr(linear, "_chosen", None)  # to be restored afterwards
    for library, other in (linear.LIBRARIES, linear.LIBRARIES[::-1]):
        linear.set_library(library)
        whole, _ = train_job(tmp_path / library / "whole")
        train_job(tmp_path / library / "stopped", callbacks=[stop_at(4)])
        linear.set_library(other)
        resumed, _ = train_job(tmp_path / library / "stopped", resume=True)
        assert linear.measured_library() == library
        assert digest(resumed) == digest(whole)


def test_a_library_that_is_missing_is_named(tmp_path, monkeypatch):
    train_job(tmp_path, callbacks=[stop_at(4)])
    (file,) = tmp_path.glob("checkpoints/*/state.json")
    file.write_text(json.dumps(json.loads(file.read_text()) | {"library": "onednn"}))
    monkeypatch.setattr(linear, "onednn_works", lambda: False)
    with pytest.raises(ValueError, match="multiplies with onednn, which this PyTorch does not"):
        train_job(tmp_path, resume=True)


# What versions 0.4 and 0.3 saved of a run, besides its settings.
@pytest.mark.parametrize("noted", [{"attention": "packed", "dropout_bits": 16}, {}])
def test_a_checkpoint_of_an_earlier_version_is_named_as_such(noted, tmp_path):
    train_job(tmp_path, callbacks=[stop_at(4)])
    (file,) = tmp_path.glob("checkpoints/*/state.json")
    state = json.loads(file.read_text())
    for name in ("attention", "implementation"):
        del state["run"][name]
    del state["library"]
    state["run"] |= noted
    file.write_text(json.dumps(state))
    message = "00004 was written by version 0.4 .* or an older one.*another --output.*load the wei"
    with pytest.raises(ValueError, match=message):
        train_job(tmp_path, resume=True)
    config = TrainingConfig(output=tmp_path, resume=True)
    with pytest.raises(ValueError, match=message):
        optimize_unless_plain(job_model(), config, plain=False)


@pytest.mark.cuda
def test_cuda_stops_and_resumes_to_the_same_bits(tmp_path):
    whole, _ = train_job(tmp_path / "whole", device="cuda")
    train_job(tmp_path / "stopped", device="cuda", callbacks=[stop_at(3)])
    resumed, _ = train_job(tmp_path / "stopped", device="cuda", resume=True)
    assert digest(resumed.cpu()) == digest(whole.cpu())


# --- A script that is killed while it saves: `python -m tests.train.test_loop OUTPUT KILLS` trains
# once undisturbed, then KILLS times in processes that are killed at a random file operation under
# OUTPUT and resumed; it prints the digests of the final weights, one a line.


def count_operations(under: Path, die_at: int) -> list[int]:
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


def in_child(work: Callable[[], str]) -> str | None:
    """What `work` returns in a separate process; None if that process was killed."""
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


def train_and_die(output: Path, die_at: int) -> str:
    torch.set_num_threads(1)
    linear.set_library("default")  # a run that is killed before it saves would measure once more
    count = count_operations(output, die_at)
    trained, _ = train_job(output, save_every=1, resume=True, patience=2, evaluate="weights")
    trained.save_pretrained(output)
    return f"{digest(trained)} {count[0]}"


def main(output: Path, kills: int) -> None:
    # This process only imports and forks: threads of the parent would be missing in the children.
    for slow in ("torch._dynamo", "safetensors.torch"):
        importlib.import_module(slow)
    undisturbed = in_child(lambda: train_and_die(output / "undisturbed", die_at=-1))
    assert undisturbed is not None
    expected, operations = undisturbed.split()
    print(expected)
    for number, die_at in enumerate(random.Random(0).sample(range(1, int(operations)), kills)):
        place = output / str(number)
        assert in_child(lambda p=place, n=die_at: train_and_die(p, n)) is None
        resumed = in_child(lambda p=place: train_and_die(p, -1))
        assert resumed is not None
        print(resumed.split()[0])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
