"The imputation `mask_only` from the command line: a control, with no clean beginning and no rank."
import pandas as pd
import pytest

from repo import ROOT
from test_cli import roar_nb

TINY = ROOT / "tests/tiny.yml"
QUICK = ["data.n_train=200", "train_cls.nb_epochs=1", "retrain_cls.seeds=1", "retrain_cls.percentiles=[50]",
         "extract_cams.attribution_methods=[{name: oracle, method: oracle}, {name: random, method: random}]"]


def go(out, imputation):
    sets = [arg for s in (*QUICK, f"retrain_cls.imputation={imputation}") for arg in ("--set", s)]
    result = roar_nb("run", "--config", TINY, "--out", out, *sets)
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def controlled(tmp_path_factory):
    "A run without the control, continued with it: its folder, what was there before, what it printed"
    out = tmp_path_factory.mktemp("leakage")
    go(out, "[channel_mean, noisy_linear]")
    before = {p.name: p.stat().st_mtime_ns for p in (out / "retrain").iterdir()}
    return out, before, go(out, "[channel_mean, noisy_linear, mask_only]")


def test_control_has_no_point_at_zero(controlled):
    results = pd.read_csv(controlled[0] / "results.csv")
    percentiles = results.groupby("imputation").percentile.unique().map(sorted).to_dict()
    assert percentiles == {"channel_mean": [0, 50], "noisy_linear": [0, 50], "mask_only": [50]}
    assert len(results) == 2 * 2 * (2 + 2 + 1)  # methods, metrics, percentiles of the three imputations


def test_control_is_added_to_a_finished_run(controlled):
    out, before, _ = controlled
    after = {p.name: p.stat().st_mtime_ns for p in (out / "retrain").iterdir()}
    assert len(after) == len(before) + 2 * 2 and before.items() <= after.items()
    again = go(out, "[channel_mean, noisy_linear, mask_only]")
    assert {p.name: p.stat().st_mtime_ns for p in (out / "retrain").iterdir()} == after
    assert again.count("mask_only") == controlled[2].count("mask_only")


def test_control_is_not_ranked(controlled):
    out, _, said = controlled
    summary = pd.read_csv(out / "summary.csv")
    control = summary[summary.imputation == "mask_only"]
    assert control["rank"].isna().all() and summary.drop(control.index)["rank"].notna().all()
    tables = [t for t in said.split("\n\n") if "mask_only" in t]
    assert len(tables) == 2 and all("more leakage" in t and "rank" not in t and "better" not in t for t in tables)


def test_figures(controlled):
    figures = controlled[0] / "figures"
    assert {p.name for p in figures.iterdir()} == {"roar.png", "roar.svg", "kar.png", "kar.svg"}
    svg = (figures / "roar.svg").read_text()
    assert svg.count('id="axes_') == 2 and 'id="legend_1"' in svg  # two panels, one key


def test_masks_alone(tmp_path):
    go(tmp_path, "mask_only")
    assert set(pd.read_csv(tmp_path / "results.csv").percentile) == {50}
    svg = (tmp_path / "figures/roar.svg").read_text()
    assert svg.count('id="axes_') == 1 and 'id="legend_1"' not in svg
