"Intervals against scipy, and paired comparisons."

import math

import numpy as np
import pytest
from scipy import stats

from roar_nb.core import DataError
from roar_nb.metrics import Curve
from roar_nb.statistics import bootstrap, bootstrap_all, compare_images, t_interval


@pytest.mark.parametrize("n", [2, 3, 5, 30])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_t_interval_is_scipys(n, level):
    v = np.random.default_rng(n).normal(0.4, 0.1, n)
    expected = stats.t.interval(level, n - 1, loc=v.mean(), scale=stats.sem(v))
    assert t_interval(v, level) == pytest.approx((v.mean(), *expected))


def test_one_value_has_no_interval():
    assert t_interval([0.5])[0] == 0.5 and np.isnan(t_interval([0.5])[1:]).all()
    mean, low, high = bootstrap([[0.3, 0.4]])
    assert mean.tolist() == [0.3, 0.4] and np.isnan([low, high]).all()


@pytest.mark.parametrize("interval", [t_interval, bootstrap])
def test_no_values_are_refused(interval):
    with pytest.raises(DataError, match="at least one"):
        interval(np.empty((0, 1)))


def test_bootstrap_is_scipys():
    v = np.random.default_rng(0).gamma(2, size=(300, 2))
    mean, low, high = bootstrap(v)
    for j in range(2):
        found = stats.bootstrap((v[:, j],), np.mean, n_resamples=4000, method="percentile", rng=1)
        width = high[j] - low[j]
        ends = found.confidence_interval
        assert [low[j], high[j]] == pytest.approx([ends.low, ends.high], abs=0.05 * width)
    assert mean == pytest.approx(v.mean(0))


@pytest.mark.parametrize("draws", [1, 20, 50, 120])
def test_any_number_of_draws(draws):
    assert bootstrap(np.random.default_rng(0).random((10, 3)), draws=draws)[1].shape == (3,)


def test_tables_together_are_as_alone():
    rng = np.random.default_rng(0)
    tables = [rng.random(shape) for shape in [(40, 1), (7, 3), (40, 5), (1, 2)]]
    for together, alone in zip(bootstrap_all(tables), map(bootstrap, tables)):
        np.testing.assert_allclose(together, alone)


def curve(method, values, metric="road", order="morf", at=(0, 50)):
    return Curve(method, metric, order, "zero", at, np.asarray(values, float))


def test_wins_follow_the_direction_of_the_metric():
    low, high = [[1, 0], [1, 0], [1, 1], [1, 1]], [[1, 1], [1, 1], [1, 1], [1, 0]]
    wins = {
        order: compare_images([curve("a", low, order=order), curve("b", high, order=order)]).wins[0]
        for order in ("morf", "lerf")
    }
    assert wins == {"morf": (1 + 1 + 0.5 + 0) / 4, "lerf": (0 + 0 + 0.5 + 1) / 4}


def test_a_metric_without_direction_has_no_wins():
    pair = compare_images([curve("a", [[1, 0]] * 3, "own"), curve("b", [[1, 1]] * 3, "own")])
    assert math.isnan(pair.wins[0]) and pair.difference[0] == -0.5


def test_only_what_is_alike_is_compared():
    a = curve("a", [[1, 0]] * 3)
    others = [
        curve("b", [[1, 0]] * 4),
        curve("c", [[1, 0]] * 3, at=(0, 30)),
        curve("d", [[1, 0]] * 3, order="lerf"),
        curve("a", [[1, 0]] * 3, "probability"),
    ]
    assert len(compare_images([a, *others])) == 0


def test_single_numbers_are_compared():
    numbers = [curve(m, [[v]] * 5, "deletion_auc", at=(math.nan,)) for m, v in (("a", 1), ("b", 2))]
    assert compare_images(numbers).wins.tolist() == [1]
