"Processes on one folder share the work, none of it is done twice, and the dead are replaced."

import os
import random
import socket
import subprocess
import sys
import threading
import time

import pytest

from roar_nb import claims
from roar_nb.claims import claim_path, claimed, is_gone, owner_of, share, turn

from repo import ROOT
from test_cli import QUICK

TINY = ROOT / "tests/tiny.yml"
SETS = [*QUICK, "--set", "pixel_perturbation_analysis={test_samples: 20, protocols: [lerf_morf]}"]
TABLES = ("results.csv", "summary.csv", "comparisons.csv")


def left_by(path, process=None, host=None, age=0.0):
    "A claim that somebody left"
    text = f'{{"host": "{host or socket.gethostname()}", "process": {process or dead_process()}}}'
    claim_path(path).write_text(text)
    then = time.time() - age
    os.utime(claim_path(path), (then, then))


def dead_process():
    "The number of a process that has ended"
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


def test_a_claim_is_there_while_it_is_held(tmp_path):
    with claimed(tmp_path / "a/x.json") as mine:
        assert mine and owner_of(tmp_path / "a/x.json.claim")["process"] == os.getpid()
    assert list((tmp_path / "a").iterdir()) == []


def test_a_claim_goes_when_the_work_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), claimed(tmp_path / "x"):
        1 / 0
    assert list(tmp_path.iterdir()) == []


def test_a_thread_may_claim_again_what_it_holds_and_others_may_not(tmp_path):
    found = []

    def other():
        with claimed(tmp_path / "x") as mine:
            found.append(mine)

    with claimed(tmp_path / "x"):
        with claimed(tmp_path / "x") as again:
            assert again
        assert claim_path(tmp_path / "x").exists()  # the inner block did not give it back
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [False]


@pytest.mark.parametrize(
    "who, gone",
    [
        (dict(), True),  # its process has ended
        (dict(process=os.getpid()), False),
        (dict(process=os.getpid(), age=100), True),  # it lives, but works no more
        (dict(host="elsewhere"), False),  # whose processes cannot be seen
        (dict(host="elsewhere", age=100), True),
    ],
)
def test_whose_claim_is_taken_over(tmp_path, who, gone):
    left_by(tmp_path / "x", **who)
    assert is_gone(claim_path(tmp_path / "x")) is gone
    with claimed(tmp_path / "x") as mine:
        assert mine is gone
    assert claim_path(tmp_path / "x").exists() is not gone


@pytest.mark.parametrize("text", ["", "[]", "{", '{"process": "7"}', '{"process": -1}', "\0"])
def test_a_claim_that_says_nothing_counts_until_it_is_old(tmp_path, text):
    claim = claim_path(tmp_path / "x")
    claim.write_text(text)
    assert not is_gone(claim)
    os.utime(claim, (0, 0))
    assert is_gone(claim)


def test_what_was_taken_over_is_not_given_back(tmp_path):
    "A process that slept for long finds that its job is somebody else's"
    with claimed(tmp_path / "x"):
        left_by(tmp_path / "x", host="elsewhere")
    assert owner_of(claim_path(tmp_path / "x"))["host"] == "elsewhere"


def test_what_is_held_is_touched(tmp_path):
    code = f"""
import os, time
from roar_nb import claims
claims.BEAT = 0.1
with claims.claimed({str(tmp_path / "x")!r}):
    claim = claims.claim_path({str(tmp_path / "x")!r})
    os.utime(claim, (0, 0))
    time.sleep(3)
    print(time.time() - claim.stat().st_mtime < 2.5)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "True", done.stderr


def test_whoever_comes_second_waits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(claims, "POLL", 0.01)
    left_by(tmp_path / "x", process=os.getpid())
    threading.Timer(0.2, claim_path(tmp_path / "x").unlink).start()
    with turn(tmp_path / "x", "train"):
        pass
    assert f"train: waiting for process {os.getpid()} on {socket.gethostname()}" in (
        capsys.readouterr().out
    )


class Job:
    def __init__(self, path):
        self.path = path

    @property
    def done(self):
        return self.path.exists()


def test_jobs_of_others_are_waited_for_and_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "POLL", 0.01)
    jobs, did = [Job(tmp_path / f"{i}") for i in range(4)], []
    jobs[0].path.touch()
    left_by(jobs[1].path)  # by one who is gone
    left_by(jobs[2].path, process=os.getpid())  # by one who is at work, and finishes soon
    threading.Timer(0.2, jobs[2].path.touch).start()
    share(jobs, lambda job: did.append(job.path.name) or job.path.touch())
    assert did == ["1", "3"] and all(job.done for job in jobs)


def test_a_job_that_fails_is_tried_once_by_each(tmp_path):
    did = []
    share([Job(tmp_path / "x")], lambda job: did.append(job))
    assert len(did) == 1 and list(tmp_path.iterdir()) == []


# --- whole runs


def start(out):
    "A run in a process of its own"
    command = [sys.executable, "-m", "roar_nb", "run", "-v", "--config", TINY, "--out", out, *SETS]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ROAR_NB_PROGRESS": "0"}
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return subprocess.Popen(command, env=env, **pipes)


def tables(out):
    return {name: (out / name).read_bytes() for name in TABLES}


def left_behind(out):
    "Claims, and files that were not finished"
    return [p for p in out.rglob("*") if p.suffix == ".claim" or p.name.startswith(".")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    "The tables of a run that nothing disturbed"
    out = tmp_path_factory.mktemp("alone")
    said, _ = start(out).communicate()
    return tables(out), said.count("test accuracy") - 1


def test_two_on_one_fresh_folder(alone, tmp_path):
    processes = [start(tmp_path), start(tmp_path)]
    said = [p.communicate()[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], said
    assert tables(tmp_path) == alone[0] and left_behind(tmp_path) == []
    trained = [line.split()[1] for text in said for line in text.splitlines() if " s, " in line]
    assert len(trained) == len(set(trained)) == 18  # no cell twice
    written = [line for text in said for line in text.splitlines() if "maps written" in line]
    assert len(written) == 6  # two methods, three splits


@pytest.mark.parametrize(
    "kills", [4, pytest.param(200, marks=pytest.mark.slow)], ids=lambda n: f"{n} kills"
)
def test_two_at_once_killed_at_random_moments(alone, tmp_path, kills):
    rng, processes = random.Random(kills), [start(tmp_path), start(tmp_path)]
    for _ in range(kills):
        time.sleep(rng.uniform(4, 14))
        i = rng.randrange(2)
        processes[i].kill()
        processes[i].communicate()
        processes[i] = start(tmp_path)
    said = [p.communicate()[0] for p in processes]
    assert [p.returncode for p in processes] == [0, 0], said
    assert tables(tmp_path) == alone[0]
    assert [p for p in left_behind(tmp_path) if p.suffix == ".claim"] == []
