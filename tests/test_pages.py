"""What the documentation shows is what its code prints, and its commands run."""

import ast
import functools
import importlib
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import minitransformer
from tests.pages import FENCE, ROOT, check_page, commands, run_command, run_page
from tests.tiny import MARIAN, T5, save_checkpoint, save_tiny_bert
from train.demos.italian import write_corpus
from train.demos.italian_english import write_pairs

DOCS = ROOT / "docs"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]

# ---- pages that are run ----

TEXT = ["The Arno runs past Florence and Pisa into the sea.", "The cat sat. It was tired."]
FINE_TUNING = "--max-steps 2 --max-length 48 --batch-size 8"
NEW = "--max-steps 2 --batch-size 8 --hidden-size 16 --num-hidden-layers 1 --num-attention-heads 2"
TINY = {
    "train.mlm": f"{NEW} --vocab-size 400 --max-length 24 --held-out-every 10",
    "train.lm": f"{NEW} --vocab-size 300 --max-length 64 --sample-tokens 5",
    "train.seq2seq": f"{NEW} --vocab-size 400 --max-length 30 --curve-pairs 2",
    "train.mlm --model": "--max-steps 2 --batch-size 8 --held-out-every 10",
    "train.seq2seq --model": "--max-steps 2 --batch-size 8 --curve-pairs 2",
    "train.qa": f"{FINE_TUNING} --stride 8 --max-question-length 12",
    "train.classify": FINE_TUNING,
    "train.tag": FINE_TUNING,
}


def write_squad(path: Path) -> None:
    """Eight questions about one sentence."""
    context = TEXT[0]
    questions = [
        {
            "id": str(number),
            "question": "Where does the Arno end?",
            "answers": [{"text": "the sea", "answer_start": context.index("the sea")}],
        }
        for number in range(8)
    ]
    content = {"data": [{"title": "Arno", "paragraphs": [{"context": context, "qas": questions}]}]}
    path.write_text(json.dumps(content), encoding="utf-8")


def lines(*content: str, times: int = 8) -> Callable[[Path], None]:
    """Writes these lines several times."""

    def write(path: Path) -> None:
        path.write_text("\n".join([*content, ""]) * times, encoding="utf-8")

    return write


save_roberta = functools.partial(save_checkpoint, name="RobertaForMaskedLM", max_length=512)
save_gpt2 = functools.partial(save_checkpoint, name="GPT2LMHeadModel", max_length=80)
save_marian = functools.partial(
    save_checkpoint, name=MARIAN, codes=(), generation={"max_length": 20}
)
ROBERTA = {"FacebookAI/roberta-base": save_roberta}
MINILM = {
    "sentence-transformers/all-MiniLM-L6-v2": functools.partial(save_tiny_bert, lines=TEXT * 3)
}
ITALIAN = functools.partial(write_corpus, count=300, seed=0)
PAIRS = functools.partial(write_pairs, count=60, seed=0, held_out=False)
TAGGED = lines("Empire\tB-location", "State\tI-location", "rocks\tO", "")
RATED = lines("a gorgeous , witty movie .\t1", "it 's stale .\t0")

STUDENT = ROOT / "tests/exercises/solutions/roberta_for_masked_lm/own_structure.py"
OWN_MODEL = ROBERTA | {"mine.py": functools.partial(shutil.copy, STUDENT)}

# For each page what it takes for granted: files, and checkpoints that were trained before.
PAGES: dict[str, dict[str, Callable[[Path], object]]] = {
    "README.md": ROBERTA | {"my_text.txt": ITALIAN, "runs/demo": save_roberta},
    "CONTRIBUTING.md": {},
    "docs/benchmarks.md": {
        "italian.txt": ITALIAN,
        "sst2-dev.tsv": RATED,
        "train-v1.1.json": write_squad,
        "README.md": Path.touch,
        "benchmarks/results/README.md": Path.touch,
        "benchmarks/results/speed": Path.mkdir,
        "runs/speed": Path.mkdir,
    },
    "docs/commands.md": {
        "italian.txt": lines("ciao, Laura.", "il gatto dorme."),
        "reviews.jsonl": lines('{"text": "a gorgeous movie ."}'),
        "runs/one/metrics.jsonl": lines('{"step": 1, "eval_loss": 2.0}', times=1),
        "runs/two/metrics.jsonl": lines('{"step": 1, "eval_loss": 1.0}', times=1),
        "runs/sst2": functools.partial(save_checkpoint, name="BertForSequenceClassification"),
    }
    | OWN_MODEL,
    "docs/exercises.md": OWN_MODEL,
    "docs/one_file.md": ROBERTA,
    "docs/training.md": {
        "italian.txt": ITALIAN,
        "shakespeare.txt": lines("ROMEO:", "What light is this?", "", times=50),
        "train.tsv": PAIRS,
        "dev.tsv": functools.partial(write_pairs, count=6, seed=1, held_out=True),
        "news.csv": lines("text,summary", *[f"{text},The sea." for text in TEXT * 4], times=1),
        "google-t5/t5-small": functools.partial(save_checkpoint, name=T5),
    }
    | ROBERTA,
    "docs/fine_tuning.md": MINILM
    | {f"{name}-v1.1.json": write_squad for name in ("train", "dev")}
    | {f"sst2-{name}.tsv": RATED for name in ("train", "dev")}
    | {f"{name}.conll": TAGGED for name in ("train", "dev")}
    | {
        "qnli.csv": lines(
            "question,sentence,label", *["Where?,There.,1", "Who?,Rain.,0"] * 4, times=1
        ),
        "topics.csv": lines("text,labels", *['It rained.,"weather,past"', "Hi.,"] * 4, times=1),
        "stars.jsonl": lines('{"text": "Good.", "score": 4.5}', '{"text": "Bad.", "score": 1}'),
        "river.txt": lines(TEXT[0]),
    },
    "docs/generation.md": {"runs/lm": save_gpt2, "runs/translation": save_marian},
    "docs/looking_inside.md": MINILM | {"runs/translation": save_marian},
    "docs/parity.md": ROBERTA,
    "docs/pytorch_tools.md": {},
    "docs/reading_order.md": {},
}


@pytest.fixture
def torch_as_it_was():
    """A page may change how tensors are printed, and switch gradients off."""
    yield
    torch.set_grad_enabled(True)
    torch.set_printoptions(profile="default")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*newly initialized", "ignore:.*has no use for")
@pytest.mark.parametrize("page", PAGES)
def test_every_command_and_block_of_a_page_runs(page, tmp_path, monkeypatch, torch_as_it_was):
    pytest.importorskip("transformers", reason="parity needs transformers")
    for name, write in PAGES[page].items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        write(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as where Python is started here
    assert check_page((ROOT / page).read_text(encoding="utf-8"), TINY) > 0
    assert check_page("", TINY) == 0


@pytest.mark.slow
def test_one_sentence_prints_what_the_page_shows(torch_as_it_was):
    page = (DOCS / "one_sentence.md").read_text(encoding="utf-8")
    assert run_page(page) == page, "python -m tests.pages docs/one_sentence.md writes it anew"


def test_a_page_that_shows_something_else_is_found():
    page = "```python\nprint(1 + 1)\n```\n\n```text\n3\n```\n\nand\n\n```python\nx = 1\n```\n"
    assert run_page(page) == re.sub("3", "2", page)
    with pytest.raises(AssertionError, match="prints\n2\nand not\n3"):
        check_page(page, TINY)
    assert check_page(run_page(page), TINY) == 2


@pytest.mark.parametrize(
    ("language", "code", "message"),
    [
        ("sh", "ls", "do not know how to run: ls"),
        ("sh", "make demo\nmake nonsense", "no such target: make nonsense"),
        ("sh", "make demo PYTHN=python3", "make demo PYTHN=python3"),
        ("sh", 'pip install ".[nonsense]"', "no such extra"),
        ("sh", "pip install nonsense", "does not know nonsense"),
        ("sh", "python -m train.nonsense --text a", "do not know how to run"),
        ("sh", "python -m benchmarks.nonsense", "no such module"),
        ("sh", "python -m benchmarks.training --nonsense --out a", "does not accept --nonsense"),
        ("sh", "python -m benchmarks.inference --text nonsense.txt --out a", "no such file"),
        ("sh", "python -m benchmarks.report nonsense", "no such file"),
        ("sh", "python -m tests.nonsense", "no such module"),
        ("sh", "python -m pytest tests/nonsense", "nothing to test"),
        ("sh", "python -m pytest --nonsense", "no option"),
        ("sh", "minitransformer parity \\\n  nonsense/nowhere/none", "minitransformer parity"),
        ("ruby", "make demo", "a block of 'ruby' is not run"),
        ("pycon", ">>> 1 + 1\n3", "1 \\+ 1\n2"),
        ("pycon", ">>> {}[1]\nKeyError: 2...", "KeyError: 1"),
    ],
)
def test_what_cannot_be_run_is_found(language, code, message):
    with pytest.raises(AssertionError, match=message):
        check_page(f"```{language}\n{code}\n```\n", TINY)


def test_what_the_commands_of_a_page_are():
    assert commands("make demo  # minutes\n\npip install \\\n  a 'b c'\n") == [
        ["make", "demo"],
        ["pip", "install", "a", "b c"],
    ]
    for known in ("make demo PYTHON=python3", "pip install .", 'pip install ".[viz,test]"'):
        run_command(commands(known)[0], TINY)


# ---- names of code in pages ----


def test_the_readme_is_short():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 150
    start = lines.index("```python") + 1
    example = lines[start : lines.index("```", start)]
    assert len([line for line in example if line]) == 6


def test_a_citation_names_what_is_installed():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    fields = dict(re.findall(r"^([a-z-]+): (.+)$", citation, re.MULTILINE))
    assert (fields["title"], fields["version"]) == ("minitransformer", minitransformer.__version__)
    assert {"cff-version", "message", "type", "license"} < fields.keys()


def test_the_reading_order_leaves_no_layer_out():
    page = (DOCS / "reading_order.md").read_text(encoding="utf-8")
    for folder in ("layers", "models"):
        names = [path.name for path in (ROOT / "minitransformer" / folder).glob("[a-z]*.py")]
        assert [name for name in names if f"(../minitransformer/{folder}/{name})" not in page] == []


@functools.cache
def sources() -> dict[Path, str]:
    folders = ("minitransformer", "train", "benchmarks", "tests")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {path: path.read_text(encoding="utf-8") for path in paths}


@functools.cache
def words() -> set[str]:
    """Every identifier, and every word of a string, of the package, the jobs and the benchmarks."""
    ours = [text for path, text in sources().items() if ROOT / "tests" not in path.parents]
    return {word for text in ours for word in re.findall(r"\w+", text)}


@functools.cache
def classes() -> dict[str, set[str]]:
    """The classes of the project, with the names that their bodies define or set."""
    found: dict[str, set[str]] = {}
    for text in sources().values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ClassDef):
                names = found.setdefault(node.name, set())
                names |= {getattr(part, "name", "") for part in ast.walk(node)}
                names |= {part.attr for part in ast.walk(node) if isinstance(part, ast.Attribute)}
    return found


def missing(name: str) -> bool:
    """Whether a name in backticks is one of this project's that does not exist."""
    if re.fullmatch(r"[\w.-]*/[\w./-]*|\w+\.py", name):
        return missing_path(name)
    root, _, rest = name.partition(".")
    if root in ("minitransformer", "train", "benchmarks", "tests", "torch") and rest:
        return missing_object(name)
    if re.fullmatch(r"[A-Z]\w*\.[a-z]\w*", name) and root in classes():
        return rest not in classes()[root]
    if name.startswith("test_"):
        return not any(f"def {name}(" in text for text in sources().values())
    if re.fullmatch(r"[A-Z][a-z0-9]+[A-Z]\w*", name):
        return name not in words() and not hasattr(torch.nn, name)
    return bool(re.fullmatch(r"[a-z]+_[a-z_]+", name)) and name not in words()


def missing_path(name: str) -> bool:
    places = (ROOT, ROOT / "minitransformer", DOCS)
    top = name.split("/")[0]
    if "/" not in name:
        return not any(path.name == name for path in sources())
    if top == "runs" or not any((place / top).is_dir() for place in places):
        return False  # a path of the reader's, such as what `make demo` wrote, or a hub name
    return not any((place / name).exists() for place in places)


def missing_object(name: str) -> bool:
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ImportError:
            continue
        for part in parts[length:]:
            if not hasattr(found, part):
                return True
            found = getattr(found, part)
        return False
    return True


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document):
    prose = FENCE.sub("", document.read_text(encoding="utf-8"))
    if document.name in ("coming_from_huggingface.md", "first_mistakes.md"):
        prose = re.sub(r"^\|.*", "", prose, flags=re.MULTILINE)  # tests run every row
    named = re.findall(r"`([\w./-]+?)(?:\(.*?\))?`", prose)
    assert sorted({name for name in named if missing(name)}) == []


@pytest.mark.parametrize(
    "name",
    [
        "layers/nonsense.py",
        "train/nonsense/",
        "nonsense.py",
        "train.nonsense",
        "minitransformer.parity.nonsense",
        "EncoderLayer.nonsense",
        "BertForNonsense",
        "no_such_nonsense",
        "test_nonsense",
    ],
)
def test_a_name_of_nothing_is_found(name):
    assert missing(name)
    assert not missing("minitransformer.parity.compare") and not missing("EncoderLayer.forward")
