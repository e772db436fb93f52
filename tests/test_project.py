"""Rules for the whole package: imports, files, names, and what a linter could check."""

import ast
import functools
import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import setuptools

import minitransformer
from minitransformer.files import (
    TEMPORARY_PREFIX,
    CheckpointError,
    atomic_directory,
    checkpoint_file,
    read_json,
    remove_unfinished,
)
from minitransformer.names import listed, nearest, shortened, unexpected_name

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "minitransformer"
# What may import what: a folder or file may import those of its own line and of earlier lines.
ORDER = [
    ("files", "names", "elsewhere", "tracing", "hub", "arguments", "version"),
    ("layers",),
    ("models", "generation_config"),
    ("hf", "tokenization"),
    ("generation", "auto"),
    ("fast",),
    ("tasks", "parity", "attention_maps", "attention_pictures", "train", "cost"),
    ("exercises", "source"),
    ("cli", "inputs", "__main__", "benchmarks"),
]
# A model's methods call hf/ when a user saves or loads, and generation/ when it generates.
WHEN_CALLED = {
    ("minitransformer.models.base", "minitransformer.hf"),
    ("minitransformer.models.config", "minitransformer.hf"),
    ("minitransformer.models.base", "minitransformer.generation"),
}


def every_source() -> list[Path]:
    return [*PACKAGE.rglob("*.py"), *ROOT.glob("train/**/*.py"), *ROOT.glob("benchmarks/*.py")]


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def level(module: str) -> int | None:
    """The line of ORDER that contains a module; None if there is none."""
    parts = module.split(".")
    name = parts[1] if parts[0] == "minitransformer" and len(parts) > 1 else parts[0]
    return next((number for number, names in enumerate(ORDER) if name in names), None)


@functools.cache
def imports(path: Path) -> list[tuple[str, int, bool]]:
    """The modules that a file imports: where, and whether only when a function is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = {id(node) for function in functions for node in ast.walk(function)}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found += [(name, node.lineno, id(node) in inside) for name in names]
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno, id(node) in inside) for alias in node.names]
    return found


def test_imports_point_one_way():
    seen = 0
    for path in every_source():
        module = module_of(path)
        if module == "minitransformer":  # which imports everything
            continue
        own = level(module)
        assert own is not None, f"{module} has no place in ORDER"
        for other, line, when_called in imports(path):
            there = level(other)
            allowed = when_called and any(
                module == importer and other.startswith(imported)
                for importer, imported in WHEN_CALLED
            )
            place = f"{path.relative_to(ROOT)}:{line}"
            if there is not None and not allowed:
                seen += 1
                assert there <= own, f"{place} imports {other}"
            if module.startswith("minitransformer.") and there is None:
                of_the_package = other.split(".")[0] == "minitransformer"
                assert not of_the_package, f"{place} imports {other} from the whole package"
    assert seen > 50


def test_leaves_import_nothing_of_the_package():
    for name in ORDER[0]:
        others = {other for other, *_ in imports(PACKAGE / f"{name}.py")}
        ours = {other for other in others if other.startswith("minitransformer")}
        leaves = tuple(f"minitransformer.{leaf}." for leaf in ORDER[0])
        assert all(other.startswith(leaves) for other in ours), f"{name}: {ours}"


def test_layers_need_torch_alone():
    for path in (PACKAGE / "layers").glob("*.py"):
        for other, line, _ in imports(path):
            known = other.split(".")[0] in {"torch", *sys.stdlib_module_names}
            ours = other.startswith("minitransformer.layers.")
            assert known or ours, f"{path.relative_to(ROOT)}:{line} imports {other}"


def test_only_validation_checks_whether_values_can_be_read():
    askers = {
        module_of(path)
        for path in every_source()
        for other, *_ in imports(path)
        if other.startswith("minitransformer.tracing")
    }
    assert askers == {"minitransformer.models.validation"}, askers


# What does not belong in the maths: code for a processor, a device, a compiler, or a guard.
NOT_IN_THE_MATHS = re.compile(
    r"\bfast\b|torch\.ops|autograd\.Function|is_compiling|is_exporting|is_tracing|mkldnn"
    r"|device\.type|is_cuda|autocast|register_forward|register_full_backward|_forward_hooks"
    r"|dispatch_mode|__func__|torch\._C"
)


def names_in(source: str) -> list[tuple[str, int]]:
    """Every name, dotted name, import and string of a source, with its line; no docstrings."""
    tree = ast.parse(source)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and isinstance(node.body[0], ast.Expr)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute | ast.Name):
            found.append((dotted(node), node.lineno))
        elif isinstance(node, ast.ImportFrom):
            found += [(f"{node.module}.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            found.append((node.name, node.lineno))
        elif isinstance(node, ast.Constant) and id(node) not in docstrings:
            found.append((str(node.value), node.lineno))
    return found


def dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def test_layers_and_models_hold_the_maths_alone():
    paths = [*(PACKAGE / "layers").glob("*.py"), *(PACKAGE / "models").glob("*.py")]
    assert len(paths) > 12
    for path in paths:
        for name, line in names_in(path.read_text(encoding="utf-8")):
            place = f"{path.relative_to(ROOT)}:{line}"
            assert not NOT_IN_THE_MATHS.search(name), f"{place} has {name!r}"


@pytest.mark.parametrize(
    "code",
    [
        "from minitransformer.fast.linear import linear",
        "from minitransformer import fast",
        "y = torch.ops.mkldnn._linear_pointwise(x)",
        "from torch.autograd import Function",
        "class Product(torch.autograd.Function): pass",
        "if torch.compiler.is_compiling(): pass",
        "from torch.compiler import is_exporting",
        "if torch.jit.is_tracing(): pass",
        "if torch.backends.mkldnn.enabled: pass",
        "if (x + 1).device.type == 'cpu': pass",
        "if x.is_cuda: pass",
        "with torch.autocast('cpu'): pass",
        "layer.register_forward_pre_hook(f)",
        "layer.register_full_backward_hook(f)",
        "if layer._forward_hooks: pass",
        "from torch.utils._python_dispatch import is_in_torch_dispatch_mode",
        "if layer.forward.__func__ is f: pass",
        "check = getattr(torch._C, 'check')",
        "check = getattr(torch.compiler, 'is_compiling', None)",
    ],
)
def test_the_scan_finds_what_does_not_belong_in_the_maths(code):
    lines = ["def f(x):", '    """Faster."""', f"    {code}"]
    found = [line for name, line in names_in("\n".join(lines)) if NOT_IN_THE_MATHS.search(name)]
    assert set(found) == {3}


def test_the_scan_ignores_docstrings_and_comments():
    source = '''"""How fast it is."""
def f(x):
    """No torch.ops here, nor x.is_cuda."""
    return torch.arange(len(x), device=x.device)  # is_compiling? autocast?
'''
    assert not [name for name, _ in names_in(source) if NOT_IN_THE_MATHS.search(name)]


# The package's __init__ imports everything; this makes one that imports nothing.
BARE = """
import sys, types
package = types.ModuleType("minitransformer")
package.__path__ = ["minitransformer"]
sys.modules["minitransformer"] = package
"""


@pytest.mark.parametrize(
    ("before", "steps"),
    [
        ("", {"minitransformer": "transformers matplotlib tokenizers safetensors huggingface_hub"}),
        ("", {"train.mlm": "transformers matplotlib"}),
        (
            BARE,  # one after the other
            {
                "minitransformer.layers.attention": "models hf tokenization generation fast tasks",
                "minitransformer.models.t5": "hf tokenization generation fast tasks",
                "minitransformer.hf.checkpoint": "generation fast tasks parity train",
                "minitransformer.generation": "fast tasks parity train",
                "minitransformer.fast": "tasks parity attention_maps",
            },
        ),
    ],
)
def test_what_an_import_does_not_bring(before, steps):
    code = [before, "import importlib, json, sys"]
    for module in steps:
        code.append(f"importlib.import_module({module!r}); print(json.dumps(sorted(sys.modules)))")
    result = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    for (module, absent), line in zip(steps.items(), lines, strict=True):
        loaded = set(json.loads(line))
        assert module in loaded
        for name in absent.split():
            assert name not in loaded, f"{module} imports {name}"
            assert f"minitransformer.{name}" not in loaded, f"{module} imports {name}"


def test_nothing_but_the_hub_reads_pickles():
    for path in every_source():
        source = path.read_text(encoding="utf-8")
        assert not re.search(
            r"torch\.load\(|torch\.save\(|import pickle|pickle\.(load|dump)", source
        ), path


def test_the_nearest_name():
    assert nearest("hiden_size", ["hidden_size", "vocab_size"]) == "hidden_size"
    assert nearest("quite_another", ["hidden_size"]) is None
    assert "did you mean 'hidden_size'" in unexpected_name("field", "hiden_size", ["hidden_size"])


def test_what_messages_show_of_large_values():
    text = shortened("word " * 20_000)
    assert len(text) == 200 and text.startswith("'word ") and text.endswith(" word '")
    assert shortened(["a", 1]) == "['a', 1]"
    assert shortened("a" * 198) == repr("a" * 198)
    nested: list = []
    for _ in range(10_000):
        nested = [nested]
    assert "too large to show" in shortened(nested) and "int" in shortened(10**5000)
    assert listed(["a", "b"]) == "a, b"
    assert listed([]) == ""
    assert listed(["ab"] * 5000).endswith(" and 4,950 more")
    assert len(unexpected_name("f", "x" * 100_000, ["y" * 100_000] * 5000)) < 1100


def test_a_directory_appears_complete_or_not_at_all(tmp_path):
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "new") as directory:
        (directory / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with atomic_directory(tmp_path / "new") as directory:
        (directory / "a").write_text("1")
        assert not (tmp_path / "new").exists()
    assert (tmp_path / "new" / "a").read_text() == "1"
    with pytest.raises(RuntimeError), atomic_directory(tmp_path / "new") as directory:
        (directory / "a").write_text("2")
        raise RuntimeError
    assert (tmp_path / "new" / "a").read_text() == "1"


def test_the_umask_says_who_may_read_the_files(tmp_path):
    """Also of a file that was made for its owner alone, as safetensors makes them."""
    before = os.umask(0o027)
    try:
        for name in ("a", "b"):  # into a new directory, and into one that exists
            with atomic_directory(tmp_path / "new") as directory:
                (directory / name).touch(mode=0o600)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "new").iterdir()} == {0o640}


def test_everything_is_flushed_before_it_gets_its_name(tmp_path, monkeypatch):
    calls = []
    fsync, rename = os.fsync, os.rename
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd))
    )
    monkeypatch.setattr(os, "rename", lambda a, b: (calls.append("rename"), rename(a, b)))
    with atomic_directory(tmp_path / "new") as directory:
        (directory / "a").write_text("1")
    assert [Path(call).name[:5] for call in calls] == ["a", ".mini", "renam", tmp_path.name[:5]]
    calls.clear()
    with atomic_directory(tmp_path / "new") as directory:
        (directory / "a").write_text("2")
        assert directory.parent == tmp_path / "new"  # which may be another file system
    assert [Path(call).name[:5] for call in calls] == ["a", ".mini", "new", tmp_path.name[:5]]


def test_what_a_kill_left_is_removed(tmp_path):
    (tmp_path / f"{TEMPORARY_PREFIX}model-1234").mkdir()
    (tmp_path / ".tmp-of-others").mkdir()
    (tmp_path / "model").mkdir()
    remove_unfinished(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-of-others", "model"]


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "..\\a", "C:\\a", "b/a", "", ".", ".."])
def test_only_plain_names_are_opened(name, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a").write_text("")
    with pytest.raises(CheckpointError, match="not a plain file name"):
        checkpoint_file(tmp_path, name)


def test_json_that_is_too_large(tmp_path, monkeypatch):
    (tmp_path / "a.json").write_text('{"a": 1}')
    monkeypatch.setattr("minitransformer.files._LARGEST_JSON", 7)
    with pytest.raises(CheckpointError, match="a.json has 8 bytes; .*at most 7: download"):
        read_json(tmp_path / "a.json")


def test_json_that_is_too_deep(tmp_path):
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(CheckpointError, match="a.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def broken_links(document: Path) -> list[str]:
    """The links of a page to a file that does not exist, or to a heading that its file lacks."""
    broken = []
    for link in re.findall(r"\]\(([^):]+)\)", document.read_text(encoding="utf-8")):
        path, is_, anchor = link.partition("#")
        target = document.parent / path if path else document
        if not target.exists() or (is_ and anchor not in anchors(target)):
            broken.append(link)
    return broken


def anchors(document: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them; lines of code are no headings."""
    prose = re.sub(r"^```.*?^```", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading).lower().replace(" ", "-") for heading in headings}


def test_every_link_of_the_documents_leads_somewhere():
    results = ROOT / "benchmarks" / "results" / "README.md"
    documents = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), results]
    assert len(documents) >= 4
    for document in documents:
        assert broken_links(document) == [], document


def test_a_link_that_leads_nowhere_is_found(tmp_path):
    (tmp_path / "other.md").write_text("# A\n\n## On `x`, here\n\n```sh\n# no heading\n```\n")
    good = ["other.md", "other.md#on-x-here", "#own", "https://example.org/#a"]
    bad = ["none.md", "none.md#a", "other.md#b", "other.md#no-heading", "#none"]
    page = tmp_path / "page.md"
    page.write_text("# Own\n\n" + "".join(f"[text]({link})\n" for link in good + bad))
    assert broken_links(page) == bad


def test_nothing_in_the_documents_is_still_to_be_written():
    for document in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")]:
        text = document.read_text(encoding="utf-8")
        assert not re.search(r"^[A-Z_]{4,}$|TODO|FIXME|XXX", text, re.MULTILINE), document


def test_the_version_is_the_same_everywhere(monkeypatch):
    """By the package, by what pip installs, and by the topmost heading of the changes."""
    installed: dict[str, Any] = {}
    monkeypatch.setattr(setuptools, "setup", installed.update)
    runpy.run_path(str(ROOT / "setup.py"))
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert newest
    assert minitransformer.__version__ == installed["version"] == newest[1]
