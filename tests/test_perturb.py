"`roar-nb perturb`: from the store or on the way, once, resumed, and in the tables."

import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest

from test_cli import QUICK, ROOT, TINY, roar_nb

SECTION = (
    "pixel_perturbation_analysis={test_samples: 60, protocols: [lerf_morf, road, region_perturbation, insertion_deletion], "
    "percentiles: [10, 25], road: {percentiles: [25]}, region_perturbation: {region_size: 8, steps: 4, repetitions: 1}, insertion_deletion: {steps: 4}}"
)
SETS = [*QUICK, "--set", "precision=fp32", "--set", "retrain_cls=~", "--set", SECTION]
METRICS = {
    "deviation",
    "probability",
    "accuracy",
    "road",
    "road_probability",
    "aopc",
    "abpc",
    "deletion",
    "insertion",
    "deletion_auc",
    "insertion_auc",
    *(f"{m}_srg" for m in ("deviation", "probability", "accuracy", "road", "road_probability")),
}


def step(name, out, *more, expect=0):
    result = roar_nb(name, "--config", TINY, "--out", out, *SETS, *more)
    assert result.returncode == expect, result.stderr
    return result.stdout + result.stderr


def rows(out):
    table = pd.read_csv(out / "results.csv")
    return table.set_index(
        ["method", "metric", "order", "imputation", "percentile"]
    ).value.sort_index()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    out = tmp_path_factory.mktemp("trained")
    step("train", out)
    return out


@pytest.fixture(scope="module")
def perturbed(trained, tmp_path_factory):
    out = shutil.copytree(trained, tmp_path_factory.mktemp("perturbed") / "run")
    assert "roar-nb perturb" in step("report", out, expect=1)
    step("perturb", out)
    step("report", out)
    return out


def test_tables(perturbed):
    results, summary, pairs = (
        pd.read_csv(perturbed / f"{name}.csv") for name in ("results", "summary", "comparisons")
    )
    assert set(results.metric) == METRICS and set(results.method) == {"oracle", "smooth"}
    assert (results.n == 60).all() and results.value.notna().all()
    assert (
        (summary.low <= summary["mean"] + 1e-9) & (summary["mean"] <= summary.high + 1e-9)
    ).all()
    assert (
        set(pairs.metric) == METRICS
        and (pairs.wins.between(0, 1)).all()
        and (pairs.low <= pairs.high).all()
    )
    assert {p.stem for p in (perturbed / "figures").glob("*.png")} == METRICS


def test_maps_from_the_store_give_the_same(trained, perturbed, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    for name in ("attribute", "perturb", "report"):
        step(name, out)
    pd.testing.assert_series_equal(rows(out), rows(perturbed), atol=1e-5)
    names = lambda folder: sorted(p.name for p in (folder / "perturb").rglob("*.npz"))
    assert names(out) == names(perturbed)  # the same maps, the same files


def test_coarse_maps_made_afterwards_are_those_measured(trained, tmp_path):
    out, half = shutil.copytree(trained, tmp_path / "run"), ["--set", "extract_cams.dtype=float16"]
    for name in ("perturb", "report"):
        step(name, out, *half)
    before = rows(out)
    for name in ("attribute", "perturb", "report"):
        step(name, out, *half)
    pd.testing.assert_series_equal(rows(out), before)
    assert len(list((out / "perturb").rglob("*.npz"))) == 8  # two methods, four protocols


def test_failing_method_keeps_what_was_measured(trained, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "late_failure.py").write_text(
        "def f(model, images, labels, index): return images.sum(1)/(index < 150).view(-1, 1, 1)\n"
    )
    (tmp_path / "mine.yml").write_text(TINY.read_text())
    change = "pixel_perturbation_analysis.attribution_methods=[{name: late, method: late_failure.f, batched: true}]"
    result = roar_nb(
        "perturb",
        "--config",
        tmp_path / "mine.yml",
        "--out",
        out,
        *SETS,
        "--set",
        change,
        "--set",
        "pixel_perturbation_analysis.batch_size=10",
    )
    assert result.returncode == 1 and "holds NaN or infinite" in result.stderr
    kept = list((out / "perturb").rglob("late-*.npz"))
    assert len(kept) == 4 and all(0 < len(np.load(p)["index"]) < 60 for p in kept)


def test_nothing_is_made_twice(perturbed):
    files = lambda: {p: p.stat().st_mtime_ns for p in (perturbed / "perturb").rglob("*.npz")}
    before = files()
    step("perturb", perturbed)
    assert files() == before
    step(
        "perturb",
        perturbed,
        "--set",
        "pixel_perturbation_analysis.attribution_methods=[oracle, smooth, {name: random, method: random}]",
    )
    assert before.items() <= files().items() and len(files()) == len(before) + 4


def test_killed_and_continued(trained, perturbed, tmp_path):
    out = shutil.copytree(trained, tmp_path / "run")
    process = subprocess.Popen(
        [sys.executable, "-m", "roar_nb", "perturb", "--config", TINY, "--out", out, *SETS],
        cwd=ROOT,
    )
    until = time.time() + 120
    while (
        len(list((out / "perturb").rglob("oracle-*.npz"))) < 4
        and process.poll() is None
        and time.time() < until
    ):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    step("perturb", out)
    step("report", out)
    assert (out / "results.csv").read_bytes() == (perturbed / "results.csv").read_bytes()


@pytest.mark.parametrize(
    "change, told",
    [
        ("protocols=[raod]", "did you mean 'road'"),
        ("imputation=blurr", "did you mean 'blur'"),
        ("region_perturbation.imputation=nosuch.module.fn", "imputation of region_perturbation"),
        ("imputation=[zero, mask_only]", "'mask_only' is not an imputation but a control"),
    ],
)
def test_mistakes_are_told_before_the_work(trained, change, told):
    assert told in step(
        "perturb", trained, "--set", f"pixel_perturbation_analysis.{change}", expect=2
    )


def test_own_imputation(trained, tmp_path):
    code = "def swap(image, mask):\n    return 1 - image\n"
    (tmp_path / "mine.py").write_text(code)
    own = [
        "--set",
        "pixel_perturbation_analysis.imputation=mine.swap",
        "--set",
        "pixel_perturbation_analysis.protocols=[lerf_morf]",
    ]
    for source, files in (
        (code, 2),
        (code, 2),
        (code.replace("1 - image", "image.flip(-1)"), 4),
    ):  # an edited function is another imputation
        (tmp_path / "mine.py").write_text(source)
        result = roar_nb(
            "perturb", "--config", TINY, "--out", trained, *SETS, *own, PYTHONPATH=str(tmp_path)
        )
        assert result.returncode == 0, result.stderr
        assert len(list((trained / "perturb/lerf_morf").glob("*.npz"))) == files
