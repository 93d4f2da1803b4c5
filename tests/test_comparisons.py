"Paired comparisons against references, ranks that are possible, and false findings."

import numpy as np
import pytest
from scipy import stats

from roar_nb.comparisons import RIVALS, audit, compare, rank_ranges, rivals, tie_groups
from roar_nb.metrics import Curve
from roar_nb.statistics import mean_interval, paired_p


def curve(method, values, metric="road", order="morf", at=(0, 50), **facts):
    return Curve(method, metric, order, "zero", at, np.asarray(values, float), **facts)


def test_wins_follow_the_direction_of_the_metric():
    low, high = [[1, 0], [1, 0], [1, 1], [1, 1]], [[1, 1], [1, 1], [1, 1], [1, 0]]
    wins = {
        order: compare([curve("a", low, order=order), curve("b", high, order=order)]).wins[0]
        for order in ("morf", "lerf")
    }
    assert wins == {"morf": (1 + 1 + 0.5 + 0) / 4, "lerf": (0 + 0 + 0.5 + 1) / 4}


def test_a_metric_without_direction_is_not_compared():
    assert len(compare([curve("a", [[1, 0]] * 3, "own"), curve("b", [[1, 1]] * 3, "own")])) == 0


def test_only_what_is_alike_is_compared():
    a = curve("a", [[1, 0]] * 3)
    others = [
        curve("b", [[1, 0]] * 4),
        curve("c", [[1, 0]] * 3, at=(0, 30)),
        curve("d", [[1, 0]] * 3, order="lerf"),
        curve("a", [[1, 0]] * 3, "probability"),
        curve("e", [[1, 0]] * 3, protocol="other"),
        curve("f", [[1, 0]] * 3, filter="gaussian1"),
    ]
    assert len(compare([a, *others])) == 0 and len(rivals([a, *others])) == 4


def test_a_table_of_pairs_is_scikit_posthocs():
    posthocs = pytest.importorskip("scikit_posthocs")
    rng = np.random.default_rng(0)
    areas = {m: rng.normal(0.5 + 0.03 * i, 0.2, 60) for i, m in enumerate("abcd")}
    pairs = compare([curve(m, v[:, None], at=(50,)) for m, v in areas.items()])
    how = dict(p_adjust="holm", zero_method="pratt")
    expected = posthocs.posthoc_wilcoxon(np.stack(list(areas.values())), **how).to_numpy()
    found = [expected["abcd".index(p.method), "abcd".index(p.other)] for p in pairs.itertuples()]
    assert pairs.p_holm.tolist() == pytest.approx(found)


def test_differences_are_paired_by_seed_and_image():
    rng = np.random.default_rng(0)
    values = rng.random((2, 3, 40, 2))
    a, b = (curve(m, v, seeds=(0, 1, 2)) for m, v in zip("ab", values))
    (pair,) = compare([a, b]).itertuples()
    d = b.areas - a.areas  # lower is better
    assert (pair.difference, pair.low, pair.high) == pytest.approx(mean_interval(d))
    assert pair.p == pytest.approx(paired_p(d[..., None])[0]) and pair.test == "crossed"


def test_only_seeds_that_both_have_are_paired():
    rng = np.random.default_rng(0)
    a, b = rng.random((3, 40, 2)), rng.random((3, 40, 2))
    b[1, :, 1] = np.nan  # a cell is missing
    (pair,) = compare([curve("a", a, seeds=(0, 1, 2)), curve("b", b, seeds=(1, 2, 3))]).itertuples()
    assert pair.seeds == 1 and pair.test == "wilcoxon"
    assert pair.difference == pytest.approx(_one(a, b))


def _one(a, b):
    "Of seed 1, the only one that both have whole"
    return (b[0].mean(1) - a[1].mean(1)).mean()


def test_equals_are_kept_together():
    same = np.random.default_rng(0).random((30, 2))
    (pair,) = compare([curve("a", same), curve("b", same)]).itertuples()
    assert (pair.difference, pair.p, pair.apart, pair.wins) == (0, 1, False, 0.5)
    assert np.isinf(pair.images_needed)


def test_a_test_and_an_interval_that_disagree_claim_nothing():
    "Most images say one thing, a few say the opposite more loudly"
    d = np.r_[np.full(80, 0.05), np.full(20, -0.5)] + np.random.default_rng(0).normal(0, 1e-3, 100)
    base = np.full(100, 0.5)
    (pair,) = compare(
        [curve("a", np.c_[base - d], at=(50,)), curve("b", np.c_[base], at=(50,))]
    ).itertuples()
    assert pair.p < 0.05 and pair.difference < 0
    assert pair.apart == (pair.p_holm <= 0.05 and (pair.low > 0 or pair.high < 0))


def ladder(steps, n=200, noise=0.1):
    rng = np.random.default_rng(0)
    return [curve(m, 0.5 + h + rng.normal(0, noise, (n, 1)), at=(50,)) for m, h in steps.items()]


def test_ranks_that_are_possible():
    pairs = compare(ladder(dict(a=0.0, b=0.001, c=0.2, d=0.4)))
    ranges = rank_ranges(pairs, list("abcd"))
    assert ranges == dict(a=(1, 2), b=(1, 2), c=(3, 3), d=(4, 4))
    assert tie_groups(pairs, list("abcd")) == [["a", "b"]]


def test_tie_groups_are_longest_stretches():
    pairs = compare(ladder(dict(a=0.0, b=0.025, c=0.05, d=0.4), n=60))
    apart = {frozenset((p.method, p.other)) for p in pairs.itertuples() if p.apart}
    for group in tie_groups(pairs, list("abcd")):
        assert not any(frozenset((x, y)) in apart for x in group for y in group if x != y)
    assert tie_groups(pairs.assign(apart=False), list("abcd")) == [list("abcd")]
    assert tie_groups(pairs.assign(apart=True), list("abcd")) == []


def test_true_ranks_are_in_their_ranges():
    rng, truth, missed = np.random.default_rng(0), dict(zip("abcde", range(1, 6))), 0
    for _ in range(200):
        shared = rng.normal(0, 0.2, (50, 1))
        curves = [
            curve(m, shared + 0.03 * r + rng.normal(0, 0.1, (50, 1)), at=(50,))
            for m, r in truth.items()
        ]
        ranges = rank_ranges(compare(curves), list(truth))
        missed += any(not low <= truth[m] <= high for m, (low, high) in ranges.items())
    assert missed / 200 <= 0.08  # all five together, 5 % and two standard errors


def test_many_pairs_are_computed_in_parts():
    rng = np.random.default_rng(0)
    curves = [curve(f"m{i}", rng.random((20, 2))) for i in range(14)]
    pairs = compare(curves)
    assert len(pairs) == 91 and list(pairs.columns[:6]) == RIVALS
    p = stats.wilcoxon(np.round(curves[13].areas - curves[12].areas, 12)[0]).pvalue
    assert pairs.p.iloc[-1] == pytest.approx(p)


def test_filtered_copies_are_compared_with_the_plain_maps():
    rng = np.random.default_rng(0)
    plain = {m: rng.random((40, 2)) for m in ("a", "random")}
    curves = [curve(m, v) for m, v in plain.items()]
    shifts = {("a", "gaussian1"): 0.1, ("a", "maximum3"): 0.0, ("random", "gaussian1"): 0.08}
    curves += [curve(m, plain[m] - shift, filter=f) for (m, f), shift in shifts.items()]
    found = audit(curves).set_index(["method", "filter"])
    assert len(found) == 3
    for key, shift in shifts.items():
        assert found.gain[key] == pytest.approx(shift)  # lower is better
    assert found.random_gain["a", "gaussian1"] == pytest.approx(0.08)
    assert np.isnan(found.random_gain["a", "maximum3"])
    assert found.apart["a", "gaussian1"] and not found.apart["a", "maximum3"]
    assert found.area["a", "gaussian1"] == pytest.approx(plain["a"].mean())
    assert len(audit([c for c in curves if not c.filter])) == 0
