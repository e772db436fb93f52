"""No error message is longer than can be read, whatever was given."""

from contextlib import suppress

import pytest

from minitransformer import BertConfig, GenerationConfig, Tokenizer, cli, from_pretrained, pipeline
from tests.tiny import bert_config, save_checkpoint, tokenizer_of
from train import classify
from train.arguments import run_job
from train.labelled_text import read_labelled_text
from train.pairs import read_pairs

TEXT = "x" * 100_000
LIST = ["a label"] * 5000
NUMBER = 10**4000


def fields():
    """A wrong value for every field of two configs."""
    for kind, config in ((bert_config, BertConfig), (GenerationConfig, GenerationConfig)):
        for name in config.__dataclass_fields__:
            for value in (TEXT, LIST, NUMBER):
                yield lambda kind=kind, name=name, value=value: kind(**{name: value})


def checked(call) -> int:
    """Whether the call raised; the message is short if it did."""
    try:
        call()
    except (ValueError, TypeError, OSError) as error:
        assert len(str(error)) < 1000, f"{len(str(error))}: {error!s:.200}"
        return 1
    return 0


def test_messages_about_fields_are_short():
    assert sum(map(checked, fields())) > 80


def test_messages_about_arguments_are_short(tmp_path):
    tokenizer = tokenizer_of("Roberta", tmp_path)
    fill = pipeline("fill-mask", save_checkpoint(tmp_path / "model", "RobertaForMaskedLM"))
    for value in (TEXT, LIST, NUMBER, [NUMBER], [TEXT, None]):
        refused = [
            lambda value=value: from_pretrained(value),
            lambda value=value: pipeline(value, tmp_path),
            lambda value=value: Tokenizer.train(tmp_path / "text.txt", algorithm=value),
            lambda value=value: tokenizer("a", padding=value),
            lambda value=value: tokenizer("a", truncation=True, max_length=value),
            lambda value=value: tokenizer.token_to_id(value),
            lambda value=value: tokenizer.id_to_token(value),
            lambda value=value: fill(value),
            lambda value=value: fill("ciao <mask>", top_k=value),
            lambda value=value: fill("ciao <mask>", targets=value),
        ]
        assert sum(map(checked, refused)) >= 8
    assert checked(lambda: tokenizer("a", **{TEXT: True}))
    assert checked(lambda: bert_config(**{TEXT: True}))


@pytest.mark.parametrize("read", [read_labelled_text, read_pairs])
@pytest.mark.parametrize("content", [TEXT, f"{TEXT}\t\t", f"a\tb,{TEXT}", f"\t{TEXT}", f"{TEXT}\t"])
def test_messages_about_files_are_short(read, content, tmp_path):
    (tmp_path / "file.tsv").write_text(content)
    checked(lambda: read(tmp_path / "file.tsv"))
    assert checked(lambda: read(TEXT))


@pytest.mark.parametrize(
    "arguments",
    [
        ["--train", TEXT, "--dev", TEXT, "--model", "m", "--output", "o"],
        ["--epochs", TEXT],
        ["--learning-rate", TEXT],
        ["--device", TEXT],
        ["--attention", TEXT],
        [f"--{TEXT}", "1"],
        [TEXT],
    ],
)
def test_messages_of_commands_are_short(arguments, capsys):
    for main in (classify.main, cli.main):
        with suppress(SystemExit):
            run_job(lambda main=main: main(arguments))
        last = capsys.readouterr().err.strip().splitlines()[-1]
        assert "error" in last
        assert len(last) < 1000
