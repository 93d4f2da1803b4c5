"A folder knows its configuration, keeps what it has, and is all that a report needs."

import json
import shutil

import pandas as pd
import pytest

from roar_nb.run import open_run

from repo import ROOT
from test_cli import GRID, QUICK, roar_nb

TINY = ROOT / "tests/tiny.yml"
SETS = [*QUICK, *GRID]
WATCH = "pixel_perturbation_analysis={test_samples: 60, percentiles: [10, 25]}"


def succeed(*args, **kwargs):
    result = roar_nb(*args, **kwargs)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def refuse(*args, **kwargs):
    result = roar_nb(*args, **kwargs)
    assert result.returncode in (1, 2), result.stdout
    assert "Traceback" not in result.stderr
    return result.stderr


def state(folder):
    "Content and time of everything in a folder"
    files = [p for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".lock"]
    return {p.relative_to(folder).as_posix(): (p.read_bytes(), p.stat().st_mtime_ns) for p in files}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "run"
    said = succeed("run", "--config", TINY, "--out", out, *SETS, "--set", WATCH)
    return out, said


@pytest.fixture
def copy(whole, tmp_path):
    return shutil.copytree(whole[0], tmp_path / "copy")


def test_a_folder_needs_no_configuration(copy):
    before = (copy / "results.csv").read_bytes()
    cells = {p.name for p in (copy / "retrain").iterdir()}
    for step in ("report", "run", "retrain", "perturb", "attribute", "train"):
        succeed(step, "--out", copy)
    assert (copy / "results.csv").read_bytes() == before
    assert {p.name for p in (copy / "retrain").iterdir()} == cells


def test_a_report_needs_nothing_but_the_folder(copy):
    before = {name: (copy / name).read_bytes() for name in ("results.csv", "summary.csv")}
    for name in ("attributions", "train", "labels"):
        shutil.rmtree(copy / name)
    for name in before:
        (copy / name).unlink()
    said = succeed("report", "--out", copy)
    assert {name: (copy / name).read_bytes() for name in before} == before
    assert "ROAR" in said


def test_another_precision_finds_the_same_results(copy):
    "The precision is that of the folder, whatever the machine would choose"
    before = (copy / "results.csv").read_bytes()
    config = (copy / "config.yaml").read_text()
    other = {"fp32": "bf16", "bf16": "fp32"}
    held = next(p for p in other if f"\nprecision: {p}\n" in config)
    succeed("run", "--config", TINY, "--out", copy, *SETS, "--set", WATCH)
    assert f"\nprecision: {held}\n" in (copy / "config.yaml").read_text()
    assert (copy / "results.csv").read_bytes() == before
    said = refuse("retrain", "--out", copy, "--set", f"precision={other[held]}")
    assert f"precision: {held} → {other[held]}" in said


@pytest.mark.parametrize(
    "change, told",
    [
        ("train_cls.nb_epochs=2", "train_cls.nb_epochs: 1 → 2"),
        ("seed=3", "seed: 0 → 3"),
        ("data.n_test=100", "data.n_test: 200 → 100"),
        (
            "extract_cams.attribution_methods.1.kwargs.n_samples=3",
            "methods.smooth.kwargs.n_samples",
        ),
        ("retrain_cls.nb_epochs=9", "retrain_cls.nb_epochs: 1 → 9"),
    ],
)
def test_a_contradiction_is_refused_and_changes_nothing(copy, change, told):
    before = state(copy)
    said = refuse("retrain", "--out", copy, "--set", change)
    assert told in said and "--overwrite" in said
    assert state(copy) == before


def test_another_configuration_by_accident_changes_nothing(copy):
    before = state(copy)
    assert "holds results of other settings" in refuse(
        "retrain", "--config", "shapes_demo", "--out", copy
    )
    assert state(copy) == before


def test_a_failed_step_changes_no_record(copy):
    bad = "extract_cams.attribution_methods+={name: bad, method: roar_nb.core.duration}"
    before = {k: v for k, v in state(copy).items() if k in ("config.yaml", "manifest.json")}
    assert "bad" in refuse("attribute", "--out", copy, "--set", bad)
    assert {k: v for k, v in state(copy).items() if k in before} == before


def test_a_finished_step_keeps_its_time(copy):
    times = lambda: {k: v["finished"] for k, v in steps().items()}
    steps = lambda: json.loads((copy / "manifest.json").read_text())["steps"]
    before = {k: v for k, v in times().items() if k != "report"}
    succeed("run", "--out", copy)
    assert {k: v for k, v in times().items() if k != "report"} == before


def test_a_narrower_configuration_loses_no_rows(copy):
    before = pd.read_csv(copy / "results.csv")
    succeed("retrain", "--out", copy, "--set", "retrain_cls.attribution_methods=[oracle]")
    succeed(
        "perturb",
        "--out",
        copy,
        "--set",
        "pixel_perturbation_analysis.attribution_methods=[oracle]",
    )
    succeed("report", "--out", copy)
    pd.testing.assert_frame_equal(pd.read_csv(copy / "results.csv"), before)


def test_one_more_percentile_and_method_without_retyping_the_lists(copy):
    succeed(
        "run",
        "--out",
        copy,
        "--set",
        "retrain_cls.percentiles+=80",
        "--set",
        "extract_cams.attribution_methods+=gradient",
    )
    roar = pd.read_csv(copy / "results.csv").query("metric == 'roar'")
    assert set(roar.percentile) == {0, 50, 80}
    assert set(roar.method) == {"oracle", "smooth", "gradient"}


def test_the_same_command_goes_on_after_it_appended(copy):
    more = [
        "retrain_cls.percentiles+=50",
        "extract_cams.attribution_methods+=gradient",
        "pixel_perturbation_analysis.protocols+=road",
    ]
    changes = [o for each in more for o in ("--set", each)]
    for _ in range(2):
        succeed("attribute", "--out", copy, *changes)
    listed = (copy / "config.yaml").read_text()
    assert listed.count("name: gradient") == 1 and listed.count("name: road") == 1
    twice = "extract_cams.attribution_methods+={name: gradient, method: sobel}"
    assert "'gradient' is listed twice" in refuse("attribute", "--out", copy, "--set", twice)


def test_a_section_left_out_stays_in_the_folder(copy):
    before = (copy / "results.csv").read_bytes()
    succeed("retrain", "--config", TINY, "--out", copy, *SETS)
    succeed("report", "--out", copy)
    assert (copy / "results.csv").read_bytes() == before


def test_a_report_needs_no_device(copy):
    config = copy / "config.yaml"
    config.write_text(config.read_text().replace("\ndevice: auto\n", "\ndevice: cuda:99\n"))
    succeed("report", "--config", config, "--out", copy)
    assert "cuda:99" in refuse("retrain", "--out", copy)
    succeed("retrain", "--out", copy, "--device", "cpu")


def test_the_folder_knows_where_the_modules_of_its_configuration_are(tmp_path):
    succeed("template", "--out", tmp_path / "mine", cwd=tmp_path)
    small = ["--set", "data.n_train=40", "--set", "data.n_test=20", *QUICK]
    config = tmp_path / "mine" / "own_method.yml"
    succeed("train", "--config", config, "--out", tmp_path / "run", *small, cwd=tmp_path)
    for config in ([], ["--config", tmp_path / "run" / "config.yaml"]):
        succeed("attribute", *config, "--out", tmp_path / "run", cwd=tmp_path)


def test_results_of_other_settings_are_left_out_and_said(copy):
    said = succeed("retrain", "--out", copy, "--set", "retrain_cls.nb_epochs=2", "--overwrite")
    said = succeed("report", "--out", copy)
    assert "left out" in said and "recipe.nb_epochs: 1 → 2" in said


def test_a_damaged_cell_is_named_and_the_rest_is_reported(copy):
    cell = next((copy / "retrain").glob("oracle-*.json"))
    cell.write_text(cell.read_text()[:100])
    said = succeed("report", "--out", copy)
    assert cell.name in said
    assert "smooth" in set(pd.read_csv(copy / "results.csv").method)


def test_figures_of_an_earlier_configuration_go(copy):
    (copy / "figures" / "mine.png").write_bytes(b"mine")
    shutil.rmtree(copy / "perturb")
    succeed("report", "--out", copy)
    left = {p.name for p in (copy / "figures").iterdir()} - {"index.json"}
    assert left == {"roar.png", "roar.svg", "mine.png"}
    assert set(pd.read_csv(copy / "comparisons.csv").metric) == {"roar"}


def test_the_explained_network_is_measured_first(whole, tmp_path):
    assert "test images correctly" in whole[1]
    untrained = "extract_cams={model: {arch: roar_nb.models.ResNet8, constructor_args: {width: 4}}, attribution_methods: [gradient]}"
    sets = [
        "--set",
        "train_cls=~",
        "--set",
        "retrain_cls=~",
        "--set",
        untrained,
        "--set",
        "data.n_train=20",
    ]
    said = succeed("attribute", "--config", TINY, "--out", tmp_path, *sets)
    assert "warning: that is what guessing gives" in said


def test_fine_tuning_is_said_recorded_and_shown(copy):
    tuned = "retrain_cls.model.pretrained_weights=trained"
    said = succeed("retrain", "--out", copy, "--set", tuned, "--overwrite")
    assert "fine-tuning, not retraining from scratch" in said
    cells = [json.loads(p.read_text()) for p in (copy / "retrain").glob("*-s0-*.json")]
    assert {c["spec"]["pretrained"] for c in cells} == {None, "trained"}
    succeed("report", "--out", copy)
    table = pd.read_csv(copy / "results.csv").query("metric == 'roar'")
    assert table.model.str.contains("fine-tuned").all()


def test_base_is_not_the_explained_model(whole):
    out = whole[0]
    explained = json.loads((out / "train/result.json").read_text())
    base = json.loads(next((out / "retrain").glob("base-s0-*.json")).read_text())
    assert base["test_loss"] != explained["loss"]


def test_an_audit_adds_filtered_copies_and_says_how_many(copy):
    before = state(copy)
    said = succeed("attribute", "--out", copy)
    facts = pd.read_csv(copy / "maps.csv", keep_default_na=False)
    assert set(facts.method) == {"oracle", "smooth"} and set(facts["filter"]) == {""}
    assert set(facts.percentile) == {50} and set(facts.images) == {200}
    assert state(copy)["maps.csv"] == before["maps.csv"] and "audit:" not in said
    audit = ["--set", "pixel_perturbation_analysis.audit=true", "--set", "retrain_cls.audit=true"]
    audit += ["--set", "retrain_cls.attribution_methods=[smooth]"]
    said = succeed("retrain", "--out", copy, *audit)
    assert "audit: 4 filters × 1 method: 4 further cells" in said
    said = succeed("perturb", "--out", copy)
    assert "audit: 4 filters × 2 methods: 1,920 further forward passes" in said
    names = {p.name.rpartition("-")[0] for p in (copy / "retrain").glob("smooth+*.json")}
    filters = {"block4", "gaussian1", "gaussian2", "maximum3"}
    assert names == {f"smooth+{f}-roar-channel_mean-p50-s0" for f in filters}
    assert len(list(copy.glob("perturb/lerf_morf/*+*.npz"))) == 8
    facts = pd.read_csv(copy / "maps.csv", keep_default_na=False)
    assert set(facts["filter"]) == {"", *filters} and len(facts) == 2 * 5 * 2
    kept = {k: v for k, v in before.items() if k.endswith((".npz", ".json")) and "-" in k}
    assert kept.items() <= state(copy).items()  # what was there is still what it was
    assert "audit:" not in succeed("retrain", "--out", copy) + succeed("perturb", "--out", copy)


def test_maps_that_are_not_stored_are_looked_at_on_the_way(copy):
    shutil.rmtree(copy / "attributions")
    shutil.rmtree(copy / "perturb")
    (copy / "maps.csv").unlink()
    succeed("perturb", "--out", copy)
    facts = pd.read_csv(copy / "maps.csv", keep_default_na=False)
    assert set(facts.method) == {"oracle", "smooth"} and set(facts.images) == {60}


def test_a_folder_may_be_given_as_a_path(tmp_path):
    run = open_run("shapes_demo", outdir=tmp_path / "run")
    assert run.cfg.outdir == str(tmp_path / "run")
