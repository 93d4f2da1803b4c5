"Intervals and tests against scipy, statsmodels and brute force; promises kept in simulations."

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from roar_nb.core import DataError
from roar_nb.statistics import (
    crossed,
    half_width,
    holm,
    mean_interval,
    needed,
    paired_p,
    t_interval,
)


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_t_interval_is_scipys(n, level):
    v = np.random.default_rng(n).normal(0.4, 0.1, n)
    expected = stats.t.interval(level, n - 1, loc=v.mean(), scale=stats.sem(v))
    assert t_interval(v, level) == pytest.approx((v.mean(), *expected))
    for table in (v[None], v[:, None]):  # one network, and one image
        assert mean_interval(table, level=level) == pytest.approx((v.mean(), *expected))


def test_one_value_has_no_interval():
    assert t_interval([0.5])[0] == 0.5 and np.isnan(t_interval([0.5])[1:]).all()
    assert mean_interval([[0.5]])[0] == 0.5 and np.isnan(mean_interval([[0.5]])[1:]).all()


@pytest.mark.parametrize("values", [np.empty((0, 3)), np.empty((3, 0)), np.full((2, 3), np.nan)])
def test_no_values_are_refused(values):
    with pytest.raises(DataError, match="at least one"):
        mean_interval(values)


def test_mean_squares_are_those_of_an_analysis_of_variance():
    y = np.random.default_rng(0).normal(size=(4, 7, 1))
    c, total = crossed(y), ((y - y.mean()) ** 2).sum()
    rows = 7 * ((y.mean(1) - y.mean()) ** 2).sum()
    columns = 4 * ((y.mean(0) - y.mean()) ** 2).sum()
    assert c.of_seeds[0] == pytest.approx(rows / 3)
    assert c.of_images[0] == pytest.approx(columns / 6)
    assert c.residual[0] == pytest.approx((total - rows - columns) / 18)


@pytest.mark.parametrize("right", [0, 1, 100, 199, 200])
def test_proportions_are_clopper_and_pearsons(right):
    v = np.zeros((1, 200))
    v[0, :right] = 1
    expected = stats.binomtest(right, 200).proportion_ci(method="exact")
    assert mean_interval(v, (0, 1))[1:] == pytest.approx(tuple(expected), abs=2e-3)


def test_a_constant_inside_its_bounds_is_certain():
    assert mean_interval(np.full((3, 9), 0.3), (0, 1)) == pytest.approx((0.3, 0.3, 0.3))


@given(st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=4))
@settings(deadline=None, max_examples=60)
def test_intervals_stay_in_their_bounds(table):
    mean, low, high = mean_interval(np.array(table, float), (0, 1))
    assert 0 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1
    mean, low, high = mean_interval(2 * np.array(table, float) - 1, (-1, 1))
    assert -1 <= low <= mean + 1e-12 and mean - 1e-12 <= high <= 1


def test_a_seed_with_gaps_is_left_out():
    y = np.random.default_rng(0).random((3, 5))
    with_gap = np.vstack([y, [[np.nan] * 5]])
    assert mean_interval(with_gap) == mean_interval(y)


def simulated(of_seeds, of_images, rest, seeds, images, sims=3000):
    rng = np.random.default_rng(seeds * images)
    y = rng.normal(0, of_seeds, (seeds, 1, sims)) + rng.normal(0, of_images, (1, images, sims))
    return y + rng.normal(0, rest, (seeds, images, sims))


@pytest.mark.parametrize("seeds, images", [(2, 20), (3, 20), (3, 200), (5, 100)])
@pytest.mark.parametrize(
    "parts", [(0, 1, 0.5), (0.1, 1, 0.5), (0.5, 1, 0.5), (0.1, 0.3, 1), (0.3, 0, 1), (0, 0, 1)]
)
def test_crossed_intervals_cover(parts, seeds, images):
    y = simulated(*parts, seeds, images)
    _, low, high = mean_interval(y)
    covers = (low <= 0) & (0 <= high)
    assert covers.mean() > 0.94  # of 3,000: 0.95 and two and a half standard errors


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99, 0.995])
@pytest.mark.parametrize("n", [20, 200])
def test_proportions_are_covered(p, n):
    exact = np.arange(n + 1)
    tables = (np.arange(n)[None, :, None] < exact).astype(float)
    _, low, high = mean_interval(tables, (0, 1))
    covers = (low <= p) & (p <= high)
    assert stats.binom.pmf(exact, n, p) @ covers >= 0.95


def test_p_belongs_to_the_interval():
    y = simulated(0.2, 1, 0.5, 3, 50, 500)
    _, low, high = mean_interval(y)
    assert (((low > 0) | (high < 0)) == (paired_p(y) < 0.05)).all()
    p = paired_p(y[..., :1])
    assert half_width(crossed(y[..., :1]), p / 2) == pytest.approx(abs(y[..., 0].mean()))


def test_p_of_one_number_a_seed_is_students():
    d = np.random.default_rng(0).normal(0.3, 1, (5, 1, 3))
    assert paired_p(d) == pytest.approx(stats.ttest_1samp(d[:, 0], 0).pvalue)


def test_p_of_one_network_is_wilcoxons():
    d = np.random.default_rng(0).normal(0.1, 1, (1, 60, 2))
    d[0, :20] = 0  # equal on some images
    expected = [stats.wilcoxon(d[0, :, k], zero_method="pratt").pvalue for k in range(2)]
    assert paired_p(d) == pytest.approx(expected)
    assert paired_p(np.zeros((1, 9, 1))) == 1 and paired_p(np.zeros((3, 9, 1))) == 1


def test_rounding_is_no_difference():
    d = np.full((1, 30, 1), 1e-17)
    assert paired_p(d) == 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
@settings(deadline=None, max_examples=30)
def test_holm_is_statsmodels(p):
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    assert holm(p) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_holm_of_nothing():
    assert holm([]).shape == (0,) and math.isnan(holm([math.nan])[0])
    assert holm([math.nan, 0.01, 0.02]) == pytest.approx([math.nan, 0.02, 0.02], nan_ok=True)


def test_as_many_images_as_needed_are_enough():
    rng, shift = np.random.default_rng(0), 0.3
    (n,) = needed(rng.normal(shift, 1, (1, 20000, 1)))[1]
    assert n == pytest.approx((2.8016 / shift) ** 2, rel=0.1)
    assert needed(rng.normal(shift, 1, (1, 20000, 1)), comparisons=10)[1][0] > 1.3 * n
    d = rng.normal(shift, 1, (1, int(n), 2000))
    assert (stats.ttest_1samp(d[0], 0).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.05)


@pytest.mark.parametrize("comparisons", [1, 6])
def test_as_many_seeds_as_needed_are_enough(comparisons):
    rng = np.random.default_rng(1)

    def found(seeds):
        "Runs in which a difference of 0.1 is told from 0"
        d = 0.1 + rng.normal(0, 0.05, (seeds, 1, 1000)) + rng.normal(0, 0.2, (seeds, 50, 1000))
        return paired_p(d) <= 0.05 / comparisons

    many = 0.1 + rng.normal(0, 0.05, (400, 1, 1)) + rng.normal(0, 0.2, (400, 50, 1))
    many += 0.1 - many.mean()
    (n,) = needed(many, comparisons)[0]
    assert found(int(n)).mean() >= 0.7 and found(int(n) - 1).mean() < 0.85


def test_what_is_told_apart_with_power_needs_no_more_than_there_is():
    "Where fewer seeds are needed than there are, the pair is told apart"
    rng = np.random.default_rng(2)
    d = rng.normal(0, 0.05, (4, 1, 500)) + rng.normal(0, 0.2, (4, 50, 500)) + rng.random(500) / 5
    seeds, images = needed(d, comparisons=3)
    p = paired_p(d)
    assert (p[seeds <= 4] <= 0.05 / 3).all() and (p[images <= 50] <= 0.05 / 3).all()


def test_no_number_of_seeds_makes_up_for_few_images():
    rng = np.random.default_rng(0)
    d = 0.1 + rng.normal(0, 1, (1, 10, 1)) + rng.normal(0, 0.01, (3, 10, 1))
    d += 0.1 - d.mean()
    seeds, images = needed(d)
    assert np.isinf(seeds[0]) and np.isfinite(images[0]) and images[0] > 10
    assert np.isinf(needed(np.array([[[1.0]], [[-1.0]]]) * np.ones((2, 5, 1)))[0][0])
