"What each number means: directions, areas, and metrics of one's own."

import numpy as np
import pytest

from roar_nb.core import DataError
from roar_nb.metrics import (
    METRICS,
    ORDER_LABELS,
    Curve,
    Metric,
    area,
    better,
    relevance_gain,
    with_gains,
)

MEASURED = {
    *("roar", "kar", "mask_only", "deviation", "probability", "accuracy", "road"),
    *("road_probability", "aopc", "abpc", "deletion", "insertion"),
    *("deletion_auc", "insertion_auc"),
}


def test_every_measured_name_has_its_facts():
    assert set(METRICS) >= MEASURED
    for name in MEASURED:
        m = METRICS[name]
        assert m.name == name and m.title and m.axis and m.unit in ("fraction", "per cent")
        assert set(m.better) <= set(ORDER_LABELS) and set(m.better.values()) <= {"high", "low"}
        assert m.bounds[0] < m.bounds[1] and m.area in ("trapezoid", "last", "value")
        assert m.number is None or METRICS[m.number].area == "value"


@pytest.mark.parametrize(
    "metric, order, expected",
    [
        ("roar", "morf", "low"),
        ("kar", "lerf", "high"),
        ("deviation", "morf", "high"),
        ("deviation", "lerf", "low"),
        ("probability", "morf", "low"),
        ("accuracy", "lerf", "high"),
        ("road", "morf", "low"),
        ("road_probability", "lerf", "high"),
        ("aopc", "morf", "high"),
        ("aopc", "lerf", "low"),
        ("abpc", "both", "high"),
        ("deletion_auc", "morf", "low"),
        ("insertion_auc", "lerf", "high"),
        ("mask_only", "morf", None),
        ("unheard_of", "morf", None),
    ],
)
def test_directions(metric, order, expected):
    assert better(metric, order) == better(METRICS[metric], order) == expected


def test_areas_follow_the_metric():
    at, values = (0, 10, 100), np.array([[1.0, 0.5, 0.5], [1.0, 1.0, 0.0]])
    expected = np.trapezoid(values, at, axis=1) / 100
    assert np.array_equal(area(at, values), expected)
    assert np.array_equal(Curve("m", "road", "morf", "blur", at, values).areas[0], expected)
    assert Curve("m", "aopc", "morf", "blur", at, values).areas.tolist() == [[0.5, 0.0]]
    assert Curve("m", "deletion_auc", "morf", "blur", (np.nan,), values[:, :1]).areas.tolist() == [
        [1, 1]
    ]
    assert area([25], [0.3]) == 0.3


def test_unit_of_a_curve():
    assert Curve("m", "deviation", "morf", "blur", (0,), np.zeros((1, 1))).unit == "per cent"


def test_a_metric_of_ones_own():
    assert METRICS["mine"].title == "mine" and "mine" not in METRICS
    METRICS.add(Metric("mine", "Mine", "what I measure", better={"morf": "high"}))
    assert better("mine", "morf") == "high"
    METRICS.pop("mine")


def test_curves_that_do_not_fit_are_refused():
    with pytest.raises(DataError, match="2 seeds and 3 percentiles, not shape"):
        Curve("m", "road", "morf", "blur", (0, 1, 2), np.zeros((4, 3)), seeds=(0, 1))


@pytest.mark.parametrize("metric, up", [("road", 1), ("deviation", -1), ("probability", 1)])
def test_gain_is_the_area_between_the_orders(metric, up):
    at, rng = (0, 30, 100), np.random.default_rng(0)
    morf, lerf = (Curve("m", metric, o, "blur", at, rng.random((5, 3))) for o in ("morf", "lerf"))
    gain = relevance_gain(morf, lerf)
    assert gain.metric == f"{metric}_srg" and gain.order == "both" and gain.unit == morf.unit
    assert gain.areas == pytest.approx(up * (lerf.areas - morf.areas))
    assert better(gain.metric, "both") == "high" and METRICS[gain.metric].gain is None
    assert [c.metric for c in with_gains([lerf, morf])] == [metric, metric, gain.metric]


def test_only_opposite_orders_have_a_gain():
    no = Metric("no", "No", "no", better={"morf": "low", "lerf": "low"})
    assert no.gain is None and METRICS["roar"].gain is None and METRICS["aopc"].gain is None
    curve = Curve("m", "roar", "morf", "blur", (0,), np.zeros((1, 1)))
    with pytest.raises(DataError, match="roar: a gain needs opposite directions"):
        relevance_gain(curve, curve)
    assert with_gains([curve]) == [curve]
