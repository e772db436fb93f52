"""Fill-mask: transformers' answers, from Python and from the command line."""

import json

import pytest
import tokenizers
import torch

from minitransformer import RobertaForMaskedLM, RobertaModel, Tokenizer, parity, pipeline
from minitransformer.cli import main
from minitransformer.tasks.fill_mask import FillMask
from tests.tiny import ENCODERS, roberta_config, same, save_checkpoint, their_pipeline


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("model"), "RobertaForMaskedLM", max_length=38)


@pytest.fixture(scope="module", params=ENCODERS)
def any_path(request, tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp(request.param), f"{request.param}ForMaskedLM")


@pytest.fixture(scope="module")
def bert_path(tmp_path_factory):
    return save_checkpoint(tmp_path_factory.mktemp("bert"), "BertForMaskedLM")


@pytest.mark.parametrize(
    "texts",
    [
        "ciao, come <mask>?",
        "la <mask> legge un <mask>.",
        ["ciao, <mask> va?", "il ragazzo ascolta la radio e <mask> ragazza legge", "<mask>"],
    ],
)
def test_the_answers_are_those_of_transformers(texts, any_path):
    theirs = their_pipeline("fill-mask", any_path, top_k=7)
    ours = pipeline("fill-mask", any_path)
    mask = ours.tokenizer.mask_token
    if isinstance(texts, str):
        texts = texts.replace("<mask>", mask)
    else:
        texts = [text.replace("<mask>", mask) for text in texts]
    same(ours(texts, top_k=7), theirs(texts))


def test_batches_do_not_change_the_answers(any_path):
    fill = pipeline("fill-mask", any_path)
    small = FillMask(fill.model, fill.tokenizer, batch_size=2)
    mask = fill.tokenizer.mask_token
    texts = [
        mask,
        f"la ragazza legge un {mask} e {mask} ascolta",
        f"{mask}, {mask}",
        f"{mask} bene",
        f"va {mask}",
    ]
    same(small(texts), fill(texts))
    same(fill(texts), [fill(text) for text in texts])
    fill.tokenizer.padding_side = "left"
    same(fill(texts), small(texts))


def test_answers_are_tokens_where_the_model_has_more_embeddings(tmp_path):
    """The vocabulary is padded, as for speed, and the ids have gaps; no answer is lost to them."""
    words = ["[PAD]", "[MASK]", "ciao", "va"]
    ids = dict(zip(words, (0, 1, 3, 6), strict=True))
    backend = tokenizers.Tokenizer(tokenizers.models.WordLevel(ids, unk_token="ciao"))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer = Tokenizer(backend, {"pad_token": "[PAD]", "mask_token": "[MASK]"})
    path = save_checkpoint(tmp_path, "BertForMaskedLM", tokenizer=tokenizer, vocab_size=64)
    fill = pipeline("fill-mask", path)
    fill.model.get_parameter("lm_head.bias").data[[2, 63]] = 4.0  # no tokens, but likely
    answers = fill("ciao [MASK]", top_k=64)
    assert {answer["token_str"]: answer["token"] for answer in answers} == ids
    assert fill("ciao [MASK]", top_k=1) == answers[:1]
    assert fill("ciao [MASK]", targets=words, top_k=4) == answers
    fill.model.save_pretrained(path)
    theirs = their_pipeline("fill-mask", path, top_k=64)("ciao [MASK]")
    assert [answer["token_str"] for answer in theirs[:2]] == ["", ""]
    same(answers, [answer for answer in theirs if answer["token"] in ids.values()])


def test_targets_are_ranked_among_themselves(path):
    fill = pipeline("fill-mask", path)
    every = {answer["token_str"]: answer["score"] for answer in fill("la <mask> legge", top_k=330)}
    ranked = fill("la <mask> legge", targets=[" la", " un", " il"])
    assert [a["token_str"] for a in ranked] == sorted(
        [" la", " un", " il"], key=lambda w: -every[w]
    )
    assert ranked[0]["score"] == pytest.approx(every[ranked[0]["token_str"]])
    assert fill("la <mask> legge", targets=" la") == fill("la <mask> legge", targets=[" la", " la"])
    with pytest.raises(ValueError, match="' elefante' is [0-9]+ tokens; it must be one"):
        fill("la <mask> legge", targets=[" elefante"])


def test_targets_of_a_wordpiece_vocabulary(bert_path):
    fill = pipeline("fill-mask", bert_path)
    words = ["libro", "radio", "ciao", "##o"]
    theirs = their_pipeline("fill-mask", bert_path)
    same(
        fill("la [MASK] legge", targets=words),
        theirs("la [MASK] legge", targets=words, top_k=4),
    )
    assert fill("la [MASK]", targets="Libro") == fill("la [MASK]", targets="libro")
    assert len(fill("la [MASK]", targets=["Libro", "libro"])) == 1
    with pytest.raises(ValueError, match="the target '学' is not in the vocabulary"):
        fill("la [MASK] legge", targets=["libro", "学"])


def test_what_cannot_be_filled_is_named(path):
    fill = pipeline("fill-mask", path)
    with pytest.raises(ValueError, match="has no <mask>: 'ciao'"):
        fill(["come <mask>?", "ciao"])
    with pytest.raises(ValueError, match="texts\\[0\\] has no <mask>: ''"):
        fill("")
    with pytest.raises(ValueError, match=r"texts\[1\] has [0-9]+ tokens, but the maximum is 38"):
        fill(["<mask>", "ciao " * 60 + "<mask>"])
    assert len(fill("<mask>" * 36)) == 36  # with <s> and </s> just the maximum
    with pytest.raises(TypeError, match="texts must be a str or a list of str, not int"):
        fill(3)
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
    with pytest.raises(ValueError, match="such as BertForMaskedLM; this is a RobertaModel"):
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
    lines = capsys.readouterr().out.splitlines()  # one for each text
    same([json.loads(line) for line in lines], pipeline("fill-mask", path)(texts))
    assert main(["fill-mask", str(path), texts[0], "--json"]) == 0
    same(json.loads(capsys.readouterr().out), pipeline("fill-mask", path)(texts[0]))


def test_the_command_fails_with_one_line(path, capsys):
    assert main(["fill-mask", str(path), "ciao"]) == 1
    assert capsys.readouterr().err == "error: texts[0] has no <mask>: 'ciao'\n"
    assert main(["fill-mask", str(path / "nowhere"), "<mask>"]) == 1
    assert "nowhere" in capsys.readouterr().err
    for arguments, message in [
        (["fill-mask", str(path), "<mask>", "--topk", "3"], "did you mean '--top-k'"),
        (["fil-mask", str(path)], "fill-mask"),
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


def test_the_parity_command_distinguishes_rounding_from_a_bug(path, capsys, monkeypatch):
    pytest.importorskip("transformers", reason="parity needs transformers")
    # Below zero: even equal numbers are too far apart.
    monkeypatch.setitem(parity.TOLERANCE, torch.float32, -1.0)
    assert main(["parity", str(path), "--length", "9"]) == 0
    assert (
        capsys.readouterr()
        .out.splitlines()[-1]
        .endswith("(the differences in float32 are rounding)")
    )
    monkeypatch.setattr(
        "minitransformer.layers.normalization.LayerNorm.forward", lambda norm, x: x * norm.weight
    )
    assert main(["parity", str(path), "--length", "9"]) == 1
    assert "still differ in float64" in capsys.readouterr().out


@pytest.mark.cuda
def test_cuda_gives_the_same_answers(path):
    same(
        pipeline("fill-mask", path, device="cuda")("va <mask>"),
        pipeline("fill-mask", path)("va <mask>"),
    )
