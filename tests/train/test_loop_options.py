"""Options of the loop: each does what it says for every family, plain and optimized, and resumes.

Label smoothing, frozen parts, gradient checkpointing, loss scaling, the best metric, callbacks.
"""

import csv
import json
import math
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.amp import GradScaler

from minitransformer import Tokenizer, from_pretrained
from minitransformer.models.losses import IGNORED_LABEL
from tests.tiny import (
    BART,
    JOB_TOKENIZER,
    LANGUAGE_MODELS,
    SEQ2SEQ_LMS,
    T5,
    assert_equal,
    batch_of,
    digest,
    gradients,
    job_model,
    job_sequences,
    new,
    pad,
    random_ids,
)
from train import CSVLog, PrintSamples, StopAfter, TrainingConfig, take_step, train
from train.checkpoints import list_checkpoints
from train.freezing import frozen, frozen_parameters
from train.loop import NonFiniteError, Progress
from train.masking import MaskedBatches
from train.metrics import read_metrics
from train.optimizer import build_optimizer
from train.recomputation import recomputed_layers
from train.smoothing import check_can_smooth, smoothed_loss_sum

# One class of each kind of loss, and each family.
TRAINED = [
    "BertForMaskedLM",
    "RobertaForSequenceClassification",
    "DistilBertForTokenClassification",
    "BertForQuestionAnswering",
    "BartForSequenceClassification",
    *LANGUAGE_MODELS,
]
SMOOTHED = [name for name in TRAINED if "Question" not in name]
# One class for each forward of a layer, for options that do not ask for the loss.
LAYERS = ["BertForMaskedLM", "DistilBertForTokenClassification", "GPT2LMHeadModel", BART, T5]
plain_and_optimized = pytest.mark.parametrize("variant", ["sdpa", "optimized"])


def labelled_batch(name: str) -> dict[str, torch.Tensor]:
    """A padded batch of three sequences, with some labels that a model of this class takes."""
    if name.startswith(("GPT2", "Bart", "Marian", "T5")):
        ids, mask = pad([random_ids(length) for length in (5, 2, 4)], fill=1)
    else:
        ids, mask = batch_of([5, 2, 4]).values()
    batch = {"input_ids": ids, "attention_mask": mask}
    if name == "BartForSequenceClassification":
        ids[torch.arange(3), mask.sum(dim=1) - 1] = 2  # the end token
    if "Question" in name:
        return (
            batch
            | {"start_positions": torch.tensor([1, 0, 2])}
            | {"end_positions": torch.tensor([3, 1, 2])}
        )
    if "Sequence" in name:
        return batch | {"labels": torch.tensor([2, 0, 1])}
    labels = ids.masked_fill(mask == 0, IGNORED_LABEL)
    if "Token" in name:
        labels = torch.where(labels >= 0, labels % 3, labels)
    labels[0, 2] = labels[2, 0] = IGNORED_LABEL
    return batch | {"labels": labels}


def config_with(tmp_path: Any, **changes: Any) -> TrainingConfig:
    settings = {"max_steps": 6, "learning_rate": 1e-2, "evaluate_every": 2, "save_every": 2}
    return TrainingConfig(output=tmp_path, **(settings | changes))


def train_tiny(tmp_path: Any, *, plain: bool = False, tokenizer: Any = None, **changes: Any) -> Any:
    """Six steps of the tiny RoBERTa with dropout; the arguments of `train` are taken out."""
    more = {n: changes.pop(n) for n in ("evaluate", "callbacks", "evaluate_first") if n in changes}
    model = job_model(plain=plain)
    batches = MaskedBatches(job_sequences(), JOB_TOKENIZER, batch_size=4, probability=0.3, seed=1)
    progress = train(model, batches, config_with(tmp_path, **changes), tokenizer=tokenizer, **more)
    return model, progress


# ---- label smoothing ----


@plain_and_optimized
@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothed_losses_are_those_of_pytorch_and_transformers(name, variant):
    model, batch = new(name, variant), labelled_batch(name)
    total, count = smoothed_loss_sum(model, 0.1, **batch)
    assert int(count) == int(model.num_supervised_tokens(batch))

    logits, labels = model(**batch).logits, batch["labels"]
    is_causal = name == "GPT2LMHeadModel"
    if is_causal:
        logits, labels = logits[:, :-1], labels[:, 1:]
    expected = F.cross_entropy(logits.flatten(0, -2), labels.flatten(), label_smoothing=0.1)
    assert_equal(total / count, expected)
    unsmoothed, _ = smoothed_loss_sum(model, 0.0, **batch)
    assert_equal(unsmoothed, model.loss_sum(**batch)[0])
    assert all(g.isfinite().all() for g in gradients(model, total))

    pytest.importorskip("transformers", reason="parity needs transformers")
    from transformers.trainer_pt_utils import LabelSmoother

    output = {"logits": model(**batch).logits.double()}
    theirs = LabelSmoother(0.1)(output, batch["labels"], shift_labels=is_causal)
    torch.testing.assert_close(total / count, theirs, rtol=1e-6, atol=1e-6)  # it adds in float32


def test_only_the_training_loss_is_smoothed(tmp_path):
    def evaluate(_should_stop):
        total, count = model.loss_sum(**batches.batch(0, 0))
        return {"loss": (total / count).item()}

    model = job_model(dropout=0.0)
    batches = MaskedBatches(job_sequences(4), JOB_TOKENIZER, batch_size=4, shuffle=False)
    config = config_with(tmp_path, max_steps=1, label_smoothing=0.3)
    train(model, batches, config, evaluate=evaluate, evaluate_first=True)
    evaluated, step, _ = read_metrics(tmp_path / "metrics.jsonl")
    before = job_model(dropout=0.0)
    unsmoothed, smoothed = (
        float(total / count)
        for total, count in (
            before.loss_sum(**batches.batch(0, 0)),
            smoothed_loss_sum(before, 0.3, **batches.batch(0, 0)),
        )
    )
    assert (evaluated["step"], evaluated["eval_loss"]) == (0, pytest.approx(unsmoothed))
    assert step["loss"] == pytest.approx(smoothed)
    assert smoothed != pytest.approx(unsmoothed, rel=1e-4)


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("BertForQuestionAnswering", {}, "those of BertForQuestionAnswering are positions"),
        (
            "BertForSequenceClassification",
            {"problem_type": "multi_label_classification"},
            "problem_type is 'multi_label_classification'",
        ),
    ],
)
def test_labels_that_cannot_be_smoothed(name, fields, message):
    with pytest.raises(ValueError, match=message):
        check_can_smooth(new(name, **fields))


# ---- frozen parts ----


@plain_and_optimized
@pytest.mark.parametrize("name", LAYERS)
def test_frozen_parts_stay_and_the_others_get_the_same_gradients(name, variant, tmp_path):
    layers = "encoder.0,decoder.0" if hasattr(new(name).backbone, "encoder") else "0"
    model, batch = new(name, variant, dtype=torch.float32), labelled_batch(name)
    whole = gradients(model, model.loss_sum(**batch)[0])
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    names = frozen_parameters(model, f"embeddings,{layers}")
    assert names and len(names) < len(before)
    with frozen(model, f"embeddings,{layers}"):
        optimizer = build_optimizer(model, 1e-2, 0.01)
        take_step(model, model.loss_sum, [batch], optimizer, 1e-2, 1, config_with(tmp_path))
        for (n, p), gradient in zip(model.named_parameters(), whole, strict=True):
            if n in names:
                assert torch.equal(p, before[n]) and p.grad is None and p not in optimizer.state
            elif p.grad is not None:
                scale = 1 / int(model.num_supervised_tokens(batch))
                clip = min(1.0, 1.0 / _norm(model, names, whole, scale))
                torch.testing.assert_close(p.grad, gradient * scale * clip, rtol=1e-3, atol=1e-6)
    moved = [n for n, p in model.named_parameters() if not torch.equal(p, before[n])]
    assert moved and not names.keys() & set(moved)
    assert all(p.requires_grad for p in model.parameters())


def test_what_was_frozen_before_stays_so():
    model = new("BertForMaskedLM")
    model.lm_head.bias.requires_grad_(False)
    with frozen(model, "lm_head"):
        pass
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["lm_head.bias"]


def _norm(model: Any, names: Any, whole: Any, scale: float) -> float:
    kept = zip(model.named_parameters(), whole, strict=True)
    return math.sqrt(sum(float((g * scale).square().sum()) for (n, _), g in kept if n not in names))


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("BertForMaskedLM", "embeddings", "backbone.embeddings."),
        ("BertForMaskedLM", "0-1", "backbone.layers.0. backbone.layers.1."),
        ("BertForMaskedLM", "2", "backbone.layers.2."),
        ("BertForMaskedLM", "layers.1.attention", "backbone.layers.1.attention."),
        ("BertForSequenceClassification", "pooler, 0", "backbone.pooler. backbone.layers.0."),
        ("BertForMaskedLM", "lm_head.bias", "lm_head.bias"),
        ("GPT2LMHeadModel", "embeddings", "backbone.token_emb backbone.position_emb"),
        (BART, "encoder.1", "backbone.encoder.layers.1."),
        (BART, "decoder", "backbone.decoder."),
        (BART, "embeddings", "backbone.token_emb backbone.encoder.pos backbone.encoder.emb "
         "backbone.decoder.pos backbone.decoder.emb"),
        (T5, "embeddings,decoder.0-2", "backbone.token_emb backbone.decoder.layers."),
    ],
)  # fmt: skip
def test_what_can_be_named(name, part, expected):
    model = new(name)
    beginnings = tuple(expected.split())
    assert set(frozen_parameters(model, part)) == {
        n for n, _ in model.named_parameters() if n.startswith(beginnings)
    }


@pytest.mark.parametrize(
    ("name", "part", "message"),
    [
        (
            "BertForMaskedLM",
            "0-5",
            r"'0-5', which \w+ does not have; it has embeddings, 0-2, ",
        ),
        (
            "BertForMaskedLM",
            "encodr",
            "'encodr', .* it has embeddings, 0-2, layers, backbone, lm_h",
        ),
        ("BertForMaskedLM", "2-1", "'2-1'"),
        ("BertForMaskedLM", "0-3", "'0-3'"),  # three layers are 0-2
        ("BertForMaskedLM", "", "freeze names ''"),
        (BART, "0-1", r"it has embeddings, encoder\.0-1, decoder\.0-2, .*encoder.layers.0.attent"),
        ("BertForMaskedLM", "backbone,lm_head", "leaves nothing to train"),
    ],
)
def test_what_cannot_be_frozen_is_named_with_what_can(name, part, message):
    with pytest.raises(ValueError, match=message), frozen(new(name), part):
        pass


@pytest.mark.parametrize("plain", [False, True])
def test_a_run_with_frozen_parts_resumes_with_the_same(plain, tmp_path):
    changes = {"freeze": "embeddings", "plain": plain, "gradient_checkpointing": True}
    changes |= {"label_smoothing": 0.1, "schedule": "cosine"}
    whole, _ = train_tiny(tmp_path / "whole", **changes)
    stop = [lambda progress, _record: progress.step == 3]
    _, stopped = train_tiny(tmp_path / "run", callbacks=stop, **changes)
    assert (stopped.step, stopped.stopped_by_callback, stopped.stop_signal) == (3, True, None)
    with pytest.raises(ValueError, match="freeze was 'embeddings', now it is '0'"):
        train_tiny(tmp_path / "run", resume=True, **(changes | {"freeze": "0"}))
    resumed, progress = train_tiny(tmp_path / "run", resume=True, **changes)
    assert (progress.step, progress.stopped_by_callback) == (6, False)
    assert digest(resumed) == digest(whole)
    untrained = job_model().state_dict()
    for name, values in resumed.state_dict().items():
        assert torch.equal(values, untrained[name]) is ("embeddings" in name) or "bias" in name
    assert all(p.requires_grad for p in resumed.parameters())
    assert not any("forward" in vars(module) for module in resumed.modules())


# ---- gradient checkpointing ----


@plain_and_optimized
@pytest.mark.parametrize("name", LAYERS)
def test_recomputed_layers_give_the_same_gradients(name, variant):
    """With dropout: the second time, the same values are dropped."""
    model, batch = new(name, variant, dropout=0.2).train(), labelled_batch(name)
    states, runs = list(model.state_dict()), []

    def run():
        torch.manual_seed(3)
        calls.clear()
        loss, _ = model.loss_sum(**batch)
        return loss, gradients(model, loss), torch.rand(1), len(calls)

    calls: list[int] = []
    stack = next(m for n, m in model.named_modules() if n.endswith("layers"))
    for plainly in (True, False):
        with recomputed_layers(model) if not plainly else torch.enable_grad():
            feed_forward = stack[0].feed_forward
            calls_of = feed_forward.forward
            feed_forward.forward = lambda *a, f=calls_of: calls.append(1) or f(*a)
            runs.append(run())
            del feed_forward.forward
            assert list(model.state_dict()) == states
    assert not any("forward" in vars(module) for module in model.modules())
    (loss, expected, drawn, once), (recomputed, found, drawn_then, twice) = runs
    assert (once, twice) == (1, 2)
    assert torch.equal(loss, recomputed) and torch.equal(drawn, drawn_then)
    for ours, theirs in zip(found, expected, strict=True):
        assert_equal(ours, theirs)


@plain_and_optimized
def test_recomputed_layers_keep_less(variant):
    """The bytes that autograd keeps after a forward pass, and the twins stay in use."""

    def kept(context):
        sizes = {}

        def note(tensor):
            storage = tensor.untyped_storage()
            sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with context, torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            loss, _ = model.loss_sum(**batch)
        return sum(sizes.values()), loss

    model = new("RobertaForMaskedLM", variant, num_hidden_layers=8).train()
    batch = batch_of([18, 16, 14, 12])
    labels = torch.full_like(batch["input_ids"], IGNORED_LABEL)
    labels[:, 3] = batch["input_ids"][:, 3]
    batch["labels"] = labels
    (before, loss), (after, same) = kept(torch.enable_grad()), kept(recomputed_layers(model))
    assert torch.equal(loss, same)
    assert after < before / 2


@pytest.mark.slow
def test_recomputed_layers_and_smoothed_labels_are_compiled():
    model, batch = new("RobertaForMaskedLM", num_hidden_layers=1), labelled_batch(SMOOTHED[0])
    loss_sum = partial(smoothed_loss_sum, model, 0.1)
    loss, _ = loss_sum(**batch)
    with recomputed_layers(model):
        compiled, _ = torch.compile(loss_sum, backend="aot_eager")(**batch)
        found = gradients(model, compiled)
    assert_equal(compiled, loss)
    for ours, theirs in zip(found, gradients(model, loss), strict=True):
        assert_equal(ours, theirs)


# ---- fp16 ----


def fp16_on_a_cpu() -> Any:
    """What `take_step` reads of a config with fp16, which is refused on a CPU."""
    autocast = partial(torch.autocast, "cpu", torch.float16)
    return SimpleNamespace(autocast=autocast, clip_norm=1.0)


def test_a_scaled_step_is_a_step(tmp_path):
    """With PyTorch's scaler of CPUs; a CUDA device runs the same lines."""
    steps = []
    for config, scaler in (
        (config_with(tmp_path), None),
        (fp16_on_a_cpu(), GradScaler("cpu", init_scale=1024.0)),
    ):
        model, batch = job_model(dropout=0.0, plain=True), labelled_batch("RobertaForMaskedLM")
        optimizer = build_optimizer(model, 1e-3, 0.01)
        step = partial(take_step, model, model.loss_sum, [batch, batch], optimizer, 1e-3)
        steps.append([step(number, config, scaler) for number in (1, 2)])
    for (loss, norm), (half_loss, half_norm) in zip(*steps, strict=True):
        assert half_loss == pytest.approx(loss, rel=1e-2)
        assert half_norm == pytest.approx(norm, rel=3e-2)
    assert steps[0][0] != steps[1][0]  # it did run in float16


def test_an_overflow_skips_the_step_and_halves_the_scale():
    model, batch = job_model(dropout=0.0, plain=True), labelled_batch("RobertaForMaskedLM")
    optimizer, scaler = build_optimizer(model, 1e-3, 0.01), GradScaler("cpu", init_scale=2.0**40)
    step = partial(take_step, model, model.loss_sum, [batch], optimizer, 1e-3)
    before, scales = digest(model), []
    for number in range(1, 60):
        _, norm = step(number, fp16_on_a_cpu(), scaler)
        scales.append(scaler.get_scale())
        if math.isfinite(norm):
            break
        assert digest(model) == before
        assert scales[-1] == 2.0 ** (40 - number)
    assert digest(model) != before
    assert 1 < len(scales) < 59

    model.lm_head.bias.register_hook(lambda gradient: gradient * math.inf)  # no scale can help
    with pytest.raises(NonFiniteError, match=r"gradient of lm_head\.bias"):
        for number in range(60):
            step(number, fp16_on_a_cpu(), scaler)
    assert scaler.get_scale() < 1


def test_a_loss_that_is_not_finite_is_no_overflow_of_a_gradient():
    model, batch = job_model(plain=True), labelled_batch("RobertaForMaskedLM")

    def loss_sum(**inputs):
        total, count = model.loss_sum(**inputs)
        return total * math.inf, count

    with pytest.raises(NonFiniteError, match="the loss is inf"):
        take_step(
            model, loss_sum, [batch], build_optimizer(model, 1e-3, 0.0), 1e-3, 1, fp16_on_a_cpu(),
            GradScaler("cpu"),
        )  # fmt: skip


def test_the_scale_is_saved_and_resumed(tmp_path, monkeypatch):
    """With a scaler on the CPU in place of that of CUDA."""
    from train import loop

    made = []

    def scaler_of(*_arguments, **_settings):
        made.append(GradScaler("cpu", init_scale=4.0, growth_interval=2))
        return made[-1]

    monkeypatch.setattr(loop, "GradScaler", scaler_of)
    whole, _ = train_tiny(tmp_path / "whole")
    assert made[-1].get_scale() == 32.0  # doubled after each two of six steps
    train_tiny(tmp_path / "run", callbacks=[lambda progress, _: progress.step == 3])
    resumed, _ = train_tiny(tmp_path / "run", resume=True)
    assert made[-1].get_scale() == 32.0
    assert digest(resumed) == digest(whole)


def test_fp16_needs_cuda_and_a_model_that_fits(tmp_path):
    with pytest.raises(ValueError, match="fp16 needs a CUDA device, but device='cpu'.*bf16"):
        TrainingConfig(output=tmp_path, fp16=True)
    with pytest.raises(ValueError, match="exclude each other"):
        TrainingConfig(output=tmp_path, fp16=True, bf16=True, device="cuda")
    config = TrainingConfig(output=tmp_path, fp16=True, device="cuda")
    model = new(T5)
    model.to = lambda _device: model  # there is no such device here
    with pytest.raises(ValueError, match="T5ForConditionalGeneration grow beyond .* use bf16"):
        train(model, SimpleNamespace(num_batches=1, batch=None), config)


@pytest.mark.cuda
def test_fp16_on_cuda(tmp_path):
    changes = {"device": "cuda", "fp16": True, "max_steps": 12}
    whole, _ = train_tiny(tmp_path / "whole", **changes)
    train_tiny(tmp_path / "run", callbacks=[lambda progress, _: progress.step == 5], **changes)
    resumed, _ = train_tiny(tmp_path / "run", resume=True, **changes)
    assert digest(resumed.cpu()) == digest(whole.cpu())
    losses = [r["loss"] for r in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert losses[-1] < losses[0]


# ---- evaluations: how often, and which is the best ----


@pytest.mark.parametrize(
    ("metric", "greater", "values", "best"),
    [
        ("accuracy", None, [0.5, 0.7, 0.6], 1),
        ("eval_f1", None, [0.5, 0.4, 0.6], 2),
        ("perplexity", None, [5.0, 3.0, 4.0], 1),
        ("quality", False, [5.0, 7.0, 4.0], 2),
        ("rank_loss", True, [5.0, 7.0, 4.0], 1),
        ("accuracy", None, [math.nan, 0.5, 0.4], 1),
    ],
)
def test_the_best_weights_by_any_metric(metric, greater, values, best, tmp_path):
    seen = []

    def evaluate(_should_stop):
        seen.append(digest(model))
        name = metric.removeprefix("eval_")
        return {name: torch.tensor(values[len(seen) - 1], dtype=torch.float64), "texts": ["ciao"]}

    model = job_model()
    batches = MaskedBatches(job_sequences(), JOB_TOKENIZER, batch_size=4, seed=1)
    config = config_with(tmp_path, best_metric=metric, greater_is_better=greater)
    progress = train(model, batches, config, evaluate=evaluate)
    assert len(set(seen)) == 3
    assert progress.best_value == values[best]
    assert digest(model) == seen[best] == digest(from_pretrained(config.best))


@pytest.mark.parametrize(
    ("metrics", "error", "message"),
    [
        ({"loss": 1.0, "f1": 0.5}, ValueError, "best_metric 'acuracy'.* choices are: loss, f1"),
        ({"acuracy": "high", "f1": 0.5}, ValueError, "choices are: f1$"),
        (None, TypeError, "evaluate returned a NoneType; it must return its metrics as a dict"),
        (0.5, TypeError, "evaluate returned a float"),
        ({"loss": object()}, TypeError, "not JSON serializable"),
    ],
)
def test_metrics_that_are_none(metrics, error, message, tmp_path):
    with pytest.raises(error, match=message):
        train_tiny(tmp_path, evaluate=lambda _s: metrics, best_metric="acuracy")


def test_evaluations_and_checkpoints_at_each_epoch(tmp_path):
    changes = {"max_steps": None, "epochs": 2, "evaluate_every": "epoch", "save_every": "epoch"}
    changes |= {"evaluate": lambda _s: {"loss": 1.0}, "evaluate_first": True, "accumulate": 2}
    train_tiny(tmp_path, **changes)
    records = read_metrics(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in records if "eval_loss" in r] == [0, 3, 6]
    assert [path.name[-1] for path in list_checkpoints(tmp_path / "checkpoints")] == ["3", "6"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"evaluate_every": "epochs"}, "evaluate_every='epochs' must be a number of steps"),
        ({"save_every": 0}, "save_every=0 must be"),
        ({"schedule": "cosin"}, "unknown schedule 'cosin'; did you mean 'cosine'"),
        ({"label_smoothing": 1.0}, "label_smoothing=1.0"),
        ({"label_smoothing": None}, "label_smoothing=None must be a number"),
        ({"epochs": 1.5}, "epochs=1.5 must be an integer of at least 1"),
        ({"freeze": ["embeddings"]}, "must be one text, as in 'embeddings,0-5'"),
        ({"device": "gpu"}, "device='gpu' is unknown; choose cpu or cuda"),
    ],
)
def test_options_without_meaning_are_named(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        config_with(tmp_path, **changes)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("num_train_epochs", "did you mean 'epochs'"),
        ("gradient_accumulation_steps", "did you mean 'accumulate'"),
        ("warmup_steps", "did you mean 'warmup'"),
        ("per_device_train_batch_size", r"train\(model, dataset, config, batch_size=...\)"),
        ("logging_steps", "leave it out: a run writes its losses"),
    ],
)
def test_fields_of_training_arguments_say_what_to_type(name, message, tmp_path):
    with pytest.raises(TypeError, match=f"{name}.*{message}"):
        TrainingConfig(output=tmp_path, **{name: 3})


def test_what_train_cannot_take_is_one_error(tmp_path):
    with pytest.raises(TypeError, match="takes fields by name, as in output="):
        TrainingConfig("runs")
    for model, callbacks, message in [
        (new("RobertaModel"), [], "a RobertaModel has no loss to train on"),
        (job_model(), StopAfter(hours=1), "must be a list of functions"),
        (job_model(), [3], "must be a list of functions"),
    ]:
        with pytest.raises(TypeError, match=message):
            train(model, [{}], config_with(tmp_path), callbacks=callbacks)
    with pytest.raises(ImportError, match=r"no Trainer: write the loop with train\.train"):
        from train import Trainer  # noqa: F401
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="device='cuda': PyTorch finds no CUDA device"):
            train_tiny(tmp_path, device=torch.device("cuda"))


# ---- callbacks, and what a checkpoint contains ----


def test_the_tokenizer_is_in_every_checkpoint(tmp_path):
    (tmp_path / "text.txt").write_text("ciao, come va? tutto bene. " * 9, encoding="utf-8")
    tokenizer = Tokenizer.train(tmp_path / "text.txt", vocab_size=280, show_progress=False)
    evaluate = lambda _s: {"loss": 1.0}  # noqa: E731
    output = str(tmp_path / "run")  # a path may be a str
    train_tiny(output, tokenizer=tokenizer, evaluate=evaluate, best_metric="loss")
    directories = [*list_checkpoints(tmp_path / "run" / "checkpoints")]
    for directory in [*directories, tmp_path / "run" / "checkpoints" / "best"]:
        assert Tokenizer.from_pretrained(directory)("ciao") == tokenizer("ciao")
        from_pretrained(directory)


@pytest.mark.parametrize("at", ["step", "evaluation"])
def test_a_callback_stops_a_run(at, tmp_path):
    """With the best weights so far, and a checkpoint to go on from."""
    seen = []

    def stop(progress: Progress, record: dict[str, Any]) -> bool:
        seen.append(record)
        return record["step"] == 4 and ("eval_loss" in record) is (at == "evaluation")

    losses = {2: 1.0, 4: 2.0, 6: 3.0}
    evaluate = lambda _s: {"loss": losses[seen[-1]["step"]]}  # noqa: E731
    model, progress = train_tiny(tmp_path, evaluate=evaluate, callbacks=[stop], patience=9)
    assert (progress.step, progress.stopped_by_callback) == (4, True)
    assert digest(model) == digest(from_pretrained(tmp_path / "checkpoints" / "best"))
    state = list_checkpoints(tmp_path / "checkpoints")[-1] / "state.json"
    assert json.loads(state.read_text())["progress"]["stopped_by_callback"] is False
    assert [r["step"] for r in seen if "eval_loss" in r] == [2, 4][: 2 if at != "step" else 1]


def test_a_run_stops_after_some_time(tmp_path, monkeypatch):
    clock = iter(range(0, 600, 60))
    monkeypatch.setattr("train.callbacks.time", SimpleNamespace(monotonic=lambda: next(clock)))
    _, progress = train_tiny(tmp_path, callbacks=[StopAfter(minutes=2, seconds=30)])
    assert (progress.step, progress.stopped_by_callback) == (3, True)  # at 60, 120 and 180 seconds
    with pytest.raises(ValueError, match=r"a limit of 0\.0 seconds"):
        StopAfter()


def test_samples_and_a_csv_log_change_nothing(tmp_path, capsys):
    def run(output, *more, **changes):
        model = job_model()
        batches = MaskedBatches(job_sequences(), JOB_TOKENIZER, batch_size=4, seed=1)
        sampled = PrintSamples(model, lambda: (model.training, float(torch.rand(1))))
        callbacks = [sampled, CSVLog(output / "log" / "log.csv"), *more]
        config = config_with(output, **changes)
        evaluate = lambda _s: {"loss": 1.0, "note": "ciao"}  # noqa: E731
        train(model, batches, config, callbacks=callbacks, evaluate=evaluate)
        return model

    without = job_model()
    batches = MaskedBatches(job_sequences(), JOB_TOKENIZER, batch_size=4, seed=1)
    train(without, batches, config_with(tmp_path / "without"))
    assert digest(run(tmp_path / "with")) == digest(without)
    assert "step 2: (False, 0." in capsys.readouterr().out

    def stop(progress, _record):
        return progress.step == 3

    run(tmp_path / "run", stop)
    with open(tmp_path / "run" / "log" / "log.csv", "a") as file:
        file.write("4,loss,0.0\n")  # of a step that is in no checkpoint
    run(tmp_path / "run", resume=True)

    def rows(name):
        with open(tmp_path / name / "log" / "log.csv", newline="") as file:
            return [row for row in csv.reader(file) if row[1] != "seconds"]

    assert rows("run") == rows("with")
    assert rows("with")[0] == ["step", "name", "value"]
    assert ["2", "eval_loss", "1.0"] in rows("with")


def test_every_encoder_decoder_is_among_the_models():
    assert set(SEQ2SEQ_LMS) <= set(TRAINED)
