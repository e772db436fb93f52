"""What a curve of measured costs says: its exponent, its local slopes, and where two curves meet.

Everything is read in logarithms, in which a power law a * x^b is a line of slope b.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import linear_regression, mean

FEWEST = 3  # points, for a line through two of them fits whatever they are


@dataclass(frozen=True)
class Power:
    """The power law that a curve follows best."""

    exponent: float
    factor: float  # the cost at x = 1
    r_squared: float  # the share of the variance (of logarithms) that it explains
    low: float  # the range that was looked at
    high: float
    points: int


def fit_power(xs: Sequence[float], costs: Sequence[float]) -> Power:
    """Least squares in logarithms.

    Raises:
        ValueError: there are fewer than three points, or something is not positive.
    """
    if len(xs) < FEWEST:
        raise ValueError(f"an exponent needs at least {FEWEST} points; here are {len(xs)}")
    across, up = _logarithms(xs), _logarithms(costs)
    slope, start = linear_regression(across, up)
    middle = mean(up)
    left = sum((y - start - slope * x) ** 2 for x, y in zip(across, up, strict=True))
    total = sum((y - middle) ** 2 for y in up)
    return Power(
        exponent=slope,
        factor=math.exp(start),
        r_squared=1 - left / total if total else 1.0,  # a level curve is a power law too
        low=min(xs),
        high=max(xs),
        points=len(xs),
    )


def upper_range(xs: Sequence[float]) -> slice:
    """The upper half of ascending points, and no fewer than an exponent needs.

    Below, overhead that does not grow is a large part of the cost and hides the exponent.
    """
    return slice(max(0, len(xs) - max(FEWEST, math.ceil(len(xs) / 2))), None)


def local_slopes(xs: Sequence[float], costs: Sequence[float]) -> list[float]:
    """The exponent between each point and the next.

    Raises:
        ValueError: something is not positive.
    """
    points = list(zip(_logarithms(xs), _logarithms(costs), strict=True))
    return [(after[1] - before[1]) / (after[0] - before[0]) for before, after in pairwise(points)]


def crossing(
    xs: Sequence[float], rising: Sequence[float], other: Sequence[float]
) -> tuple[float, float] | None:
    """Where one curve overtakes another for good: x and cost, between points as power laws.

    Returns:
        None where the rising one is below at the last point, or above at every point.

    Raises:
        ValueError: something is not positive.
    """
    across, up = _logarithms(xs), _logarithms(rising)
    gaps = [y - below for y, below in zip(up, _logarithms(other), strict=True)]
    if not gaps or gaps[-1] < 0:
        return None
    for place in range(len(gaps) - 1, 0, -1):
        before, after = gaps[place - 1], gaps[place]
        if before < 0:
            share = before / (before - after)
            x, y = (line[place - 1] * (1 - share) + line[place] * share for line in (across, up))
            return math.exp(x), math.exp(y)
    return None


def _logarithms(values: Sequence[float]) -> list[float]:
    if any(value <= 0 for value in values):
        raise ValueError(f"a curve in logarithms needs positive numbers; here is {min(values)}")
    return [math.log(value) for value in values]
