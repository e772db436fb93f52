"""The exercises in the order of a course, and their files."""

import ast
from collections.abc import Iterable
from pathlib import Path

from minitransformer.exercises.attention import (
    CAUSAL_MASK,
    CROSS_ATTENTION,
    MERGE_HEADS,
    MULTI_HEAD_ATTENTION,
    PADDING_MASK,
    SCALED_DOT_PRODUCT_ATTENTION,
    SOFTMAX,
    SPLIT_HEADS,
)
from minitransformer.exercises.blocks import DECODER_LAYER, ENCODER_LAYER, TIED_LM_HEAD
from minitransformer.exercises.decoding import (
    ANSWER_SPAN,
    BEAM_STEP,
    GREEDY_STEP,
    GROUP_ENTITIES,
    MERGE_PAIR,
    SAMPLE_FILTER,
)
from minitransformer.exercises.exercise import Exercise
from minitransformer.exercises.layers import (
    GELU,
    LAYER_NORM,
    RELATIVE_POSITION_BUCKET,
    RMS_NORM,
    ROBERTA_POSITIONS,
    SINUSOIDS,
)
from minitransformer.exercises.roberta import ROBERTA_FOR_MASKED_LM
from minitransformer.exercises.training import (
    ADAMW_STEP,
    CLIP_GRADIENTS,
    CROSS_ENTROPY,
    MASK_TOKENS,
    SHIFT_LABELS,
    SHIFT_RIGHT,
    WARMUP_SCHEDULE,
)
from minitransformer.names import listed, nearest, unexpected_name

EXERCISES: dict[str, Exercise] = {
    exercise.name: exercise
    for exercise in (
        SOFTMAX,
        SCALED_DOT_PRODUCT_ATTENTION,
        PADDING_MASK,
        CAUSAL_MASK,
        SPLIT_HEADS,
        MERGE_HEADS,
        MULTI_HEAD_ATTENTION,
        CROSS_ATTENTION,
        LAYER_NORM,
        RMS_NORM,
        GELU,
        ROBERTA_POSITIONS,
        SINUSOIDS,
        RELATIVE_POSITION_BUCKET,
        ENCODER_LAYER,
        DECODER_LAYER,
        TIED_LM_HEAD,
        ROBERTA_FOR_MASKED_LM,
        MASK_TOKENS,
        CROSS_ENTROPY,
        SHIFT_LABELS,
        SHIFT_RIGHT,
        ADAMW_STEP,
        WARMUP_SCHEDULE,
        CLIP_GRADIENTS,
        GREEDY_STEP,
        BEAM_STEP,
        SAMPLE_FILTER,
        MERGE_PAIR,
        ANSWER_SPAN,
        GROUP_ENTITIES,
    )
}


def find(name: str) -> Exercise:
    """The exercise of that name, with hyphens or as Python writes it.

    Raises:
        ValueError: there is none; the message has the nearest name.
    """
    for exercise in EXERCISES.values():
        if name in (exercise.name, exercise.name.replace("-", "_"), exercise.target):
            return exercise
    raise ValueError(unexpected_name("exercise", name, [*EXERCISES]))


def solutions_in(path: Path) -> list[Path]:
    """The file itself, or the files of exercises in a directory, in the order of the course.

    Raises:
        ValueError: the directory has none.
    """
    if not path.is_dir():
        return [path]
    files = [path / exercise.file_name for exercise in EXERCISES.values()]
    found = [file for file in files if file.exists()]
    if not found:
        raise ValueError(f"{path} has no file of an exercise, such as {files[0].name}")
    return found


def exercises_in(path: Path) -> list[Exercise]:
    """The exercises whose function or class a file defines.

    Raises:
        OSError: the file cannot be read.
        ValueError: it defines none.
    """
    try:
        statements = ast.parse(path.read_text(encoding="utf-8")).body
    except (SyntaxError, ValueError) as error:
        raise ValueError(f"{path} is not Python: {error}") from error
    names = {s.name for s in statements if isinstance(s, ast.FunctionDef | ast.ClassDef)}
    for statement in statements:
        if isinstance(statement, ast.Assign):  # softmax = lambda ...
            names |= {target.id for target in statement.targets if isinstance(target, ast.Name)}
    found = [exercise for exercise in EXERCISES.values() if exercise.target in names]
    # A file may have helpers that are named like other exercises.
    found = [e for e in found if e.file_name == path.name] or found
    if not found:
        targets = [exercise.target for exercise in EXERCISES.values()]
        near = [target for name in sorted(names) if (target := nearest(name, targets))]
        what = f"defines {listed(sorted(names), 200)}" if names else "defines no function or class"
        hint = f"did you mean {near[0]}?" if near else "start from `minitransformer exercise start`"
        raise ValueError(f"{path} {what}, which is no exercise; {hint}")
    return found


_TESTS = '''"""Checks the solution of each exercise: pytest test_exercises.py."""

from pathlib import Path

import pytest

from minitransformer.exercises import check, find

EXERCISES = {names}


@pytest.mark.parametrize("name", EXERCISES)
def test_exercise(name: str) -> None:
    exercise = find(name)
    report = check(exercise, Path(__file__).with_name(exercise.file_name))
    assert report.passed, report.text()
'''


def start(names: Iterable[str], directory: Path, *, tests: bool = False) -> list[Path]:
    """Write the files that students start from; nothing is overwritten.

    Args:
        names: of the exercises; "all" stands for every one.
        directory: where; made if it is missing.
        tests: whether test_exercises.py is written too, which checks the solutions beside it.

    Returns:
        The files.

    Raises:
        ValueError: there is no such exercise.
        FileExistsError: one of the files exists.
    """
    names = [*names]
    chosen = [find(name) for name in dict.fromkeys([*EXERCISES] if "all" in names else names)]
    texts = {directory / e.file_name: e.template_text() for e in chosen}
    if tests:
        rows = "".join(f'    "{exercise.name}",\n' for exercise in chosen)
        texts[directory / "test_exercises.py"] = _TESTS.format(names=f"[\n{rows}]")
    for path in texts:
        if path.exists():
            raise FileExistsError(f"{path} exists; rename it, or choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
    return [*texts]
