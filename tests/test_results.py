"Tidy tables, summaries, ranks, and what is read of them."

import math

import numpy as np
import pandas as pd
import pytest

from roar_nb.core import ConfigError, DataError
from roar_nb.metrics import METRICS, Curve, Metric
from roar_nb.results import Scores, summarise, tidy
from roar_nb.statistics import t_interval
from roar_nb.tables import as_text, overview, percentile_headers, pivot

METHODS = ["a", "b", "c"]


def cell(method, percentile, seed, value, metric="roar", n=150, **more):
    order = {"roar": "morf", "kar": "lerf", "mask_only": "morf"}[metric]
    imputation = "none" if metric == "mask_only" else "channel_mean"
    facts = {"method": method, "metric": metric, "order": order, "imputation": imputation}
    return {**facts, "percentile": percentile, "seed": seed, "value": value, "n": n, **more}


def base(seed, value=0.9, **more):
    none = dict.fromkeys(("method", "metric", "order", "imputation"), "none")
    return {**none, "percentile": 0, "seed": seed, "value": value, "n": 150, **more}


def grid(methods=METHODS, percentiles=(30, 90), seeds=(0, 1, 2), metric="roar", without=()):
    cells = [base(s) for s in seeds]
    for i, m in enumerate(methods):
        points = [(p, s) for p in percentiles for s in seeds if (m, p, s) not in without]
        cells += [cell(m, p, s, 0.8 - 0.2 * i - p / 900 + s / 100, metric) for p, s in points]
    return cells


def scores(cells, **more):
    return Scores.from_cells(cells, "Shapes", "ResNet8", **more)


def ranks(summary):
    return summary.drop_duplicates("method").set_index("method")["rank"].fillna(0).to_dict()


def curve(method, values, metric="road", order="morf", at=(0, 50), imputation="zero"):
    return Curve(method, metric, order, imputation, at, np.asarray(values))


def over_images(curves, **more):
    return Scores.from_curves(curves, "Shapes", "ResNet8", **more)


def test_ranks_of_a_complete_set():
    assert ranks(scores(grid()).summary) == {"c": 1, "b": 2, "a": 3}
    assert ranks(scores(grid(metric="kar")).summary) == {"a": 1, "b": 2, "c": 3}
    assert scores(grid()).notes == []


@pytest.mark.parametrize(
    "without", [[("a", 90, 0)], [("a", 90, s) for s in range(3)], [("a", p, 2) for p in (30, 90)]]
)
def test_what_is_incomplete_is_not_ranked(without):
    found = scores(grid(without=without))
    assert ranks(found.summary) == {"c": 1, "b": 2, "a": 0}
    assert any("not ranked: a;" in note for note in found.notes)
    assert found.pivot("roar").index.get_level_values("rank").tolist() == ["1", "2", "–"]
    assert "nan" not in str(found) and "<NA>" not in str(found)
    assert found.overview().loc["roar", "a"].endswith("(–)")


def test_nothing_is_ranked_against_what_is_not_there():
    found = scores(grid(without=[(m, 90, 0) for m in "ab"]))
    assert set(ranks(found.summary).values()) == {0}


def test_a_shorter_curve_has_no_area():
    found = scores(grid(without=[("a", 90, s) for s in range(3)]))
    areas = found.summary.drop_duplicates("method").set_index("method").area
    assert math.isnan(areas["a"]) and areas[["b", "c"]].notna().all()
    assert found.pivot("roar").loc[("–", "a")].tolist()[-2:] == ["–", "–"]


def test_a_method_alone_is_ranked():
    assert ranks(scores(grid(["a"])).summary) == {"a": 1}


def test_curves_over_other_percentiles_are_not_ranked():
    both = [curve("a", [[1.0, 0.2]] * 9), curve("b", [[1.0, 0.4]] * 9, at=(0, 30))]
    assert set(ranks(over_images(both).summary).values()) == {0}


def test_ties_share_a_rank():
    same = [curve(m, [[1, v]] * 9) for m, v in (("a", 0.2), ("b", 0.2), ("c", 0.5))]
    assert ranks(over_images(same).summary) == {"a": 1, "b": 1, "c": 3}


def test_intervals_end_where_the_metric_does():
    cells = [base(s) for s in range(2)] + [cell("a", p, s, s) for p in (50, 90) for s in range(2)]
    summary = scores(cells).summary
    ends = summary[["low", "high", "area_low", "area_high"]]
    assert t_interval([0, 1])[1] < 0 and ends.min().min() == 0 and ends.max().max() == 1


def test_a_metric_of_ones_own_has_its_own_bounds():
    METRICS.add(Metric("margin", "Margin", "logit", better={"morf": "low"}, bounds=(-5, 5)))
    table = tidy([cell("a", p, s, 2.0 * s) for p in (50, 90) for s in range(3)], "d", "m")
    try:
        summary = summarise(table.assign(metric="margin"))
    finally:
        METRICS.pop("margin")
    assert summary.low.min() < 0 and summary.high.max() == 5 and summary["rank"].eq(1).all()


def test_an_unknown_metric_works_without_a_rank():
    found = over_images([curve(m, [[-3.0, 7.0]] * 9, "mine") for m in "ab"])
    assert found.summary["rank"].isna().all() and found.notes == []
    assert "rank" not in found.pivot("mine").index.names and "mine" in str(found)
    assert found.overview().loc["mine morf", "a"] == "2.000"


def test_masks_alone_have_no_beginning_and_no_rank():
    found = scores(grid() + grid(metric="mask_only")[3:])
    masks = found.summary.query("metric == 'mask_only'")
    assert set(masks.percentile) == {30, 90} and masks["rank"].isna().all() and found.notes == []
    text = [t for t in str(found).split("\n\n") if t.startswith("Mask alone")]
    assert len(text) == 1 and "tells more" in text[0]
    assert "better" not in text[0] and "rank" not in text[0]


def test_values_are_written_exactly(tmp_path):
    right = np.zeros((150, 2), np.float32)
    right[:30] = 1
    over_images([curve("a", right, "accuracy")]).to_csv(tmp_path)
    assert pd.read_csv(tmp_path / "results.csv", dtype=str).value.tolist() == ["0.2", "0.2"]
    summary = pd.read_csv(tmp_path / "summary.csv", dtype=str)
    assert summary["mean"].tolist() == ["0.2", "0.2"] and set(summary.area) == {"0.2"}


def test_counts_are_integers(tmp_path):
    joined = scores(grid()).join(over_images([curve(m, [[1.0, 0.5]] * 9) for m in "ab"]))
    files = {p.name: pd.read_csv(p, dtype=str) for p in joined.to_csv(tmp_path)}
    counts = dict(
        results=["seed", "n"], summary=["seeds", "images", "rank"], comparisons=["images"]
    )
    for name, columns in counts.items():
        for column in columns:
            assert files[f"{name}.csv"][column].dropna().str.fullmatch(r"\d+").all(), (name, column)
    assert set(files["summary.csv"].images.dropna()) == {"9"}


def test_headers_tell_percentiles_apart():
    assert percentile_headers([33.333, 33.3333]) == ["33.333 %", "33.3333 %"]
    assert percentile_headers([0, 12.5, 100 / 3]) == ["0 %", "12.5 %", "33.3 %"]
    found = scores(grid(percentiles=(33.333, 33.3333)))
    assert found.pivot("roar").columns.is_unique


def test_fine_tuned_networks_are_said_to_be():
    tuned = [{**c, "spec": {"pretrained": "fine-tuned from a.pth"}} for c in grid()]
    found = scores(tuned)
    assert set(found.table.model) == set(found.summary.model) == {"ResNet8 (fine-tuned)"}
    assert any("fine-tuned from a.pth" in note for note in found.notes)
    fresh = scores([{**c, "spec": {"pretrained": None}} for c in grid()])
    assert set(fresh.table.model) == {"ResNet8"} and fresh.notes == []


def test_what_was_left_out_is_said():
    found = scores(grid(), notes=["d.json: of another experiment"])
    assert "note: d.json: of another experiment" in str(found)
    assert "d.json" in found._repr_html_() and "1 notes" in repr(found)
    many = as_text(found.summary, [f"cell {i} is missing" for i in range(300)])
    assert many.count("note:") == 12 and "289 more" in many


def test_nothing_is_refused():
    with pytest.raises(DataError, match="no retrained network"):
        scores([base(0)])
    with pytest.raises(DataError, match="no curves"):
        over_images([])


def test_join_ranks_together():
    apart = [
        over_images([curve(m, [[1.0, v]] * 9)], notes=[m]) for m, v in (("a", 0.5), ("b", 0.2))
    ]
    assert [ranks(s.summary) for s in apart] == [{"a": 1}, {"b": 1}]
    joined = apart[0].join(apart[1], apart[0])
    assert ranks(joined.summary) == {"a": 2, "b": 1}
    assert len(joined.table) == 4 and joined.notes == ["a", "b"]


def test_pivot_refuses_what_is_not_one_table():
    found = over_images([curve("a", [[1.0, 0.5]] * 9, order=o) for o in ("morf", "lerf")])
    for wrong, told in [
        (("raod",), "did you mean 'road'"),
        (("road",), "choose one order of morf, lerf"),
        (("road", "zeros", "morf"), "did you mean 'zero'"),
        (("road", "zero", "mrf"), "did you mean 'morf'"),
    ]:
        with pytest.raises(ConfigError, match=told):
            found.pivot(*wrong)
    assert len(found.pivot("road", order="morf")) == 1


def test_overview_leaves_out_curves_whose_area_is_a_measure():
    curves = [curve(m, [[1.0, 0.5]] * 9, "deletion") for m in "ab"]
    assert overview(over_images(curves).summary).index.tolist() == ["deletion"]
    curves += [curve(m, [[0.7]] * 9, "deletion_auc", at=(math.nan,)) for m in "ab"]
    assert overview(over_images(curves).summary).index.tolist() == ["deletion_auc"]


def test_measures_are_told_apart_by_imputation_only_where_needed():
    curves = [curve("a", [[1.0, 0.5]] * 9, imputation=i) for i in ("zero", "blur")]
    curves += [curve("a", [[1.0, 0.5]] * 9, "probability")]
    names = over_images(curves).overview().index.tolist()
    assert sorted(names) == ["probability morf", "road morf blur", "road morf zero"]


def test_html_is_escaped_and_whole():
    html = scores(grid(["<script>", "b"]), notes=["a < b"])._repr_html_()
    assert "<script>" not in html and "a &lt; b" in html and html.count("<table") == 1


def test_a_summary_read_back_gives_the_same_table(tmp_path):
    found = scores(grid(without=[("a", 90, 0)]))
    found.to_csv(tmp_path)
    back = pd.read_csv(tmp_path / "summary.csv")
    assert as_text(back) == as_text(found.summary)
    pd.testing.assert_frame_equal(pivot(back, "roar"), found.pivot("roar"))


def test_summary_from_results_read_back(tmp_path):
    found = scores(grid())
    found.to_csv(tmp_path)
    again = summarise(pd.read_csv(tmp_path / "results.csv"))
    pd.testing.assert_frame_equal(again, found.summary)


def test_what_two_protocols_measure_alike_is_shown_once():
    curve = Curve("a", "road", "morf", "zero", (0, 50), np.array([[1.0, 0.5], [1.0, 0.0]]))
    other = Curve("a", "road", "morf", "zero", (0, 20), np.array([[1.0, 0.9], [1.0, 0.8]]))
    scores = Scores.from_curves([curve, other], "images", "net")
    assert list(scores.table.percentile) == [0, 50]
    assert any("measured by two protocols" in note for note in scores.notes)


def test_parts_of_one_curve_are_not_joined():
    one = Scores.from_cells(cells_of(0), "Shapes", "ResNet8")
    two = Scores.from_cells(cells_of(1), "Shapes", "ResNet8")
    assert len(one.join(one).table) == len(one.table)
    with pytest.raises(DataError, match="measured twice, with other seeds"):
        one.join(two)


def cells_of(seed):
    "A curve of one method and one seed"
    facts = dict(seed=seed, n=100, spec={})
    base = dict(method="none", metric="none", order="none", imputation="none", percentile=0)
    cell = dict(method="a", metric="roar", order="morf", imputation="zero", percentile=50)
    return [dict(**base, value=0.9, **facts), dict(**cell, value=0.5 + seed / 10, **facts)]
