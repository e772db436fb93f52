"""The curves of several runs in one picture, and the options that all jobs have in common."""

import json

import pytest

from minitransformer.arguments import Parser
from tests.tiny import watch_figures
from train import TrainingConfig, draw_curves
from train.arguments import add_training_arguments, training_config

pytest.importorskip("matplotlib", reason="pictures need matplotlib")


def run(path, losses, **metrics):
    """A run of as many steps, each evaluated."""
    path.mkdir()
    records = [{"step": step, "loss": loss, "seconds": 0.1} for step, loss in enumerate(losses, 1)]
    records += [
        {"step": step, f"eval_{name}": value, "eval_sample": "ciao"}
        for name, values in metrics.items()
        for step, value in enumerate(values, 1)
    ]
    lines = [json.dumps(record) for record in records]
    (path / "metrics.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def test_the_curves_of_several_runs(tmp_path, monkeypatch):
    figures = watch_figures(monkeypatch)
    one = run(tmp_path / "one", [4.0, 3.0], loss=[3.5, 2.5], accuracy=[0.1, 0.3])
    two = run(tmp_path / "two", [4.0] * 19 + [2.0], loss=[3.25])
    runs = {"first": one, "second": str(two / "metrics.jsonl")}
    draw_curves(runs, tmp_path / "pictures" / "curves.png")
    draw_curves(runs, tmp_path / "loss.png", "loss")
    draw_curves({"first": one}, tmp_path / "accuracy.svg", "eval_accuracy")
    drawn = [
        {line.get_label(): [*map(tuple, line.get_xydata())] for line in figure.axes[0].lines}
        for figure in figures
    ]
    assert drawn[0] == {"first": [(1, 3.5), (2, 2.5)], "second": [(1, 3.25)]}
    assert drawn[1]["first"] == [(1, 4.0), (2, 3.0)]
    assert drawn[1]["second"][-2:] == [(19, 4.0), (20, 3.0)]  # the mean of two of twenty
    assert drawn[2] == {"first": [(1, 0.1), (2, 0.3)]}
    assert [figure.axes[0].get_ylabel() for figure in figures] == [
        "held-out loss", "loss", "held-out accuracy"
    ]  # fmt: skip
    assert (tmp_path / "pictures" / "curves.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("content", "metric", "message"),
    [
        (None, "eval_loss", "metrics.jsonl does not exist; a run is the --output of a training"),
        ("{", "eval_loss", "metrics.jsonl is not a file with one JSON record per line"),
        ("[1]\n", "eval_loss", "is not the metrics.jsonl of a run: a record lacks its step"),
        ("", "eval_loss", "no step yet"),
        ('{"step": 1, "loss": 1.0, "note": "a"}\n', "los", "unknown metric 'los'; did you mean 'l"),
        ('{"step": 1, "loss": 1.0}\n', "eval_loss", "choices are: loss$"),
    ],
)
def test_what_cannot_be_drawn(content, metric, message, tmp_path):
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content, encoding="utf-8")
    with pytest.raises(ValueError, match=message):
        draw_curves({"run": tmp_path}, tmp_path / "curves.png", metric)
    with pytest.raises(ValueError, match="no run to draw"):
        draw_curves({}, tmp_path / "curves.png")


def parsed(*options, **defaults):
    parser = Parser(prog="job")
    add_training_arguments(parser, **defaults)
    return training_config(parser.parse_args(["--output", "runs/one", *options]))


def test_every_field_of_the_config_is_an_option():
    assert parsed() == TrainingConfig(output="runs/one")
    assert parsed(epochs=3, schedule="cosine").schedule == "cosine"
    options = (
        "--schedule inverse-sqrt --label-smoothing 0.1 --freeze embeddings,0-5 --save-every epoch "
        "--evaluate-every epoch --best-metric f1 --no-greater-is-better --gradient-checkpointing "
        "--patience 2 --epochs 3 --max-steps 9 --accumulate 2 --learning-rate 1 --warmup 0.5 "
        "--weight-decay 0 --clip-norm 2 --keep-checkpoints 1 --bf16 --compile --resume"
    )
    assert parsed(*options.split()) == TrainingConfig(
        output="runs/one", schedule="inverse-sqrt", label_smoothing=0.1, freeze="embeddings,0-5",
        save_every="epoch", evaluate_every="epoch", best_metric="f1", greater_is_better=False,
        gradient_checkpointing=True, patience=2, epochs=3, max_steps=9, accumulate=2,
        learning_rate=1.0, warmup=0.5, weight_decay=0.0, clip_norm=2.0, keep_checkpoints=1,
        bf16=True, compile=True, resume=True,
    )  # fmt: skip
    with pytest.raises(ValueError, match="fp16 needs a CUDA device"):
        parsed("--fp16")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--evaluate-every", "0"], "'0' must be a number of steps, at least 1, or epoch"),
        (["--schedule", "cosin"], "invalid choice: 'cosin'"),
    ],
)
def test_options_that_are_refused(options, message, capsys):
    with pytest.raises(SystemExit):
        parsed(*options)
    assert message in capsys.readouterr().err
