"""Exponents, slopes and crossings of curves whose answers are known."""

import pytest

from benchmarks.curves import crossing, fit_power, local_slopes, upper_range

LENGTHS = [128, 256, 512, 1024, 2048, 4096]


@pytest.mark.parametrize("exponent", [-0.5, 0.0, 1.0, 2.0, 2.37])
def test_a_power_law_is_found_exactly(exponent):
    power = fit_power(LENGTHS, [3.5 * length**exponent for length in LENGTHS])
    assert power.exponent == pytest.approx(exponent, abs=1e-9)
    assert power.factor == pytest.approx(3.5)
    assert power.r_squared == pytest.approx(1.0)
    assert (power.low, power.high, power.points) == (128, 4096, 6)


def test_a_curve_that_is_none_has_a_lower_share_explained():
    times = [length**2 * bump for length, bump in zip(LENGTHS, [1, 3, 1, 3, 1, 3], strict=True)]
    assert 0.9 < fit_power(LENGTHS, times).r_squared < 0.97


def test_slopes_of_linear_and_square_cost_rise_to_two():
    lengths = [2**power for power in range(4, 24)]
    slopes = local_slopes(lengths, [700 * length + length**2 for length in lengths])
    assert slopes == sorted(slopes)
    assert slopes[0] == pytest.approx(1, abs=0.05)
    assert slopes[-1] == pytest.approx(2, abs=0.001)
    upper = upper_range(lengths)
    whole = fit_power(lengths, [700 * x + x**2 for x in lengths]).exponent
    assert whole < fit_power(lengths[upper], [700 * x + x**2 for x in lengths[upper]]).exponent


def test_the_upper_range():
    for count, kept in ((2, 2), (3, 3), (5, 3), (6, 3), (7, 4), (8, 4)):
        assert list(range(count))[upper_range(range(count))] == list(range(count))[-kept:]


def test_what_has_no_exponent():
    with pytest.raises(ValueError, match="at least 3 points; here are 2"):
        fit_power([1, 2], [1, 4])
    with pytest.raises(ValueError, match="positive numbers; here is 0"):
        fit_power([1, 2, 3], [1, 0, 3])


def test_where_curves_cross():
    rising, level = [length**2 for length in LENGTHS], [700 * length for length in LENGTHS]
    place = crossing(LENGTHS, rising, level)
    assert place == pytest.approx((700, 700**2))
    # Noise may let curves touch before; the last crossing counts.
    early = [10 * rising[0], *rising[1:]]
    assert crossing(LENGTHS, early, level) == pytest.approx((700, 700**2))
    assert crossing(LENGTHS[:3], rising[:3], level[:3]) is None  # not yet
    assert crossing(LENGTHS[3:], rising[3:], level[3:]) is None  # long since
    assert crossing([], [], []) is None
