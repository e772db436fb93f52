"""What `benchmarks/attention_cost.py` has found: exponents and crossings, a table, and files."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import reporting
from benchmarks.attention_cost_picture import draw
from benchmarks.attention_implementations import NO_ATTENTION
from benchmarks.attention_points import ATTENTION, LAYER, Row
from benchmarks.curves import crossing, fit_power, local_slopes, upper_range
from benchmarks.measuring import DTYPES
from benchmarks.reporting import Found, around
from train.metrics import try_to_draw

# What a fit and a crossing are about.
_CURVE = ("sweep", "part", "passes", "implementation")


def curves(
    points: Sequence[Row], names: Sequence[str] = _CURVE
) -> dict[tuple[Any, ...], list[Row]]:
    """The points that were timed, from short to long, by what they have in common."""
    found: dict[tuple[Any, ...], list[Row]] = {}
    for row in points:
        found.setdefault(tuple(row[name] for name in names), [])
        if not row["reason"]:
            found[tuple(row[name] for name in names)].append(row)
    return found


def medians(curve: Iterable[Row]) -> list[float]:
    """Milliseconds of each point."""
    return [row["milliseconds"]["median"] for row in curve]


def fits(points: Sequence[Row]) -> list[Row]:
    """The exponent of every curve over its upper range, or why it has none."""
    rows = []
    for key, curve in curves(points).items():
        row: Row = dict(zip(_CURVE, key, strict=True))
        lengths, times = [point["length"] for point in curve], medians(curve)
        row["local_slopes"] = local_slopes(lengths, times)
        upper = upper_range(lengths)
        try:
            power = fit_power(lengths[upper], times[upper])
        except ValueError as error:
            rows.append(row | {"reason": str(error)})
            continue
        rows.append(
            row
            | {
                "exponent": power.exponent,
                "r_squared": power.r_squared,
                "from": power.low,
                "to": power.high,
                "points": power.points,
                "reason": "",
            }
        )
    return rows


def crossings(points: Sequence[Row]) -> list[Row]:
    """The length from which on attention alone takes longer than the layer without it.

    Of implementations whose rows are full, for the formula knows no others; and of our layer, with
    whatever kernel, for it is our layer that is timed without attention.
    """
    found = curves([row for row in points if row["rows"] * row["length"] == row["tokens"]])
    rows = []
    for (sweep, part, passes, name), curve in found.items():
        rest = found.get((sweep, LAYER, passes, NO_ATTENTION), [])
        if part != ATTENTION or name.startswith("transformers"):
            continue
        times = {row["length"]: row for row in curve}
        both = [row["length"] for row in rest if row["length"] in times]
        mine = medians(times[length] for length in both)
        others = medians(row for row in rest if row["length"] in times)
        place = crossing(both, mine, others)
        row = {"sweep": sweep, "passes": passes, "implementation": name}
        if place is not None:
            row |= {"length": place[0], "milliseconds": place[1], "reason": ""}
        elif not both:
            row |= {"reason": "nothing to compare"}
        else:
            longer = mine[-1] < others[-1]
            row |= {"reason": f"beyond {both[-1]}" if longer else f"below {both[0]}"}
        rows.append(row)
    return rows


def table(found: Found) -> str:
    """A block for each sweep, part and direction; a line for each implementation."""
    lines = [around(found), _setting(found)]
    for key, block in curves(found["points"], _CURVE[:3]).items():
        lengths = list(dict.fromkeys(row["length"] for row in block))
        lines.append(f"\n{', '.join(key)}: milliseconds, and half the distance of the quartiles")
        lines.append(
            f"{'length':26}"
            + "".join(f"{length:>12,}" for length in lengths)
            + f"{'exponent':>10}{'R2':>7}{'peak MB':>9}{'ceiling':>9}{'faster':>8}"
        )
        for fit in found["fits"]:
            if tuple(fit[name] for name in _CURVE[:3]) == key:
                lines.append(_line(fit, block, lengths))
    lines += ["", *_crossing_lines(found), "", *_reason_lines(found)]
    return "\n".join(lines)


def _setting(found: Found) -> str:
    """What was measured, and what the last columns mean."""
    plan = found["plan"]
    return (
        f"hidden {plan['hidden']}, heads {plan['heads']}, intermediate {plan['intermediate']}, "
        f"{plan['dtype']}, {'causal' if plan['causal'] else 'not causal'}\n"
        "exponent: over the upper half of the lengths; at the longest: peak memory, share of the "
        "rate of a large product\nof matrices, and how many times faster than transformers' sdpa "
        "on the same rows (optimized, unpadded: than it with padding)"
    )


def _line(fit: Row, block: list[Row], lengths: list[int]) -> str:
    """One implementation's times, exponent, and what its longest point needed and reached."""
    name = fit["implementation"]
    mine = {row["length"]: row for row in block if row["implementation"] == name}
    cells = []
    for length in lengths:
        time = mine[length]["milliseconds"] if length in mine else None
        cells.append(
            f"{time['median']:.3g} ±{(time['high'] - time['low']) / 2 / time['median']:.0%}"
            if time
            else "-"
        )
    power = f"{'-':>10}{'-':>7}"
    if not fit["reason"]:
        power = f"{fit['exponent']:>10.2f}{fit['r_squared']:>7.3f}"
    last = mine[max(mine)] if mine else {}
    peak, times = last.get("peak_megabytes"), last.get("times_faster")
    return (
        f"{name:26}"
        + "".join(f"{cell:>12}" for cell in cells)
        + power
        + (f"{'-':>9}" if peak is None else f"{peak:>9.0f}")
        + (f"{last['share_of_ceiling']:>9.0%}" if last else f"{'-':>9}")
        + (f"{times['median']:>8.2f}" if times else f"{'-':>8}")
    )


def _crossing_lines(found: Found) -> list[str]:
    """Where attention overtakes the rest, by formula and as measured."""
    formula = "2 (2 h + f) - 1" if found["plan"]["causal"] else "2 h + f"
    lines = [
        "attention alone (its T^2 part, without projections) takes as long as all the rest of the "
        f"layer at length\n  {found['equal_length']:,} by FLOPs, {formula}"
    ]
    columns = dict.fromkeys((row["sweep"], row["passes"]) for row in found["crossings"])
    lines.append(f"{'  as measured':26}" + "".join(f"{', '.join(c):>34}" for c in columns))
    for name in dict.fromkeys(row["implementation"] for row in found["crossings"]):
        cells = {
            (row["sweep"], row["passes"]): row["reason"] or f"{row['length']:,.0f}"
            for row in found["crossings"]
            if row["implementation"] == name
        }
        lines.append(f"  {name:24}" + "".join(f"{cells.get(c, '-'):>34}" for c in columns))
    return lines


def _reason_lines(found: Found) -> list[str]:
    """Which kernels ran, and what was not timed and why."""
    kernels: dict[str, dict[str, None]] = {}
    for row in found["points"]:
        if row["kernel"]:
            kernels.setdefault(row["implementation"], {})[row["kernel"]] = None
    lines = ["what ran:"]
    lines += [f"  {name}: {', '.join(ran)}" for name, ran in kernels.items()]
    lines += [f"  {row['implementation']}: not here: {row['reason']}" for row in found["absent"]]
    ends: dict[tuple[Any, ...], list[Row]] = {}
    for row in found["points"]:
        if row["reason"]:
            ends.setdefault(tuple(row[name] for name in (*_CURVE[:3], "length")), []).append(row)
    if ends:
        lines.append("where curves end, and why the first of them does:")
    for (*what, length), rows in ends.items():
        names = ", ".join(row["implementation"] for row in rows)
        lines.append(f"  {', '.join(what)}, {length:,}: {names}: {rows[0]['reason']}")
    return lines


def save(found: Found, directory: Path) -> None:
    """Write attention_cost_*.json and .csv, named after dtype and mask, and the pictures.

    A quick run is called attention_cost_quick, so that it never takes the place of a whole one.
    """
    plan = found["plan"]
    same = {name: plan[name] for name in ("dtype", "causal", "hidden", "heads", "intermediate")}
    rows = [same | row for row in [*found["points"], *found["absent"]]]
    name = f"attention_cost{'_quick' * plan['quick']}_{plan['dtype']}{'_causal' * plan['causal']}"
    stem = directory / name
    reporting.save(found, rows, stem)
    try_to_draw(draw_sweeps, found, stem)


def draw_sweeps(found: Found, stem: Path) -> None:
    """Draw a picture for each sweep.

    Raises:
        ImportError: matplotlib is not installed.
    """
    for sweep in dict.fromkeys(row["sweep"] for row in found["points"]):
        draw(found, sweep, stem.with_name(f"{stem.name}_{sweep.replace(' ', '_')}.png"))


def draw_again(directory: Path, name: str) -> None:
    """Draw the pictures of every name_*.json of a directory."""
    for dtype in DTYPES:
        for file in sorted(directory.glob(f"{name}_{dtype}*.json")):
            draw_sweeps(json.loads(file.read_text(encoding="utf-8")), file.with_suffix(""))
