"""Every line of "First mistakes" fails with the sentence beside it, in this project's own code."""

import re
import shlex
import traceback
import warnings
from pathlib import Path

import pytest
import torch

from minitransformer import cli
from tests.pages import FENCE, ROOT, table_rows
from tests.tiny import save_checkpoint
from train.demos.italian import write_corpus

PAGE = (ROOT / "docs" / "first_mistakes.md").read_text(encoding="utf-8")
OURS = [str(ROOT / folder) for folder in ("minitransformer", "train")]
ROWS = [[cell.strip("`") for cell in row] for row in table_rows(PAGE)]
CHECKPOINTS = {
    "roberta-base": ("RobertaForMaskedLM", {}),
    "bert-base-uncased": ("BertForMaskedLM", {}),
    "distilbert-base-uncased": ("DistilBertForMaskedLM", {}),
    "gpt2": ("GPT2LMHeadModel", {}),
    "t5-small": ("T5ForConditionalGeneration", {}),
    "sentiment": ("RobertaForSequenceClassification", {"id2label": {0: "bad", 1: "good"}}),
    "ner": ("BertForTokenClassification", {"id2label": {0: "O", 1: "B-PER"}}),
    "squad": ("RobertaForQuestionAnswering", {}),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A directory with the page's checkpoints, texts and runs."""
    path = tmp_path_factory.mktemp("mistakes")
    for name, (model, fields) in CHECKPOINTS.items():
        save_checkpoint(path / name, model, **fields)
    (path / "pickled").mkdir()
    (path / "pickled" / "config.json").write_bytes((path / "roberta-base/config.json").read_bytes())
    torch.save({}, path / "pickled" / "pytorch_model.bin")
    write_corpus(path / "italian.txt", 50, seed=0)
    (path / "no_header.csv").write_text("good,ciao\nbad,no\n" * 4)
    (path / "words.txt").write_text("ciao\ncome\nva\n" * 4)
    (path / "train.tsv").write_text("ciao\tgood\nno\tbad\n" * 4)
    (path / "other_labels.tsv").write_text("ciao\tgood\nboh\tneutral\n")
    (path / "runs/used/checkpoints/step-00000010").mkdir(parents=True)
    return path


@pytest.fixture(scope="module")
def names(directory):
    """The variables of the page's first block, in its directory."""
    found: dict[str, object] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        patch.setenv("HF_HUB_OFFLINE", "1")
        with warnings.catch_warnings(action="ignore"):
            exec(FENCE.search(PAGE)["code"], found)
        yield found


def message_of(mistake: str, names: dict[str, object], capsys: pytest.CaptureFixture[str]) -> str:
    """What a line of Python or a command says when it fails."""
    program, *arguments = shlex.split(mistake) if mistake.startswith("minitransformer ") else [""]
    if program:
        with pytest.raises(SystemExit) as stopped:
            raise SystemExit(cli.main(arguments))
        assert stopped.value.code not in (0, None)
        return capsys.readouterr().err
    with pytest.raises(Exception) as failed:
        exec(mistake, dict(names))
    file = Path(traceback.extract_tb(failed.tb)[-1].filename)
    assert str(file).startswith(tuple(OURS)) or file.name == "<string>", f"raised by {file}"
    return str(failed.value)


def test_the_list_is_long_and_has_no_line_twice():
    assert len({mistake for mistake, _ in ROWS}) == len(ROWS) >= 60


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("mistake", "sentence"), ROWS, ids=[row[0][:60] for row in ROWS])
def test_a_mistake_is_told_in_one_sentence(mistake, sentence, names, capsys):
    pattern = ".*".join(map(re.escape, sentence.split("...")))
    message = message_of(mistake, names, capsys)
    assert re.search(pattern, message, re.DOTALL), message
