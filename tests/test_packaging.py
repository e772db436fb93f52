"""What `pip install` brings: everything that the README shows works from any directory."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import minitransformer

ROOT = Path(__file__).parents[1]
INSTALLED = ("minitransformer", "train")
SENTENCE = "se Laura <mask> scelto un altro giorno, avrebbe visto il mare."


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A directory with what pip installs, from a copy, because a build leaves files behind."""
    pytest.importorskip("pip", reason="nothing to install with")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("installed")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in INSTALLED:
        shutil.copytree(
            ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*")
        )
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--no-compile"]
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *options]
    subprocess.run([*pip, "--target", str(target), str(source)], check=True)
    return target


def run(installed, directory, *arguments):
    """The output of Python in a directory, with what was installed before all else."""
    environment = {**os.environ, "PYTHONPATH": str(installed), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=directory,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    ).stdout


# What a line of code must not import: it would take longer, or need another package.
NOT_IMPORTED = {
    "import minitransformer": "torch",
    "from minitransformer.cli import main; main(['--help'])": "torch",
    "from minitransformer.cli import main; main(['fill-mask', '--help'])": "torch",
    "import minitransformer.cost.answer": (
        "tokenizers safetensors matplotlib pandas transformers "
        "minitransformer.tasks minitransformer.tokenization minitransformer.generation"
    ),
    "from minitransformer import BertForMaskedLM, from_pretrained": (
        "tokenizers safetensors matplotlib pandas transformers huggingface_hub torch._dynamo "
        "minitransformer.tasks minitransformer.tokenization minitransformer.generation "
        "minitransformer.fast minitransformer.auto"
    ),
}


@pytest.mark.parametrize("code", NOT_IMPORTED)
def test_what_is_not_used_is_not_imported(code, tmp_path):
    report = f"""
import sys
try:
    {code}
except SystemExit:
    pass
print()
print(*sorted({{*sys.modules}} & {{*{NOT_IMPORTED[code].split()!r}}}))"""
    assert run(ROOT, tmp_path, "-c", report).splitlines()[-1] == ""


@pytest.mark.slow
def test_every_file_of_the_packages_is_installed(installed):
    for name in INSTALLED:
        files = [path for path in (ROOT / name).rglob("*") if path.is_file()]
        ours = {path.relative_to(ROOT) for path in files if "__pycache__" not in path.parts}
        ours = {path for path in ours if not any(part.startswith(".") for part in path.parts)}
        theirs = {path.relative_to(installed) for path in (installed / name).rglob("*")}
        assert ours <= theirs, ours - theirs
    assert not (installed / "tests").exists()


@pytest.mark.slow
def test_it_works_from_any_directory(installed, tmp_path):
    code = f"""
import minitransformer.cli, train.mlm
print(minitransformer.cli.main(["fill-mask", {SENTENCE!r}, "--top-k", "1", "--plain"]))
print(minitransformer.cli.__file__, train.mlm.__file__)
import sys; print("torch._dynamo" in sys.modules)  # which takes two seconds to import
minitransformer.cli.main(["train", "mlm", "--help"])
"""
    lines = run(installed, tmp_path, "-c", code).splitlines()
    assert lines[1].split()[1] == "avesse" and lines[2] == "0"
    assert all(path.startswith(str(installed)) for path in lines[3].split())
    assert lines[4] == "False"
    assert lines[5].startswith("usage: minitransformer train mlm ")


def test_every_import_of_the_stub_is_a_name_of_the_package():
    """The stub is read by a regular expression, which must not miss one."""
    stub = ROOT / "minitransformer" / "__init__.pyi"
    imports = ast.parse(stub.read_text(encoding="utf-8")).body
    aliases = [alias for node in imports for alias in getattr(node, "names", [])]
    names = {alias.name for alias in aliases if alias.asname}  # others, such as Any, are its own
    assert names == set(minitransformer.__all__)
