"A run that is killed, at several points, ends with the results of a run that was left alone."

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from repo import ROOT, run

TINY = ROOT / "tests/tiny.yml"
ARGS = ["--config", str(TINY), "--set", "extract_cams.batch_size=32"]
DEADLINE = 120  # seconds to wait for the moment to kill


def command(step, out):
    return [sys.executable, "-m", "roar_nb", step, "--out", str(out), *ARGS]


def maps_done(out, method, split):
    "How many maps of a split are on disk"
    path = out / f"attributions/{method}/{split}.zarr/progress.json"
    return json.loads(path.read_text())["done"] if path.exists() else 0


def kill_when(step, out, reached, delay=0.0):
    "Start a step and kill -9 it a moment after `reached()`; it must not have ended by itself"
    env = {**os.environ, "ROAR_NB_PROGRESS": "0"}
    process = subprocess.Popen(
        command(step, out), env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    end = time.monotonic() + DEADLINE
    while not reached() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.005)
    time.sleep(delay)
    process.send_signal(signal.SIGKILL)
    _, err = process.communicate()
    assert process.returncode == -signal.SIGKILL, err.decode()


def cell_files(out):
    "Of the cells that are there, without the index"
    return sorted((out / "retrain").glob("[!.]*-s*-*.json"))


def finish(out):
    result = run(*command("run", out), ROAR_NB_PROGRESS="0")
    assert result.returncode == 0, result.stderr
    cells = [json.loads(p.read_text()) for p in cell_files(out)]
    return (out / "results.csv").read_bytes(), {c["id"]: (c["value"], c["correct"]) for c in cells}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return finish(tmp_path_factory.mktemp("undisturbed"))


def test_killed_while_attributing(undisturbed, tmp_path):
    assert run(*command("train", tmp_path), ROAR_NB_PROGRESS="0").returncode == 0
    kill_when("attribute", tmp_path, lambda: (tmp_path / "attributions/smooth/train.zarr").exists())
    kill_when("attribute", tmp_path, lambda: maps_done(tmp_path, "smooth", "train") >= 256)
    done = maps_done(tmp_path, "smooth", "train")
    assert 256 <= done < 1000
    kill_when(
        "attribute", tmp_path, lambda: maps_done(tmp_path, "smooth", "train") > done, delay=0.05
    )
    assert finish(tmp_path) == undisturbed


def test_killed_while_retraining(undisturbed, tmp_path):
    for step in ("train", "attribute"):
        assert run(*command(step, tmp_path), ROAR_NB_PROGRESS="0").returncode == 0
    cells = lambda: len(cell_files(tmp_path))
    for n, delay in ((1, 0.1), (4, 0.3), (9, 0.0)):
        kill_when("retrain", tmp_path, lambda: cells() >= n, delay)
    assert 9 <= cells() < 18
    assert finish(tmp_path) == undisturbed
