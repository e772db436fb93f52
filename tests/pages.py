"""Run the code of documentation pages: Python and its output, doctest lines, and commands.

The blocks of a page run in order and share their variables. A block of text after a block of Python
is its output; `python -m tests.pages PAGE` updates it in the page.
"""

import contextlib
import importlib
import io
import re
import shlex
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from unittest import mock

import minitransformer.cli
from minitransformer.arguments import Parser

ROOT = Path(__file__).parents[1]
PYTHON = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)
FENCE = re.compile(  # in a list, a block is indented
    r"^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```\n(?:\n *```text\n(?P<output>.*?)^ *```\n)?",
    re.MULTILINE | re.DOTALL,
)
# Blocks that only show something: what a model has generated, the content of a file.
SHOWN = {"", "text", "json"}


def run_page(page: str) -> str:
    """The page with the output of its Python."""
    names: dict[str, object] = {}

    def with_output(block: re.Match[str]) -> str:
        lines = printed(block["code"], names)
        output = f"\n```text\n{lines}```\n" * bool(lines)
        return f"```python\n{block['code']}```\n{output}"

    return PYTHON.sub(with_output, page)


def printed(code: str, names: dict[str, object]) -> str:
    """What a block of Python prints, without spaces at the ends of lines."""
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(compile(code, "page", "exec"), names)
    return "".join(line.rstrip() + "\n" for line in output.getvalue().splitlines())


def check_page(page: str, tiny: Mapping[str, str]) -> int:
    """Run every block of a page in the current directory, and return their number.

    Args:
        page: its Markdown.
        tiny: for each module of a job, the options that make it small; they override the page's.
            "train.mlm --model" is that module with a pretrained model.

    Raises:
        AssertionError: a command fails or is not known, or something else is printed than the
            page shows.
    """
    names: dict[str, object] = {}
    count = 0
    for block in FENCE.finditer(page):
        language, code = block["language"], block["code"]
        if language == "python":
            output = printed(code, names)
            shown = block["output"]
            assert shown in (None, output), f"{code}prints\n{output}and not\n{shown}"
        elif language == "pycon":
            check_interpreter(code, names)
        elif language in ("sh", "bash"):
            for words in commands(code):
                run_command(words, tiny)
        else:
            assert language in SHOWN, f"a block of {language!r} is not run"
            continue
        count += 1
    return count


def check_interpreter(code: str, names: dict[str, object]) -> None:
    """Check that each `>>> expression` prints or raises the line below it; `...` is any text."""
    lines = code.splitlines()
    assert len(lines) % 2 == 0, code
    for line, shown in zip(lines[::2], lines[1::2], strict=True):
        assert line.startswith(">>> "), line
        try:
            answer = repr(eval(line.removeprefix(">>> "), names))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        pattern = ".*".join(map(re.escape, shown.split("...")))
        assert re.fullmatch(pattern, answer, re.DOTALL), f"{line}\n{answer}"


def table_rows(page: str) -> list[list[str]]:
    """The cells of every row of the tables of a page, without the heads."""
    rows = re.findall(r"^\| (.*) \|$", page, re.MULTILINE)
    rules = [number for number, row in enumerate(rows) if set(row) <= set("-: |")]
    heads = {number - 1 for number in rules} | set(rules)
    return [row.split(" | ") for number, row in enumerate(rows) if number not in heads]


def commands(code: str) -> list[list[str]]:
    """The words of each command; a backslash continues a line, and # begins a comment."""
    lines = code.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]


def run_command(words: list[str], tiny: Mapping[str, str]) -> None:
    """Run one command in this process, or check that what it installs or makes is there."""
    line = shlex.join(words)
    match words:
        case ["make", target, *settings]:
            makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
            targets = re.findall(r"^([a-z].*?):(?!=)", makefile, re.MULTILINE)
            assert target in " ".join(targets).split(), f"no such target: {line}"
            for name, is_, _ in (setting.partition("=") for setting in settings):
                assert is_ and re.search(rf"^{name} \?=", makefile, re.MULTILINE), line
        case ["pip", "install", *requirements]:
            assert requirements, line
            for requirement in requirements:
                check_requirement(requirement)
        case ["minitransformer", "train", job, *arguments]:
            run_command(["python", "-m", f"train.{job}", *arguments], tiny)
        case ["minitransformer", "exercise", "check", *arguments]:  # a template is not right yet
            assert minitransformer.cli.main(["exercise", "check", *arguments]) in (0, 1), line
        case ["minitransformer", *arguments, ">", path]:
            with Path(path).open("w", encoding="utf-8") as file, contextlib.redirect_stdout(file):
                assert minitransformer.cli.main(arguments) == 0, line
        case ["minitransformer", *arguments]:
            assert minitransformer.cli.main(arguments) == 0, line
        case ["python", "-m", "pytest", *arguments]:
            paths = [word for word in arguments if "/" in word]
            assert all((ROOT / path).exists() for path in paths), f"nothing to test: {line}"
            options = [word for word in arguments if word.startswith("--")]
            conftest = (ROOT / "tests" / "conftest.py").read_text(encoding="utf-8")
            assert all(f'"{option}"' in conftest for option in options), f"no option: {line}"
        case ["python", "-m", module, *arguments] if module in tiny:
            job = importlib.import_module(module)
            pretrained = tiny.get(f"{module} --model") if "--model" in arguments else None
            options = tiny[module] if pretrained is None else pretrained
            assert job.main([*arguments, *options.split()]) == 0, line
        case ["python", "-m", module, *arguments] if module.startswith("benchmarks."):
            assert find_spec(module) is not None, f"no such module: {line}"
            for path in input_paths(module, arguments):
                assert path.exists(), f"no such file: {path} of {line}"
        case ["python", "-m", module, *paths] if module.startswith("tests."):
            assert find_spec(module) is not None, f"no such module: {line}"
            assert all((ROOT / path).exists() for path in paths), line
        case _:
            raise AssertionError(f"the tests do not know how to run: {line}")


def input_paths(module: str, arguments: list[str]) -> list[Path]:
    """The files and directories that a benchmark would read; it only parses its arguments.

    Raises:
        AssertionError: its parser does not accept the arguments.
    """

    class Parsed(Exception):
        pass

    parse_args = Parser.parse_args

    def parse_and_stop(parser: Parser, args: list[str]) -> None:
        raise Parsed(parse_args(parser, args))

    script = importlib.import_module(module)
    with mock.patch.object(Parser, "parse_args", parse_and_stop):
        try:
            script.main(arguments)
        except Parsed as parsed:
            values = {name: value for name, value in vars(parsed.args[0]).items() if name != "out"}
        except SystemExit as error:
            raise AssertionError(f"{module} does not accept {shlex.join(arguments)}") from error
        else:
            raise AssertionError(f"{module} does not parse its arguments by our parser")
    flat = [v for value in values.values() for v in (value if isinstance(value, list) else [value])]
    return [value for value in flat if isinstance(value, Path)]


def check_requirement(requirement: str) -> None:
    """Check that `.`, `.[extra]` or a package is something that setup.py defines."""
    setup = (ROOT / "setup.py").read_text(encoding="utf-8")
    if (ours := re.fullmatch(r"\.(?:\[([\w,]+)\])?", requirement)) is not None:
        extras = setup.partition("extras_require")[2]
        for extra in filter(None, (ours[1] or "").split(",")):
            assert f'"{extra}":' in extras, f"no such extra: {requirement}"
    else:
        assert f'"{requirement}>=' in setup, f"setup.py does not know {requirement}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(run_page(path.read_text(encoding="utf-8")), encoding="utf-8")
