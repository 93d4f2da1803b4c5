"`retrain_cls.mask_only` from the command line: a control, with no clean beginning and no rank."

import pandas as pd
import pytest

from repo import ROOT
from test_cli import roar_nb

TINY = ROOT / "tests/tiny.yml"
METHODS = "[{name: oracle, method: oracle}, {name: random, method: random}]"
QUICK = [
    "data.n_train=200",
    "train_cls.nb_epochs=1",
    "retrain_cls.seeds=1",
    "retrain_cls.percentiles=[50]",
    "retrain_cls.metrics=[roar, kar]",
    "retrain_cls.imputation=[channel_mean, noisy_linear]",
    f"extract_cams.attribution_methods={METHODS}",
]


def go(out, mask_only):
    sets = [*QUICK, f"retrain_cls.mask_only={str(mask_only).lower()}"]
    changes = [arg for each in sets for arg in ("--set", each)]
    result = roar_nb("run", "--config", TINY, "--out", out, *changes)
    assert result.returncode == 0, result.stderr
    return result.stdout


def cells(out):
    "Times of the files of all cells"
    paths = [p for p in (out / "retrain").glob("*-s*-*.json")]
    return {p.name: p.stat().st_mtime_ns for p in paths}


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    "A run without the control, continued with it: its folder, what was there, what it printed"
    out = tmp_path_factory.mktemp("leakage")
    go(out, False)
    before = cells(out)
    return out, before, go(out, True)


def test_control_has_no_point_at_zero(controlled):
    results = pd.read_csv(controlled[0] / "results.csv")
    masks = results[results.metric == "mask_only"]
    assert set(masks.percentile) == {50} and set(masks.order) == {"morf", "lerf"}
    assert len(masks) == 2 * 2  # methods, orders
    others = results.drop(masks.index)
    assert set(others.percentile) == {0, 50} and set(others.metric) == {"roar", "kar"}
    assert set(others.imputation) == {"channel_mean", "noisy_linear"}


def test_control_is_added_to_a_finished_run(controlled):
    out, before, _ = controlled
    after = cells(out)
    added = [name.rpartition("-")[0] for name in sorted(after.keys() - before.keys())]
    assert before.items() <= after.items()
    assert added == [
        f"{method}-mask_only-{order}-p50-s0"
        for method in ("oracle", "random")
        for order in ("lerf", "morf")
    ]
    go(out, True)
    assert cells(out) == after


def test_control_is_not_ranked(controlled):
    out, _, said = controlled
    summary = pd.read_csv(out / "summary.csv")
    control = summary[summary.metric == "mask_only"]
    assert len(control) and control["rank"].isna().all()
    assert summary.drop(control.index)["rank"].notna().all()
    tables = [text for text in said.split("\n\n") if "Mask alone" in text]
    assert tables and all("rank" not in text and "better" not in text for text in tables)


def test_figures(controlled):
    figures = controlled[0] / "figures"
    names = {p.name for p in figures.iterdir() if p.stem in ("roar", "kar", "mask_only")}
    assert names == {"roar.png", "roar.svg", "kar.png", "kar.svg"}
    svg = (figures / "roar.svg").read_text()
    assert svg.count('id="axes_') == 2 and 'id="legend_1"' in svg  # two panels, one key


def test_it_is_no_imputation(tmp_path):
    result = roar_nb(
        "run", "--config", TINY, "--out", tmp_path, "--set", "retrain_cls.imputation=mask_only"
    )
    assert result.returncode == 2 and "retrain_cls.mask_only: true" in result.stderr
