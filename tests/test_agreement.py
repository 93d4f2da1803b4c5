"Agreement of measures against scipy, krippendorff's definition and brute force."

import os
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats

from repo import ROOT
from roar_nb.agreement import (
    agreement,
    agreement_square,
    alpha_word,
    imputation_check,
    mean_pairwise_spearman,
    measures,
    ordinal_alpha,
    rank_correlations,
    reliability,
)
from roar_nb.comparisons import RIVALS
from roar_nb.metrics import Curve, with_gains

DATA = Path(os.environ.get("ROAR_NB_DATA", ROOT.parent / "shared/data"))
pytestmark = pytest.mark.filterwarnings("error")
NAN = np.nan


def curve(method, values, metric="road", order="lerf", imputation="blur", **facts):
    "One number for each image: (N,), or (R,N) for R networks"
    values = np.atleast_2d(np.asarray(values, float))[..., None]
    facts.setdefault("seeds", tuple(range(len(values))))
    return Curve(method, metric, order, imputation, (NAN,), values, **facts)


def several(values, **facts):
    "A curve for each method: (M,N) or (M,R,N)"
    return [curve(f"m{i}", v, **facts) for i, v in enumerate(values)]


def noise(*shape, seed=0):
    return np.random.default_rng(seed).random(shape)


# ---- rank correlations -------------------------------------------------------------------------

tied = arrays.arrays(np.int64, (4, 7), elements=st.integers(-2, 2))


@settings(deadline=None, max_examples=60)
@given(tied, tied)
def test_rank_correlations_are_scipys(x, y):
    kendall, spearman = rank_correlations(x / 3, y / 7)
    for k in range(len(x)):
        if len(set(x[k])) == 1 or len(set(y[k])) == 1:
            assert np.isnan([kendall[k], spearman[k]]).all()
        else:
            assert kendall[k] == pytest.approx(stats.kendalltau(x[k], y[k]).statistic, abs=1e-12)
            assert spearman[k] == pytest.approx(stats.spearmanr(x[k], y[k]).statistic, abs=1e-12)


def test_rounding_makes_no_order():
    x = np.array([[0.1 + 0.2, 0.3, 0.5]])
    assert rank_correlations(x, np.array([[1, 2, 3]]))[0] == pytest.approx(
        stats.kendalltau([1, 1, 2], [1, 2, 3]).statistic
    )


def test_unknown_scores_have_no_correlation():
    assert np.isnan(rank_correlations(np.array([[1, 2, NAN]]), np.array([[1, 2, 3]]))).all()


# ---- measures ----------------------------------------------------------------------------------


def test_measures_are_turned():
    a = several(noise(3, 5), metric="deviation", order="morf")
    b = several(noise(3, 5), metric="deviation", order="lerf")
    up, down = measures(a + b)
    np.testing.assert_array_equal(up.areas, -down.areas)
    assert (up.areas > 0).all() and up.methods == ("m0", "m1", "m2")


def test_what_ranks_nobody_is_left_out():
    ranked = several(noise(3, 5))
    aside = several(noise(3, 5), metric="mask_only", order="morf") + several(
        noise(3, 5), metric="x"
    )
    filtered = [replace(c, filter="gaussian", imputation="zero") for c in ranked]
    assert len(measures(ranked + aside + filtered)) == 1


def test_a_curve_and_its_area_count_once():
    at, values = (0, 50, 100), noise(3, 20, 3)
    whole = [Curve(f"m{i}", "deletion", "morf", "zero", at, v) for i, v in enumerate(values)]
    number = several([c.areas[0] for c in whole], metric="deletion_auc", order="morf")
    number = [replace(c, imputation="zero") for c in number]
    assert [m.parts[3] for m in measures(number + whole)] == ["deletion"]
    assert [m.parts[3] for m in measures(number)] == ["deletion_auc"]
    elsewhere = [replace(c, imputation="blur") for c in number]
    assert [m.parts[3] for m in measures(elsewhere + whole)] == ["deletion_auc", "deletion"]


def test_gains_are_measures():
    both = several(noise(3, 5), order="morf") + several(noise(3, 5, seed=1))
    found = measures(with_gains(both))
    assert [m.parts[3] for m in found] == ["road", "road", "road_srg"]
    np.testing.assert_allclose(found[2].areas, found[0].areas + found[1].areas)


def test_seeds_are_aligned_and_the_unknown_is_ignored():
    values = noise(3, 3, 6)
    whole = several(values, metric="kar", protocol="retraining")
    part = replace(whole[1], values=whole[1].values[[2, 0]], seeds=(2, 0))
    (m,) = measures([whole[0], part, whole[2]])
    assert np.isnan(m.areas[1, 1]).all()
    np.testing.assert_array_equal(m.areas[1, [0, 2]], values[1, [0, 2]])
    table = agreement([whole[0], part, whole[2], *several(values, imputation="zero")], draws=20)
    scores = [values[0].mean(), values[1, [0, 2]].mean(), values[2].mean()]
    expected = stats.kendalltau(scores, values.mean((1, 2))).statistic
    assert table.kendall[0] == pytest.approx(expected)


def test_a_method_of_which_nothing_is_known_is_left_out():
    assert measures(several([[NAN, NAN], [1, 2]]))[0].methods == ("m1",)
    assert measures(several([[NAN, NAN]])) == []


# ---- agreement ---------------------------------------------------------------------------------


def test_the_estimates_are_scipys():
    "Of every pair, whatever the direction"
    values = [np.round(noise(8, 6, seed=k), 1) for k in range(4)]
    kinds = [("road", "morf"), ("road", "lerf"), ("deviation", "morf"), ("deviation", "lerf")]
    curves = [c for v, (m, o) in zip(values, kinds) for c in several(v, metric=m, order=o)]
    table = agreement(curves, draws=30)
    scores = [s * v.mean(1).round(12) for s, v in zip((-1, 1, 1, -1), values)]
    for (a, b), row in zip(combinations(scores, 2), table.itertuples()):
        assert row.kendall == pytest.approx(stats.kendalltau(a, b).statistic)
        assert row.spearman == pytest.approx(stats.spearmanr(a, b).statistic)
        assert -1 <= row.kendall_low <= row.kendall <= row.kendall_high <= 1 and row.methods == 8
    assert len(table) == 6


def naive_interval(a, b, draws, rng):
    "Hall's symmetric interval of Kendall's τ, drawn one by one: networks and images of (M,R,N)"
    estimate, errors = stats.kendalltau(a.mean((1, 2)), b.mean((1, 2))).statistic, []
    for _ in range(draws):
        seeds = rng.integers(a.shape[1], size=a.shape[1])
        images = rng.integers(a.shape[2], size=a.shape[2])
        means = [v[:, seeds][:, :, images].mean((1, 2)) for v in (a, b)]
        errors.append(abs(stats.kendalltau(*means).statistic - estimate))
    error = np.quantile(errors, 0.95)
    return [max(estimate - error, -1), min(estimate + error, 1)]


@pytest.mark.parametrize("networks", [1, 4])
def test_the_interval_is_the_bootstraps(networks):
    rng = np.random.default_rng(0)
    quality = np.linspace(0, 0.3, 9)[:, None, None]
    a, b = (quality + rng.normal(0, 1, (9, networks, 60)) for _ in range(2))
    a, b = (v + rng.normal(0, 0.2, (9, networks, 1)) * (networks > 1) for v in (a, b))
    row = agreement(several(a) + several(b, imputation="zero"), draws=3000).iloc[0]
    expected = naive_interval(a, b, 3000, rng)
    assert [row.kendall_low, row.kendall_high] == pytest.approx(expected, abs=0.06)


def test_the_same_images_get_the_same_draws():
    "A measure and its copy agree on every draw, with a noisy ranking and with networks drawn too"
    values = noise(6, 3, 15)
    copies = several(values) + several(values, imputation="zero")
    row = agreement(copies, draws=60).iloc[0]
    assert row.kendall_low == row.spearman_low == row.kendall_high == 1


def test_networks_are_drawn_too():
    "Scores that differ by network only"
    values = np.repeat(noise(6, 4)[..., None], 30, 2)
    sure = several(np.linspace(0, 1, 6)[:, None, None] * np.ones((1, 4, 30)), imputation="zero")
    row = agreement(several(values) + sure, draws=200).iloc[0]
    assert row.kendall_low < row.kendall < row.kendall_high


def test_only_shared_methods_are_compared():
    a, b = several(noise(5, 9)), several(noise(5, 9, seed=1), imputation="zero")[:0:-1]
    one, other = agreement(a + b, draws=40), agreement(a[1:] + b[::-1], draws=40)
    pd.testing.assert_frame_equal(one, other)
    assert one.methods.tolist() == [4]
    assert len(agreement(a[:4] + b[:3])) == 0 and list(agreement([]).columns[:6]) == RIVALS


def test_one_image_of_one_network_has_no_interval():
    row = agreement(several(noise(4, 1)) + several(noise(4, 1), imputation="z"), draws=9).iloc[0]
    assert row.kendall == 1 and np.isnan([row.kendall_low, row.spearman_high]).all()


def test_equal_methods_have_no_agreement():
    row = agreement(several(np.ones((4, 9))) + several(noise(4, 9), imputation="z"), draws=9).iloc[
        0
    ]
    assert row[["kendall", "kendall_low", "spearman", "spearman_high"]].isna().all()


def test_names_and_square():
    curves = several(noise(3, 9)) + several(noise(3, 9), imputation="zero")
    curves += several(noise(3, 8), imputation="zero", model="B")
    table = agreement(curves, draws=9)
    square = agreement_square(table)
    assert list(square) == ["road lerf blur", "road lerf zero", "road lerf zero B"]
    np.testing.assert_array_equal(square, square.T)
    assert np.diag(square).tolist() == [1, 1, 1] and square.iloc[0, 1] == table.kendall[0]


# ---- reliability -------------------------------------------------------------------------------


def alpha_by_definition(values):
    "Krippendorff (2018), chapter 12, for complete data: pairs of raters, pair by pair"
    ranks = stats.rankdata(values, axis=1)
    raters, units = ranks.shape
    levels, counts = np.unique(ranks, return_counts=True)

    def delta(c, k):
        c, k = sorted((c, k))
        between = counts[(levels >= c) & (levels <= k)].sum()
        return (between - (counts[levels == c] + counts[levels == k]).sum() / 2) ** 2

    pairs = [delta(*p) for column in ranks.T for p in combinations(column, 2)]
    all_pairs = [delta(*p) for p in combinations(ranks.ravel(), 2)]
    return 1 - np.mean(pairs) / np.mean(all_pairs)


@settings(deadline=None, max_examples=40)
@given(arrays.arrays(np.int64, (4, 5), elements=st.integers(0, 3)))
def test_alpha_is_the_definitions(values):
    if (np.ptp(values, axis=1) == 0).all():
        assert np.isnan(ordinal_alpha(values))
    else:
        assert ordinal_alpha(values) == pytest.approx(alpha_by_definition(values), abs=1e-9)


def test_alpha_needs_two_raters():
    assert np.isnan(ordinal_alpha(np.array([[1, 2, 3]])))


@pytest.mark.parametrize(
    "alpha, word", [(NAN, ""), (-0.1, "low"), (0.666, "low"), (0.667, "tentative"), (0.8, "good")]
)
def test_words(alpha, word):
    assert alpha_word(alpha) == word


def test_raters_are_images_or_networks():
    values = noise(4, 3, 20)
    rows = reliability(several(values[:, 0]) + several(values, metric="kar")).set_index("metric")
    assert rows.over.tolist() == ["images", "seeds"] and rows.raters.tolist() == [20, 3]
    assert rows.alpha["road"] == pytest.approx(ordinal_alpha(values[:, 0].T))
    assert rows.alpha["kar"] == pytest.approx(ordinal_alpha(values.mean(2).T))


def test_one_retraining_cannot_tell():
    row = reliability(several(noise(4, 20), metric="kar", protocol="retraining")).iloc[0]
    assert (row.over, row.raters, row.word) == ("seeds", 1, "") and np.isnan(row.alpha)


def test_images_that_lack_a_method_are_no_raters():
    values = noise(4, 20)
    values[1, :5] = NAN
    row = reliability(several(values)).iloc[0]
    assert row.raters == 15 and row.alpha == pytest.approx(ordinal_alpha(values[:, 5:].T))


def test_split_half_against_brute_force():
    rng = np.random.default_rng(0)
    values = np.linspace(0, 0.5, 8)[:, None] + rng.normal(0, 1, (8, 41))
    found = []
    for _ in range(2000):
        at = rng.permutation(41)
        halves = values[:, at[:20]].mean(1), values[:, at[20:]].mean(1)
        found.append(stats.spearmanr(*halves).statistic)
    row = reliability(several(values), halvings=2000).iloc[0]
    assert row.split_half == pytest.approx(np.mean(found), abs=0.03)


def test_halves_share_no_network():
    "Networks that disagree wholly: the halves do, however many images there are"
    values = np.stack([np.linspace(0, 1, 5), np.linspace(1, 0, 5)], 1)[..., None]
    values = np.repeat(values, 50, 2)
    assert reliability(several(values, metric="kar")).split_half[0] == -1


@pytest.mark.parametrize("n", [1, 2, 9])
def test_equal_methods_have_no_reliability(n):
    row = reliability(several(np.full((4, n), 0.3))).iloc[0]
    assert np.isnan(row.alpha) and np.isnan(row.split_half) and row.word == ""


def test_two_methods_are_too_few():
    assert len(reliability(several(noise(2, 9)))) == 0


# ---- imputations -------------------------------------------------------------------------------


def two_orders(metric="road", methods=("a", "b", "c", "random"), images=50, shift=0.0):
    rng = np.random.default_rng(0)
    return [
        curve(m, rng.random(images) + shift * (order == "lerf"), metric, order)
        for order in ("morf", "lerf")
        for m in methods
    ]


@pytest.mark.parametrize("metric, sign", [("road", 1), ("deviation", -1)])
def test_the_gain_of_random(metric, sign):
    curves = two_orders(metric, shift=0.5 * sign)
    row = imputation_check(with_gains(curves)).iloc[0]
    (gain,) = [c for c in with_gains(curves) if c.order == "both" and c.method == "random"]
    assert row.gain == pytest.approx(gain.areas.mean()) and row.low < row.gain < row.high
    assert not row.fair and row.methods == 4 and "leak" in row.verdict


def test_the_orders_of_regions():
    "AOPC has no gain of its own, and is checked all the same"
    at, drops = (0, 50, 100), noise(4, 2, 30, 3)
    curves = [
        Curve(m, "aopc", o, "uniform", at, drops[i, j])
        for i, m in enumerate(("a", "b", "c", "random"))
        for j, o in enumerate(("morf", "lerf"))
    ]
    row = imputation_check(curves).iloc[0]
    assert row.gain == pytest.approx((drops[3, 0] - drops[3, 1])[:, -1].mean())
    expected = stats.spearmanr(*(s * drops[:, j, :, -1].mean(1) for j, s in ((0, 1), (1, -1))))
    assert row.spearman == pytest.approx(expected.statistic)


def test_without_random_nothing_is_said_of_it():
    row = imputation_check(two_orders(methods=("a", "b", "c"))).iloc[0]
    assert row.fair is pd.NA and np.isnan(row.gain) and "no interval" in row.verdict
    few = imputation_check(two_orders(methods=("a", "random"))).iloc[0]
    assert np.isnan(few.spearman) and "too few methods" in few.verdict


def test_one_order_is_no_check():
    assert len(imputation_check(several(noise(3, 9)))) == 0
    both = several(noise(3, 9), order="morf") + several(noise(3, 8), order="lerf")
    assert len(imputation_check(both)) == 0  # other images


def test_images_where_random_is_unknown_are_left_out():
    curves = two_orders()
    values = curves[3].values.copy()
    values[0, :10] = NAN
    row = imputation_check([*curves[:3], replace(curves[3], values=values), *curves[4:]]).iloc[0]
    expected = (curves[7].areas - curves[3].areas)[0, 10:].mean()
    assert row.gain == pytest.approx(expected)


def test_fair_imputations_are_called_fair():
    "Maps that know nothing: 0 is outside in one of a hundred, whatever the imputation costs"
    rng = np.random.default_rng(0)
    hurt = rng.random((400, 1, 1))  # by imputation
    right = rng.random((400, 2, 200)) < hurt
    curves = [
        curve("random", right[i, j], order=o, imputation=f"i{i}")
        for i in range(400)
        for j, o in enumerate(("morf", "lerf"))
    ]
    assert imputation_check(curves).fair.mean() == pytest.approx(0.99, abs=0.012)


# ---- set-ups -----------------------------------------------------------------------------------


def test_mean_pairwise_spearman_is_pandas():
    table = pd.DataFrame(noise(7, 12)).round(1)
    found = table.corr("spearman").to_numpy()[np.triu_indices(12, 1)].mean()
    assert mean_pairwise_spearman(table) == pytest.approx(found)


def test_set_ups_that_tell_nothing_are_left_out():
    table = noise(7, 5)
    constant = np.column_stack([table, np.ones(7)])
    assert mean_pairwise_spearman(constant) == pytest.approx(mean_pairwise_spearman(table))
    assert np.isnan(mean_pairwise_spearman(np.ones((7, 3))))
    assert np.isnan(mean_pairwise_spearman(table[:, :1]))


def test_the_gain_ranks_alike_in_all_set_ups():
    "From the areas published with Blücher et al. (2024): 40 set-ups, 7 methods"
    path = DATA / "pixel_flipping_auc.csv"
    if not path.exists():
        pytest.skip(f"no {path.name} in {DATA.name}: published areas, not part of the project")
    areas = pd.read_csv(path).set_index(["method", "model", "imputer", "n_superpixel"])
    scores = dict(morf=-areas.auc_mif, lerf=areas.auc_lif, gain=areas.auc_lif - areas.auc_mif)
    tables = {k: v.unstack(["model", "imputer", "n_superpixel"]) for k, v in scores.items()}
    assert {t.shape for t in tables.values()} == {(7, 40)}
    found = {k: round(mean_pairwise_spearman(t), 3) for k, t in tables.items()}
    assert found == dict(morf=0.446, lerf=0.7, gain=0.959)
