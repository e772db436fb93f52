"""One case of a comparison after the other; used by the benchmarks of training and of inference."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tqdm import tqdm

from benchmarks import comparison_report
from benchmarks.comparison import prepare_transformers
from benchmarks.reporting import environment, load_average
from benchmarks.rows import Rows
from benchmarks.unfinished import UnfinishedRun, code_digest
from train.metrics import try_to_draw

Row = dict[str, Any]
Measured = tuple[list[Row], list[Row]]  # a row for each side, and a row for each ratio
_LOAD = "load_at_the_start"  # in the environment; differs when a run goes on


@dataclass(frozen=True)
class CaseRun:
    """One case in one variant.

    Attributes:
        what: what all of its rows have in common: `case`, `dtype`, `batch_size`, and of training
            `dropout`.
        measure: how it is measured.
    """

    what: Row
    measure: Callable[[], Measured]


def run_cases(
    name: str,
    arguments: argparse.Namespace,
    plan: Row,
    read_rows: Callable[[], Mapping[str, Rows]],
    make_case_runs: Callable[[Mapping[str, Rows]], Sequence[CaseRun]],
) -> None:
    """Measure every case, print a table, write files to --out and draw a picture there.

    What is measured is kept there from case to case, and with --resume a run goes on with it.

    Args:
        name: what the benchmark is called.
        arguments: its command line.
        plan: the numbers behind the cases, for the files.
        read_rows: gives the rows of tokens, by their kind.
        make_case_runs: gives the cases, in the order of the table.

    Raises:
        ValueError: --out has a run that did not end, and --resume is not given or the command or
            the code is another one; a case is asked for twice; or sides do not agree.
    """
    prepare_transformers()
    torch.set_num_threads(arguments.threads)
    start = environment(arguments.device)
    plan = plan | comparison_report.asked_for(arguments)
    file = arguments.out / f"unfinished_{comparison_report.stem(name, plan)}.json"
    run = UnfinishedRun(file, resume=arguments.resume)
    rows = read_rows()
    case_runs = make_case_runs(rows)
    same = {key: value for key, value in start.items() if key not in ("commit", _LOAD)}
    same |= comparison_report.asked_for(arguments) | {"passes": plan["passes"]}
    same |= {"code": code_digest(), "cases": [case_run.what for case_run in case_runs]}
    same |= {f"{kind} rows": made.checksum() for kind, made in rows.items()}
    run.begin(same, start[_LOAD])
    sides, ratios = _measure_all(case_runs, run)
    loads = {_LOAD: run.loads[0], "loads_when_resumed": run.loads[1:]}
    found = {
        "environment": start | loads | {"load_at_the_end": load_average()},
        "rows": {kind: made.source for kind, made in rows.items()},
        "plan": plan,
        "sides": sides,
        "ratios": ratios,
    }
    print(comparison_report.table(found))
    comparison_report.save(found, arguments.out, name)
    run.end()
    try_to_draw(comparison_report.draw, arguments.out, comparison_report.picture(name, plan))


def _measure_all(case_runs: Sequence[CaseRun], run: UnfinishedRun) -> Measured:
    for number, case_run in enumerate(case_runs):
        if any(case_run.what == other.what for other in case_runs[:number]):
            raise ValueError(f"{comparison_report.title(case_run.what)}: asked for twice")
    sides: list[Row] = []
    ratios: list[Row] = []
    with tqdm(total=len(case_runs), initial=len(run), unit="case") as bar:
        for case_run in case_runs:
            what = case_run.what
            if (found := run.found(what)) is None:
                bar.set_description(comparison_report.title(what))
                found = dict(zip(("sides", "ratios"), case_run.measure(), strict=True))
                run.keep(what, found)
                bar.update()
            sides += [what | row for row in found["sides"]]
            ratios += [what | row for row in found["ratios"]]
    return sides, ratios
