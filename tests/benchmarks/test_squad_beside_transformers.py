"""The comparison of two fine-tuning runs, on a little SQuAD file that is made here."""

import json

import pytest

from benchmarks import squad_beside_transformers
from tests.benchmarks.pictures import png_size, watch_pictures
from tests.train.pretrained import save_tiny_bert
from tests.train.test_qa import SMALL, squad
from train import qa
from train.metrics import read_metrics

pytest.importorskip("transformers", reason="the comparison needs transformers")
pytestmark = pytest.mark.filterwarnings("ignore:.*drawn anew", "ignore:.*has no use for")


def losses(run):
    return [record["loss"] for record in read_metrics(run / "metrics.jsonl") if "loss" in record]


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True])
def test_both_begin_alike_and_are_laid_beside_each_other(plain, tmp_path, capsys, monkeypatch):
    figures = watch_pictures(monkeypatch)
    contexts = [p["context"] for p in squad(100)["data"][0]["paragraphs"]]
    save_tiny_bert(tmp_path / "bert", contexts * 2)
    for name, count in (("train", 48), ("dev", 10)):
        content = squad(count)
        for paragraph in content["data"][0]["paragraphs"]:
            answer = paragraph["qas"][0]["answers"][0]
            paragraph["context"] = f"anna went to {answer['text']} . nobody knew why ."
            answer["answer_start"] = len("anna went to ")
            paragraph["qas"][0]["question"] = "where did anna go ?"
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    arguments = [
        *("--model", str(tmp_path / "bert"), *SMALL, "--dropout", "0.2"),
        *("--train", str(tmp_path / "train.json"), "--dev", str(tmp_path / "dev.json")),
        *("--max-steps", "6", *["--plain"] * plain),
    ]
    assert qa.main([*arguments, "--output", str(ours)]) == 0
    comparison = [*arguments, "--output", str(theirs), "--ours", str(ours)]
    assert squad_beside_transformers.main(comparison) == 0

    # The same weights, batches and dropout, and nothing is padded.
    pairs = list(zip(losses(ours), losses(theirs), strict=True))
    assert len(pairs) == 6
    assert all(a == pytest.approx(b, abs=1e-4) for a, b in pairs)
    out = capsys.readouterr().out
    for name, run in (("minitransformer", ours), ("transformers", theirs)):
        report = json.loads((run / "report.json").read_text())
        row = next(line for line in out.splitlines() if line.startswith(f"{name} "))
        assert f"{report['scores']['all']['f1']:.2f}" in row
    gap = max(abs(a - b) for a, b in pairs)
    assert f"{gap:.4f} at most" in out

    assert png_size(theirs / "beside.png") == (960, 720)  # eight by six inches of 120 dots
    curves, gaps = figures["beside.png"].axes
    names = [text.get_text() for text in curves.get_legend().get_texts()]
    assert names == ["minitransformer", "transformers"]
    assert [len(line.get_xdata()) for line in (*curves.lines, gaps.lines[0])] == [6, 6, 6]

    for more, message in (
        (["--seed", "5"], "was trained otherwise: seed 0, not 5"),
        (["--resume"], "--resume and --patience are for our model"),
        (["--ours", str(tmp_path / "nowhere")], "nowhere holds no finished run"),
    ):
        assert squad_beside_transformers.main([*comparison, *more]) == 1
        assert message in capsys.readouterr().err
    if not plain:
        assert squad_beside_transformers.main([*comparison, "--plain"]) == 1
        assert "implementation 'optimized', not 'plain'" in capsys.readouterr().err
