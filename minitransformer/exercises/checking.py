"""Check a student's file: does it do what the reference does, and if not, which mistake is it?

The file runs in a process of its own with a time limit. Its results are compared with those of the
reference here, values and gradients. If they differ, the wrong versions of the catalogue are run on
the same inputs, one by one, then two and three at once: the mistakes are those that give the same
numbers in every case.
"""

import contextlib
import functools
import itertools
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from minitransformer.exercises import runner
from minitransformer.exercises.exercise import Exercise, Mistake
from minitransformer.exercises.runner import Case, Outcome
from minitransformer.names import cut, shortened

TIME_LIMIT = 60.0  # seconds for a file, of which importing torch takes a few

# The largest |yours - reference| / (1 + |reference|) that rounding explains.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}
_FIRST_CASES = 3  # to be explained if not all can be
_MOST_PRINTED = 24  # numbers of a tensor that are printed in full


@dataclass(frozen=True)
class Difference:
    """Where a result first differs from the reference."""

    where: str  # "result[0, 1]", "gradient of query[0, 0, 1]", "the shape of the result"
    yours: str
    reference: str


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        failure: why the file could not be checked, in one sentence.
        case: the first case, which is the smallest, that differs.
        difference: where.
        passed_cases: the labels of cases that are right.
        failed_cases: and of those that are not.
        mistakes: what explains all the differences; several alternatives only if no input tells
            them apart, and more than one mistake in an alternative if there are several at once.
        notes: what is wrong beside mistakes of the catalogue, such as the dtype of the result.
        printed: what the file wrote to its standard output, if it did.
    """

    exercise: str
    file: str = ""
    failure: str | None = None
    case: Case | None = None
    difference: Difference | None = None
    passed_cases: tuple[str, ...] = ()
    failed_cases: tuple[str, ...] = ()
    mistakes: tuple[tuple[Mistake, ...], ...] = ()
    notes: tuple[str, ...] = ()
    printed: str = ""

    @property
    def passed(self) -> bool:
        """Whether the solution is right."""
        return self.failure is None and self.difference is None

    def text(self) -> str:
        """The report for a reader."""
        lines = [f"{self.exercise}: {'right' if self.passed else 'not yet right'} ({self.file})"]
        if self.failure is not None:
            lines.append(self.failure)
        elif self.case is None or self.difference is None:
            count = len(self.passed_cases)
            lines.append(f"It gives what the reference gives for all {count} inputs.")
        else:
            lines += self._difference_lines(self.case, self.difference)
            lines += ["", *self._mistake_lines(self.difference)]
        if self.printed:
            lines.append(f"Your code prints, which a solution should not: {self.printed!r:.200}")
        return "\n".join(lines)

    def _difference_lines(self, case: Case, difference: Difference) -> Iterator[str]:
        yield f"The smallest input that differs: {case.label}"
        for name, value in [*(case.init or {}).items(), *case.inputs.items()]:
            yield f"  {name} = {_shown(value)}"
        yield f"  {difference.where}:"
        yield f"    yours      {difference.yours}"
        yield f"    reference  {difference.reference}"
        if len(self.failed_cases) > 1:
            yield f"Also wrong: {_labels(self.failed_cases[1:])}"
        if self.passed_cases:
            yield f"Right: {_labels(self.passed_cases)}"

    def _mistake_lines(self, difference: Difference) -> Iterator[str]:
        if not self.mistakes and difference.where == "the call":
            yield "The call ends in an error; fix that first."
        elif not self.mistakes and not self.notes:
            yield (
                "This is none of the known mistakes, nor two of them; look at where the result "
                "first differs."
            )
        for number, alternative in enumerate(self.mistakes):
            what = ("The mistake", "Two mistakes", "Three mistakes")[len(alternative) - 1]
            yield f"Or else {what[0].lower()}{what[1:]}:" if number else f"{what}:"
            for mistake in alternative:
                reason, line = mistake.lines()
                yield from (f"- {reason}", line)
        if self.mistakes:
            yield f"(The files are in {Path(__file__).parents[2]})"
        yield from self.notes

    def as_dict(self) -> dict[str, Any]:
        """The report for a program."""
        return {
            "exercise": self.exercise,
            "file": self.file,
            "passed": self.passed,
            "failure": self.failure,
            "case": None if self.case is None else self.case.label,
            "difference": None if self.difference is None else asdict(self.difference),
            "passed_cases": list(self.passed_cases),
            "failed_cases": list(self.failed_cases),
            "mistakes": [[m.as_dict() for m in alternative] for alternative in self.mistakes],
            "notes": list(self.notes),
            "printed": self.printed,
        }


def _labels(labels: Sequence[str]) -> str:
    """The labels of cases, which may contain commas; the first eight of them."""
    more = f"; and {len(labels) - 8} more" if len(labels) > 8 else ""
    return "; ".join(labels[:8]) + more


def check(exercise: Exercise, path: str | Path, *, time_limit: float = TIME_LIMIT) -> Report:
    """Compare a student's solution with the reference, and name its mistake.

    Args:
        exercise: what the file should solve.
        path: the file.
        time_limit: seconds.
    """
    if not Path(path).is_file():
        return Report(exercise.name, str(path), failure=f"There is no file {path}.")
    cases = list(exercise.cases())
    outcomes, failure, printed = _run(Path(path), exercise.target, cases, time_limit)
    if failure is not None:
        return Report(exercise.name, str(path), failure=failure, printed=printed)
    return replace(judge(exercise, cases, outcomes), file=str(path), printed=printed)


def judge(exercise: Exercise, cases: Sequence[Case], outcomes: Sequence[Outcome]) -> Report:
    """Compare the outcomes of a solution with those of the reference."""
    right = [wrong_outcome(exercise, (), case) for case in cases]
    found = [
        first_difference(case, yours, reference)
        for case, yours, reference in zip(cases, outcomes, right, strict=True)
    ]
    wrong = [number for number, difference in enumerate(found) if difference is not None]
    labels = [case.label for case in cases]
    passed = tuple(label for i, label in enumerate(labels) if i not in wrong)
    if not wrong:
        return Report(exercise.name, passed_cases=passed)
    if all((outcome.error or "").startswith("NotImplementedError") for outcome in outcomes):
        return Report(exercise.name, failure="It is not written yet.")
    report = Report(
        exercise.name,
        passed_cases=passed,
        case=cases[wrong[0]],
        difference=found[wrong[0]],
        failed_cases=tuple(labels[i] for i in wrong),
    )
    if all(outcome.value is None and outcome.error is None for outcome in outcomes):
        return replace(report, notes=("It returns None; is a `return` missing?",))
    mistakes = diagnose(exercise, cases, outcomes, wrong)
    if mistakes:
        return replace(report, mistakes=tuple(mistakes))
    judged = _judge_values(exercise, cases, outcomes, right, report)
    if judged is not report or len(wrong) <= _FIRST_CASES:
        return judged
    first = wrong[:_FIRST_CASES]
    some = [cases[i] for i in first], [outcomes[i] for i in first]
    mistakes = diagnose(exercise, *some, range(_FIRST_CASES), most=2)
    note = "This explains the first inputs alone; there is more. Fix it and check again."
    return replace(report, notes=(note,) * bool(mistakes), mistakes=tuple(mistakes))


def _judge_values(
    exercise: Exercise,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    right: Sequence[Outcome],
    report: Report,
) -> Report:
    """The report with what is found when dtypes are set aside, and rounding to float32."""
    cases = [
        replace(case, tolerance=max(case.tolerance or 0.0, _TOLERANCE[torch.float32]))
        if torch.float64 in _dtypes(reference.value)
        else case
        for case, reference in zip(cases, right, strict=True)
    ]
    converted = [_as_in(o, r) for o, r in zip(outcomes, right, strict=True)]
    pairs = zip(cases, converted, right, strict=True)
    wrong = [i for i, each in enumerate(pairs) if first_difference(*each) is not None]
    if len(wrong) == len(report.failed_cases):
        return report  # neither has to do with it
    mistakes = diagnose(exercise, cases, converted, wrong) if wrong else []
    if wrong and not mistakes:
        return report
    note = (
        "What differs is as small as rounding to float32. Perhaps something is computed in "
        "float32, as after `x.float()`: convert half precision alone, or use "
        "torch.promote_types(x.dtype, torch.float32). Or a small number is added."
    )
    for yours, reference in zip(outcomes, right, strict=True):
        dtypes = _dtypes(yours.value), _dtypes(reference.value)
        different = [pair for pair in zip(*dtypes, strict=False) if pair[0] != pair[1]]
        if different:
            one, other = different[0]
            note = f"A result is {one} where it should be {other}; convert it back with .to(dtype)."
            break
    return replace(report, notes=(note,), mistakes=tuple(mistakes))


def _dtypes(value: Any) -> list[torch.dtype]:
    return [tensor.dtype for tensor in runner.tensors_in(value)]


def _as_in(outcome: Outcome, reference: Outcome) -> Outcome:
    """The outcome with the dtypes of the reference, where both are tensors of one shape."""

    def converted(value: Any, like: Any) -> Any:
        if isinstance(value, Tensor) and isinstance(like, Tensor):
            return value.to(like.dtype)
        lists = isinstance(value, list | tuple) and isinstance(like, list | tuple)
        if lists and len(value) == len(like):
            return [converted(*pair) for pair in zip(value, like, strict=True)]
        return value

    return replace(outcome, value=converted(outcome.value, reference.value))


def diagnose(
    exercise: Exercise,
    cases: Sequence[Case],
    outcomes: Sequence[Outcome],
    wrong: Sequence[int],
    most: int = 3,
) -> list[tuple[Mistake, ...]]:
    """The mistakes, alone or several at once, that give these outcomes in every case.

    One and two are all tried; of three only those whose effect on the first wrong case is that of
    the ones among them that show there by themselves.

    Args:
        exercise: whose catalogue is searched.
        cases, outcomes: the inputs and what the solution gave.
        wrong: the numbers of the cases in which that is not what the reference gives.
        most: how many at once are searched for.
    """
    first, *others = [*wrong, *(i for i in range(len(cases)) if i not in wrong)]

    @functools.cache
    def explain(mistakes: tuple[Mistake, ...], i: int) -> bool:
        return _explains(exercise, mistakes, cases[i], outcomes[i])

    for size in range(1, most + 1):
        tried = [*itertools.combinations(exercise.mistakes, size)]
        if size > 2:
            # Most do not show in the first case, such as those of masks where there is no mask, so
            # that it is known which of the many combinations cannot explain it.
            right = wrong_outcome(exercise, (), cases[first])
            hidden = [
                m for m in exercise.mistakes if _explains(exercise, (m,), cases[first], right)
            ]
            tried = [
                each for each in tried if explain(tuple(m for m in each if m not in hidden), first)
            ]
        found = [
            mistakes
            for mistakes in tqdm(tried, f"{size} at once", delay=2, leave=False, disable=None)
            if all(explain(mistakes, i) for i in (first, *others))
        ]
        if found:  # rather none of which one undoes a part of another
            return [each for each in found if are_independent(exercise, each, cases[0])] or found
    return []


def are_independent(exercise: Exercise, mistakes: Sequence[Mistake], case: Case) -> bool:
    """Whether no two of the mistakes replace the same step."""
    steps = runner.build(exercise.steps, case) if exercise.is_class else exercise.steps()
    replaced: set[tuple[Any, str]] = set()
    for mistake in mistakes:
        before = _steps_of(steps)
        mistake.put_into(steps)
        now = {place for place, step in _steps_of(steps).items() if before.get(place) is not step}
        if now & replaced:
            return False
        replaced |= now
    return True


def _steps_of(steps: Any) -> dict[tuple[Any, str], Any]:
    """The attributes of an object and of its submodules, by object and name."""
    objects = [*steps.modules()] if isinstance(steps, nn.Module) else [steps]
    return {(each, name): step for each in objects for name, step in vars(each).items()}


def _explains(
    exercise: Exercise, mistakes: Sequence[Mistake], case: Case, outcome: Outcome
) -> bool:
    """Whether the reference with these mistakes gives this outcome in a case."""
    if case.gradients:  # which take the most time, and most wrong versions have other values
        values = replace(case, gradients=False)
        if first_difference(values, outcome, wrong_outcome(exercise, mistakes, values)) is not None:
            return False
    return first_difference(case, outcome, wrong_outcome(exercise, mistakes, case)) is None


def wrong_outcome(exercise: Exercise, mistakes: Sequence[Mistake], case: Case) -> Outcome:
    """What the reference with these mistakes, or with none, gives in a case."""

    def put_in(steps: Any) -> None:
        for mistake in mistakes:
            mistake.put_into(steps)

    target = exercise.steps if exercise.is_class else exercise.steps()
    outcome = runner.evaluate(target, case, put_in)
    value = outcome.value
    if isinstance(value, list) and len(value) == 2 and value[1] is None:
        # A layer of the library, whose attention maps were not asked for.
        outcome = replace(outcome, value=value[0])
    return outcome


# ---- comparing ----


def first_difference(case: Case, yours: Outcome, reference: Outcome) -> Difference | None:
    """Where an outcome first differs from another by more than rounding."""
    if yours.error is not None or reference.error is not None:
        if _message(yours.error) == _message(reference.error):
            return None
        return Difference(
            "the call",
            yours.error or "no error",
            reference.error or f"no error: {_shown(reference.value)}",
        )
    different = _differing("result", yours.value, reference.value, case.tolerance)
    for name, gradient in reference.gradients.items():
        if different is not None:
            break
        other = yours.gradients.get(name)
        different = _differing(f"gradient of {name}", other, gradient, case.tolerance)
    return different


def _message(error: str | None) -> str | None:
    """The error without the line of the solution that it came from."""
    return None if error is None else re.sub(r" \(line \d+\)$", "", error)


def _differing(
    where: str, yours: Any, reference: Any, tolerance: float | None
) -> Difference | None:
    """Where two nested values first differ."""
    if isinstance(reference, Tensor) and isinstance(yours, Tensor):
        return _differing_tensors(where, yours, reference, tolerance)
    if isinstance(reference, list | tuple) and isinstance(yours, list | tuple):
        if len(yours) != len(reference):
            shown = (f"{len(each)} items: {_shown(each)}" for each in (yours, reference))
            return Difference(f"the length of the {where}", *shown)
        parts = [(f"{where}[{i}]", *p) for i, p in enumerate(zip(yours, reference, strict=True))]
    elif isinstance(reference, dict) and isinstance(yours, dict):
        if {*yours} != {*reference}:
            return Difference(f"the keys of the {where}", _shown([*yours]), _shown([*reference]))
        parts = [(f"{where}[{key!r}]", yours[key], reference[key]) for key in reference]
    else:
        numbers = isinstance(yours, int | float) and isinstance(reference, int | float)
        if isinstance(yours, Tensor) and yours.dim() == 0 and isinstance(reference, int | float):
            yours, numbers = yours.item(), True
        limit = (tolerance or 1e-9) * (1 + abs(reference)) if numbers else 0.0
        close = numbers and math.isfinite(reference) and abs(yours - reference) <= limit
        same = close or (type(yours) is type(reference) and yours == reference)
        return None if same else Difference(where, _shown(yours), _shown(reference))
    differing = (_differing(*part, tolerance) for part in parts)
    return next((found for found in differing if found is not None), None)


def _differing_tensors(
    where: str, yours: Tensor, reference: Tensor, tolerance: float | None
) -> Difference | None:
    if yours.shape != reference.shape:
        shapes = str(tuple(yours.shape)), str(tuple(reference.shape))
        return Difference(f"the shape of the {where}", *shapes)
    if yours.dtype != reference.dtype:
        return Difference(f"the dtype of the {where}", str(yours.dtype), str(reference.dtype))
    limit = _TOLERANCE.get(reference.dtype, 0.0) if tolerance is None else tolerance
    a, b = yours.to(torch.float64), reference.to(torch.float64)
    near = ((a - b).abs() <= limit * (1 + b.abs())) & b.isfinite()
    wrong = ~(near | (a == b) | (a.isnan() & b.isnan()))  # an infinity equals itself alone
    if not wrong.any():
        return None
    index = tuple(wrong.nonzero()[0].tolist())
    place = f"{where}[{', '.join(map(str, index))}]" if index else where
    numbers = yours[index].item(), reference[index].item()
    shown = [_number(number) for number in numbers]
    return Difference(place, *(map(repr, numbers) if shown[0] == shown[1] else shown))


def _number(value: float) -> str:
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return cut("{" + ", ".join(f"{k!r}: {_shown(v)}" for k, v in value.items()) + "}", 300)
    if isinstance(value, list | tuple):
        return cut("[" + ", ".join(map(_shown, value)) + "]", 300)
    if not isinstance(value, Tensor):
        return shortened(value, 300)
    dtype = str(value.dtype).removeprefix("torch.")
    if value.numel() > _MOST_PRINTED:
        return f"{dtype} of shape {tuple(value.shape)}"
    rounded = value.tolist() if not value.is_floating_point() else _rounded(value.tolist())
    return f"{rounded} ({dtype}, shape {tuple(value.shape)})"


def _rounded(values: Any) -> Any:
    return [_rounded(v) for v in values] if isinstance(values, list) else float(f"{values:.5g}")


# ---- the student's process ----


def _run(
    path: Path, name: str, cases: Sequence[Case], time_limit: float
) -> tuple[list[Outcome], str | None, str]:
    """Run the cases in another process: the outcomes, or why there are none; what it printed."""
    try:
        runner.check_imports(path)
    except runner.Refused as error:
        return [], f"Not run: {error}.", ""
    with tempfile.TemporaryDirectory() as directory:
        there = Path(directory)
        runner.write(there, "cases", [vars(case) for case in cases])
        # -P: the directory of runner.py, which is this package's, is not searched for modules.
        # -B: nothing is written beside the solution.
        command = [sys.executable, "-PB", runner.__file__, str(path.resolve()), name, directory]
        (there / "work").mkdir()
        printed, errors = there / "printed", there / "errors"
        with printed.open("wb") as standard_output, errors.open("wb") as standard_error:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=standard_output,
                stderr=standard_error,
                start_new_session=True,
                cwd=there / "work",
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            try:
                process.wait(time_limit)
                ended = True
            except subprocess.TimeoutExpired:
                ended = False
            finally:
                _end(process)
        with printed.open("rb") as lines:
            text = lines.read(1000).decode(errors="replace").strip()
        if (there / "refused.json").exists():
            return [], f"Not run: {runner.read(there, 'refused')}.", text
        numbers = [number for number in range(len(cases)) if (there / f"{number}.json").exists()]
        if len(numbers) == len(cases):
            return [Outcome(**runner.read(there, str(number))) for number in numbers], None, text
        at = f"in the case: {cases[len(numbers)].label}" if numbers else "before the first result"
        if not ended:
            reason = f"It had not ended after {time_limit:g} s, {at}; does a loop never end?"
            return [], reason, text
        last = errors.read_bytes()[-1000:].decode(errors="replace").strip().splitlines()
        at += f" ({last[-1][:200]})" if last else ""
        return [], f"The process ended with status {process.returncode} {at}.", text


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and its group."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    elif process.poll() is None:
        process.kill()
    process.wait()
