"""Pages whose code is run: each block of Python is followed by what it prints.

`python -m tests.pages PAGE` writes what the code prints now into the page.
"""

import contextlib
import io
import re
import sys
from pathlib import Path

BLOCK = re.compile(r"```python\n(?P<code>.*?)```\n(?:\n```text\n(?P<output>.*?)```\n)?", re.DOTALL)


def run_page(page: str) -> str:
    """The page with the output of its code, whose blocks run in order and share their names."""
    names: dict[str, object] = {}

    def with_output(block: re.Match[str]) -> str:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(block["code"], "page", "exec"), names)
        lines = "".join(line.rstrip() + "\n" for line in printed.getvalue().splitlines())
        output = f"\n```text\n{lines}```\n" * bool(lines)
        return f"```python\n{block['code']}```\n{output}"

    return BLOCK.sub(with_output, page)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(run_page(path.read_text(encoding="utf-8")), encoding="utf-8")
