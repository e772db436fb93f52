"""Fill-mask: transformers' answers, from Python and from the command line."""

import json

import pytest
import torch

from minitransformer import RobertaForMaskedLM, RobertaModel, Tokenizer, pipeline
from minitransformer.cli import main
from minitransformer.tasks.fill_mask import FillMask
from tests.tiny import perturb, roberta_config

TEXT = "ciao, come va? la ragazza legge un libro e il ragazzo ascolta la radio. tutto bene.\n"


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    """A checkpoint of a perturbed tiny model with a tokenizer of its own."""
    directory = tmp_path_factory.mktemp("model")
    (directory / "text.txt").write_text(TEXT * 3, encoding="utf-8")
    tokenizer = Tokenizer.train(directory / "text.txt", vocab_size=330, show_progress=False)
    torch.manual_seed(0)
    config = roberta_config(vocab_size=tokenizer.vocab_size, max_position_embeddings=40)
    perturb(RobertaForMaskedLM(config)).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def same(ours, theirs):
    if isinstance(theirs, dict):
        assert ours.keys() == theirs.keys()
        assert ours["score"] == pytest.approx(theirs["score"], rel=1e-4)
        assert {k: v for k, v in ours.items() if k != "score"} == {
            k: v for k, v in theirs.items() if k != "score"
        }
    else:
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            same(a, b)


@pytest.mark.parametrize(
    "texts",
    [
        "ciao, come <mask>?",
        "la <mask> legge un <mask>.",
        ["ciao, <mask> va?", "il ragazzo ascolta la radio e <mask> ragazza legge", "<mask>"],
    ],
)
def test_the_answers_are_those_of_transformers(texts, path):
    transformers = pytest.importorskip("transformers", reason="parity needs transformers")
    theirs = transformers.pipeline("fill-mask", str(path), top_k=7)
    same(pipeline("fill-mask", path)(texts, top_k=7), theirs(texts))


def test_batches_do_not_change_the_answers(path):
    fill = pipeline("fill-mask", path)
    small = FillMask(fill.model, fill.tokenizer, batch_size=2)
    texts = [
        "<mask>",
        "la ragazza legge un <mask> e ascolta",
        "ciao, <mask>",
        "<mask> bene",
        "va <mask>",
    ]
    same(small(texts), fill(texts))
    same(fill(texts), [fill(text) for text in texts])
    fill.tokenizer.padding_side = "left"
    same(fill(texts), small(texts))


def test_targets_are_ranked_among_themselves(path):
    fill = pipeline("fill-mask", path)
    every = {answer["token_str"]: answer["score"] for answer in fill("la <mask> legge", top_k=330)}
    ranked = fill("la <mask> legge", targets=[" la", " un", " il"])
    assert [a["token_str"] for a in ranked] == sorted(
        [" la", " un", " il"], key=lambda w: -every[w]
    )
    assert ranked[0]["score"] == pytest.approx(every[ranked[0]["token_str"]])
    assert fill("la <mask> legge", targets=" la") == fill("la <mask> legge", targets=[" la", " la"])
    with pytest.raises(ValueError, match="' elefante' is [0-9]+ tokens, not one"):
        fill("la <mask> legge", targets=[" elefante"])


def test_what_cannot_be_filled_is_named(path):
    fill = pipeline("fill-mask", path)
    with pytest.raises(ValueError, match="no <mask> in 'ciao'"):
        fill(["come <mask>?", "ciao"])
    with pytest.raises(ValueError, match="there is no <mask> in ''"):
        fill("")
    with pytest.raises(ValueError, match="tokens a row, but 38 fit"):
        fill("ciao " * 60 + "<mask>")
    for top_k in (0, 2.5, "3"):
        with pytest.raises(ValueError, match=f"top_k={top_k!r}"):
            fill("<mask>", top_k=top_k)
    with pytest.raises(ValueError, match="targets is empty"):
        fill("<mask>", targets=[])
    assert fill([]) == []


def test_the_wrong_task_model_or_tokenizer(path):
    with pytest.raises(ValueError, match="unknown task 'fil-mask'; did you mean 'fill-mask'"):
        pipeline("fil-mask", path)
    fill = pipeline("fill-mask", path)
    with pytest.raises(ValueError, match="this is a RobertaModel"):
        FillMask(RobertaModel(roberta_config()), fill.tokenizer)
    with pytest.raises(ValueError, match="tokenizer has [0-9]+ tokens.*vocab_size=99"):
        FillMask(RobertaForMaskedLM(roberta_config()), fill.tokenizer)


def test_the_command_prints_a_table(path, capsys):
    assert main(["fill-mask", str(path), "ciao, come <mask>?", "--top-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ciao, come <mask>?"
    best = pipeline("fill-mask", path)("ciao, come <mask>?", top_k=3)
    assert [line.split()[0] for line in lines[1:4]] == [f"{a['score']:.1%}" for a in best]
    assert lines[1].endswith(best[0]["sequence"])


def test_the_command_prints_json(path, capsys):
    texts = ["ciao, come <mask>?", "la <mask> legge un <mask>."]
    assert main(["fill-mask", str(path), *texts, "--json"]) == 0
    same(json.loads(capsys.readouterr().out), pipeline("fill-mask", path)(texts))
    assert main(["fill-mask", str(path), texts[0], "--json"]) == 0
    same(json.loads(capsys.readouterr().out), pipeline("fill-mask", path)(texts[0]))


def test_the_command_fails_with_one_line(path, capsys):
    assert main(["fill-mask", str(path), "ciao"]) == 1
    assert capsys.readouterr().err == "error: there is no <mask> in 'ciao'\n"
    assert main(["fill-mask", str(path / "nowhere"), "<mask>"]) == 1
    assert "nowhere" in capsys.readouterr().err
    for arguments, message in [
        (["fill-mask", str(path), "<mask>", "--topk", "3"], "did you mean '--top-k'"),
        (["fil-mask", str(path)], "fill-mask"),
        ([], "VERB"),
        (["parity", str(path), "--length", "-3"], "'-3' must be an integer of at least 1"),
        (["fill-mask", str(path), "<mask>", "--device", "gpu"], "'gpu' is unknown"),
    ]:
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2
        assert message in capsys.readouterr().err


def test_the_parity_command(path, capsys):
    pytest.importorskip("transformers", reason="parity needs transformers")
    assert main(["parity", str(path), "--length", "9"]) == 0
    output = capsys.readouterr().out
    assert output.splitlines()[-1] == "the same function"
    assert "gradient of lm_head.bias" in output


def test_the_parity_command_tells_rounding_from_a_bug(path, capsys, monkeypatch):
    pytest.importorskip("transformers", reason="parity needs transformers")
    monkeypatch.setitem(__import__("minitransformer.parity").parity.TOLERANCE, torch.float32, 0.0)
    assert main(["parity", str(path), "--length", "9"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("(the differences in float32 are rounding)")
    )
    monkeypatch.setattr(
        "minitransformer.models.bert.EncoderLayer.forward", lambda _layer, hidden, *_: hidden
    )
    assert main(["parity", str(path), "--length", "9"]) == 1
    assert "still there in float64" in capsys.readouterr().out


@pytest.mark.cuda
def test_cuda_gives_the_same_answers(path):
    same(
        pipeline("fill-mask", path, device="cuda")("va <mask>"),
        pipeline("fill-mask", path)("va <mask>"),
    )
