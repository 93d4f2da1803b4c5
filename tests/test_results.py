"Tidy tables, summaries, ranks, and what is read of them."

import math

import numpy as np
import pandas as pd
import pytest

import roar_nb.report  # noqa: F401, Scores show themselves in notebooks
from roar_nb.core import ConfigError, DataError
from roar_nb.metrics import METRICS, Curve, Metric
from roar_nb.results import Scores, tidy
from roar_nb.statistics import mean_interval, t_interval
from roar_nb.tables import as_text, overview, percentile_headers, pivot

METHODS = ["a", "b", "c"]


def right(value, seed, n):
    "Which of n test images a network of this accuracy gets right: the easy ones, about"
    hardness = np.arange(n) + np.random.default_rng(seed).normal(0, 3, n)
    correct = np.zeros(n, bool)
    correct[np.argsort(hardness)[: round(value * n)]] = True
    packed = np.packbits(correct).tobytes().hex()
    return dict(seed=seed, value=correct.mean(), n=n, correct=packed)


def cell(method, percentile, seed, value, metric="roar", n=150, **more):
    order = {"roar": "morf", "kar": "lerf", "mask_only": "morf"}[metric]
    imputation = "none" if metric == "mask_only" else "channel_mean"
    facts = {"method": method, "metric": metric, "order": order, "imputation": imputation}
    return {**facts, "percentile": percentile, **right(value, seed, n), **more}


def base(seed, value=0.9, **more):
    none = dict.fromkeys(("method", "metric", "order", "imputation"), "none")
    return {**none, "percentile": 0, **right(value, seed, 150), **more}


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
    assert found.pivot("roar").index.get_level_values("rank").tolist()[-1] == "–"
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
    values = np.random.default_rng(0).random((40, 2))
    same = [curve(m, values + v) for m, v in (("a", 0), ("b", 0), ("c", 0.3))]
    summary = over_images(same).summary.drop_duplicates("method").set_index("method")
    assert summary["rank"].to_dict() == {"a": 1, "b": 1, "c": 3}
    assert summary["rank_low"].to_dict() == {"a": 1, "b": 1, "c": 3}
    assert summary["rank_high"].to_dict() == {"a": 2, "b": 2, "c": 3}


def test_ranks_that_chance_made_are_open():
    rng = np.random.default_rng(0)
    shared = rng.random((60, 1))
    found = over_images([curve(m, np.hstack([shared, rng.random((60, 1))])) for m in "abcd"])
    summary = found.summary.drop_duplicates("method")
    assert set(summary["rank"]) == {1, 2, 3, 4}
    assert set(summary.rank_low) == {1} and set(summary.rank_high) == {4}
    assert found.pivot("road").index.get_level_values("rank").tolist() == ["1–4"] * 4


def test_what_is_not_told_from_random_is_marked():
    rng = np.random.default_rng(0)
    columns = {m: np.hstack([np.ones((60, 1)), rng.random((60, 1))]) for m in ("a", "random")}
    columns["good"] = columns["a"] * [1, 0.1]
    found = over_images([curve(m, v) for m, v in columns.items()])
    apart = found.summary.drop_duplicates("method").set_index("method")["apart"]
    assert apart["good"] and not apart["a"] and pd.isna(apart["random"])
    assert found.overview().loc["road morf", "a"].endswith("°)")
    assert "° not told apart from random" in str(found)


def test_intervals_end_where_the_metric_does():
    cells = [base(s) for s in range(2)] + [cell("a", p, s, s) for p in (50, 90) for s in range(2)]
    summary = scores(cells).summary
    ends = summary[["low", "high", "seeds_low", "seeds_high", "area_low", "area_high"]]
    assert t_interval([0, 1])[1] < 0 and ends.min().min() == 0 and ends.max().max() == 1


def test_intervals_are_over_seeds_and_images():
    found = scores(grid())
    row = found.summary.query("method == 'a' and percentile == 30").iloc[0]
    (a,) = [c for c in found.curves if c.method == "a"]
    by_hand = mean_interval(a.values[:, :, 1], (0, 1))
    assert row[["mean", "low", "high"]].tolist() == pytest.approx(by_hand)
    over_seeds = t_interval(a.values[:, :, 1].mean(1))
    assert row[["mean", "seeds_low", "seeds_high"]].tolist() == pytest.approx(over_seeds)
    assert (row.seeds, row.images) == (3, 150)


def test_retrained_methods_are_compared_in_pairs():
    pairs = scores(grid()).comparisons
    assert len(pairs) == 3 and set(pairs.test) == {"crossed"} and set(pairs.images) == {150}
    first = pairs.query("method == 'a' and other == 'c'").iloc[0]
    assert first.difference < 0 and first.apart and first.p < 0.001  # lower is better
    assert first.low < first.difference < first.high < 0
    kept = scores(grid(metric="kar")).comparisons.query("method == 'a' and other == 'c'").iloc[0]
    assert kept.difference == pytest.approx(-first.difference)


def test_few_seeds_and_images_are_told():
    few = scores(grid(seeds=(0, 1)))
    assert any("few seeds: roar was retrained with 2 seeds" in note for note in few.notes)
    small = over_images([curve("a", [[1.0, 0.5]] * 9)])
    assert any("few images: road was measured on 9 images" in note for note in small.notes)
    assert "few images" in str(small) and "Few seeds" in few._repr_html_()


def test_a_metric_of_ones_own_has_its_own_bounds():
    METRICS.add(Metric("margin", "Margin", "logit", better={"morf": "low"}, bounds=(-5, 5)))
    values = np.random.default_rng(0).normal(4.5, 1, (30, 2)).clip(-5, 5)
    try:
        summary = over_images([curve("a", values, "margin")]).summary
    finally:
        METRICS.pop("margin")
    assert summary.high.max() <= 5 and summary["rank"].eq(1).all()


def test_an_unknown_metric_works_without_a_rank():
    found = over_images([curve(m, [[-3.0, 7.0]] * 9, "mine") for m in "ab"])
    assert found.summary["rank"].isna().all() and len(found.comparisons) == 0
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
    joined = scores(grid()).join(over_images([curve(m, [[1.0, 0.5]] * 25) for m in "ab"]))
    files = {p.name: pd.read_csv(p, dtype=str) for p in joined.to_csv(tmp_path)}
    counts = dict(
        results=["seed", "n"], summary=["seeds", "images", "rank"], comparisons=["seeds", "images"]
    )
    for name, columns in counts.items():
        for column in columns:
            assert files[f"{name}.csv"][column].dropna().str.fullmatch(r"\d+").all(), (name, column)
    assert set(files["summary.csv"].images) == {"25", "150"}


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
    found = scores(grid(), notes=["left out: d.json: of another experiment"])
    assert "note: left out: d.json: of another experiment" in str(found)
    assert "d.json" in found._repr_html_() and "1 note" in repr(found)
    many = as_text(found.summary, [f"cell {i} is missing" for i in range(300)])
    assert many.count("note:") == 12 and "289 more" in many


def test_nothing_is_refused():
    with pytest.raises(DataError, match="no retrained network"):
        scores([base(0)])
    with pytest.raises(DataError, match="no curves"):
        over_images([])


def test_join_ranks_together():
    apart = [
        over_images([curve(m, [[1.0, v]] * 20)], notes=[m]) for m, v in (("a", 0.5), ("b", 0.2))
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


def test_two_protocols_that_measure_alike_stand_apart():
    at = dict(coarse=(0, 50), fine=(0, 20))
    curves = [
        Curve(m, "road", "morf", "zero", p, np.random.default_rng(i).random((30, 2)), name)
        for name, p in at.items()
        for i, m in enumerate("ab")
    ]
    found = over_images(curves)
    assert set(found.overview().index) == {"road morf coarse", "road morf fine"}
    assert found.summary["rank"].notna().all() and len(found.comparisons) == 2
    with pytest.raises(ConfigError, match="choose one protocol of coarse, fine"):
        found.pivot("road")
    assert len(found.pivot("road", protocol="fine")) == 2


def test_parts_of_one_curve_are_not_joined():
    one = Scores.from_cells(cells_of(0), "Shapes", "ResNet8")
    two = Scores.from_cells(cells_of(1), "Shapes", "ResNet8")
    assert len(one.join(one).table) == len(one.table)
    with pytest.raises(DataError, match="measured twice, with other images, seeds"):
        one.join(two)


def cells_of(seed):
    "A curve of one method and one seed"
    return [base(seed), cell("a", 50, seed, 0.5 + seed / 10)]


def test_gains_are_there_and_rank():
    rng = np.random.default_rng(0)
    curves = [
        curve(m, np.hstack([np.ones((40, 1)), v + rng.normal(0, 0.02, (40, 1))]), order=o)
        for o, heights in dict(morf=(0.2, 0.6), lerf=(0.9, 0.6)).items()
        for m, v in zip(("good", "random"), heights)
    ]
    found = over_images(curves)
    gains = found.summary.query("metric == 'road_srg'").set_index("method")
    areas = found.summary.drop_duplicates(["order", "method"]).set_index(["order", "method"]).area
    for m in ("good", "random"):
        assert gains.area[m] == pytest.approx(areas["lerf", m] - areas["morf", m])
    assert gains["rank"].to_dict() == {"good": 1, "random": 2}
    assert len(found.join(found).curves) == len(found.curves) == 6
    assert "road_srg" in str(found) and "road morf" not in str(found)


@pytest.mark.parametrize("labels", [None, {"a": "A & B_c", "b": "<b>|"}])
def test_tables_for_a_paper(labels):
    found = scores(grid())
    latex, markdown = found.to_latex(labels=labels), found.to_markdown(labels=labels)
    assert latex.count(r"\textbf") == 1 and markdown.count("**") == 2
    assert latex.splitlines()[0].startswith("% 95 % intervals over 3 seeds and 150 images")
    assert r"\toprule" in latex and r"\bottomrule" in latex
    if labels:
        assert r"A \& B\_c" in latex and r"<b>\|" in markdown
    assert {line.count(" & ") for line in latex.splitlines() if " & " in line} == {1}


def test_the_closing_table_fits_a_terminal():
    many = [*(f"a_method_with_a_name_{i}" for i in range(17)), "random"]
    found = scores(grid(many, percentiles=(10, 30, 50, 70, 90)))
    rng = np.random.default_rng(0)
    found = found.join(
        over_images(
            [
                curve(m, rng.random((30, 2)), metric, order, imputation=i)
                for m in many
                for metric in ("road", "deviation", "accuracy")
                for order in ("morf", "lerf")
                for i in ("zero", "noisy_linear")
            ]
        )
    )
    assert max(map(len, str(found).splitlines())) <= 100
