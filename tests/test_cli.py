"Whole commands: what they leave, what they say about bad input, and how they exit."

import importlib
import json
import linecache
import re
import shutil
import sys
from importlib import metadata

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from repo import ROOT, run, settings
from roar_nb import load
from roar_nb.attribution import METHODS, attribute
from roar_nb.cli import KINDS, docs_url, main, parser
from roar_nb.core import VOICE, Lines, RoarError
from roar_nb.listing import LISTS
from roar_nb.models import build_model
from roar_nb.plan import opening
from roar_nb.retraining import misfits
from roar_nb.run import open_run
from roar_nb.shapes import shapes
from roar_nb.store import open_maps
from roar_nb.training import Recipe, fit

TINY = ROOT / "tests/tiny.yml"
STEPS = ("train", "attribute", "retrain", "report")
QUICK = ["--set", "data.n_train=200", "--set", "train_cls.nb_epochs=1"]
GRID = [
    "--set",
    "retrain_cls.percentiles=[50]",
    "--set",
    "retrain_cls.seeds=1",
    "--set",
    "retrain_cls.metrics=roar",
]


def roar_nb(*args, **kwargs):
    "The command in a process of its own"
    return run(sys.executable, "-m", "roar_nb", *args, **{"ROAR_NB_PROGRESS": "0", **kwargs})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run in one command: its folder and what it printed"
    out = tmp_path_factory.mktemp("whole")
    result = roar_nb("run", "--config", TINY, "--out", out, *QUICK)
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_run_leaves_tables_and_figures(whole):
    out, said = whole
    results = pd.read_csv(out / "results.csv")
    columns = "dataset model protocol method metric order imputation percentile seed value n unit"
    assert list(results) == columns.split()
    assert len(results) == 2 * 2 * 3 * 2  # methods, metrics, percentiles with 0, seeds
    assert results.value.between(0, 1).all() and (results.n == 200).all()
    assert dict(zip(results.metric, results.order)) == {"roar": "morf", "kar": "lerf"}
    figures = ["kar.png", "kar.svg", "roar.png", "roar.svg"]
    assert sorted(p.name for p in (out / "figures").iterdir()) == ["index.json", *figures]
    first = said.splitlines()
    assert first[:2] == [
        "images: Shapes: 200 training, 100 validation, 200 test; 32×32 pixels",
        "methods: oracle, smooth",
    ]
    assert first[2] == "to do: train 1 network, compute 1,000 maps, retrain 18 networks"
    assert "retrain: 18 cells are in" in said
    assert "ROAR: most relevant pixels removed" in said


def test_show_prints_the_tables_again_and_writes_nothing(whole):
    out, said = whole
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    result = roar_nb("show", "--out", out)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip().splitlines()[-1] == f"report: {out / 'report.html'}"
    tables = result.stdout[: result.stdout.index("report:")].strip()
    assert tables in said and "ROAR: most relevant pixels removed" in tables
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_a_run_is_loaded_as_scores(whole):
    out, _ = whole
    scores = load(out)
    written = pd.read_csv(out / "summary.csv")
    assert scores.summary["mean"].to_numpy() == pytest.approx(written["mean"].to_numpy())
    assert scores.about["folder"] == out.name and "retrain_cls" in scores.about["config"]
    assert len(scores.gallery.images) == 6 and set(scores.maps.method) == {"oracle", "smooth"}
    assert len(scores.join(load(out)).curves) == len(scores.curves)


def test_run_records_how_it_was_made(whole):
    out, _ = whole
    manifest = json.loads((out / "manifest.json").read_text())
    assert list(manifest["steps"]) == ["train", "attribute", "retrain"]  # a report only reads
    assert all({"seconds", "device", "versions"} <= set(s) for s in manifest["steps"].values())
    assert (
        manifest["data"]["train"]["images"] == 200 and len(manifest["data"]["train"]["mean"]) == 3
    )
    cell = json.loads(next((out / "retrain").glob("smooth-roar*.json")).read_text())
    assert {"spec", "versions", "device", "seed", "correct"} <= set(cell)


def test_base_is_trained_once_for_each_seed(whole):
    out, _ = whole
    assert len(list((out / "retrain").glob("base-*.json"))) == 2
    assert len(list((out / "retrain").glob("*-s*-*.json"))) == 2 + 2 * 2 * 2 * 2
    base = pd.read_csv(out / "results.csv").query("percentile == 0")
    assert (base.groupby("seed").value.nunique() == 1).all()


def test_steps_alone_give_the_same_results(whole, tmp_path):
    for step in STEPS:
        assert main([step, "--config", str(TINY), "--out", str(tmp_path), *QUICK]) == 0
    assert (tmp_path / "results.csv").read_bytes() == (whole[0] / "results.csv").read_bytes()


def test_resolved_configuration_runs_again_without_work(whole, tmp_path):
    out, _ = whole
    copy = shutil.copytree(out, tmp_path / "copy")
    before = {p: p.stat().st_mtime_ns for p in (copy / "retrain").iterdir()}
    result = roar_nb("run", "--config", copy / "config.yaml", "--out", copy)
    assert result.returncode == 0, result.stderr
    assert {p: p.stat().st_mtime_ns for p in (copy / "retrain").iterdir()} == before
    assert (copy / "results.csv").read_bytes() == (out / "results.csv").read_bytes()


OLDER = """
desc: &desc older
outdir: &outdir {out}
data: {{dataset: Shapes, dataset_dir: ~, split_ratio: 0.875, n_train: 200, n_validation: 50, n_test: 50}}
train_cls:
  model: &model
    arch: src.models.classification.PytorchCifarResnet.ResNet8
    constructor_args: {{num_classes: 10, width: 4}}
    pretrained_weights: ~
    transformer: ~
  scheduler: &scheduler {{name: StepLR, step_size: 10, gamma: 0.5}}
  optimizer: &optimizer {{name: Adam, lr: 1e-3, weight_decay: 1e-4}}
  loss: &loss {{name: CrossEntropyLoss}}
  batch_size: 256
  nb_epochs: 1
extract_cams:
  model:
    <<: *model
    pretrained_weights: !!python/object/apply:os.path.join [*outdir, 'train_cls/older/best.pth']
  attribution_methods: &methods
    - name: gradcam
      method: src.attribution_methods.gradcam.compute_gradcam
      kwargs: {{saliency_layer: layer3.0.relu}}
retrain_cls:
  model: *model
  attribution_methods: *methods
  metrics: roar
  percentiles: [50]
  scheduler: *scheduler
  optimizer: *optimizer
  loss: *loss
  batch_size: 256
  nb_epochs: 1
"""


def test_older_format_runs(tmp_path):
    config = tmp_path / "older.yml"
    config.write_text(OLDER.format(out=tmp_path / "run"))
    assert main(["run", "--config", str(config)]) == 0
    results = pd.read_csv(tmp_path / "run/results.csv")
    assert set(results.method) == {"gradcam"} and sorted(results.percentile) == [0, 50]


def test_own_method_beside_the_config(tmp_path):
    (tmp_path / "brightness_of_mine.py").write_text(
        "def bright(model, image, label, power=1):\n"
        "    assert image.shape == (1, 3, 32, 32) and isinstance(label, int)\n"
        "    return (image[0].cpu().numpy() ** power).sum(0)\n"
    )
    config = tmp_path / "mine.yml"
    config.write_text(TINY.read_text() + "  attribution_methods: [mine]\n")
    methods = "extract_cams.attribution_methods=[{name: mine, method: brightness_of_mine.bright, kwargs: {power: 2}}]"
    assert (
        main(
            [
                "run",
                "--config",
                str(config),
                "--out",
                str(tmp_path / "run"),
                "--set",
                methods,
                *QUICK,
                *GRID,
            ]
        )
        == 0
    )
    assert set(pd.read_csv(tmp_path / "run/results.csv").method) == {"mine"}


def test_edited_method_replaces_its_own_maps_alone(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file, config, out = tmp_path / "sum_of_mine.py", tmp_path / "mine.yml", tmp_path / "run"
    code = "def total(model, image, label):\n    return {}*image[0].sum(0)\n"
    methods = "extract_cams.attribution_methods=[{name: mine, method: sum_of_mine.total}, gradient]"
    sets = ["--set", methods, "--set", "retrain_cls.attribution_methods=[mine]", *QUICK]
    config.write_text(TINY.read_text())

    def step(name, *more, expect=0):
        args = ["--config", str(config), "--out", str(out), *sets, *more]
        assert main([name, *args]) == expect
        return capsys.readouterr().err

    edit(file, code.format(1))
    step("train")
    step("attribute")
    mine = out / "attributions/mine/test.zarr"
    kept = [out / "train/model.safetensors", out / "attributions/gradient/test.zarr/progress.json"]
    before, times = open_maps(mine)[:], [p.stat().st_mtime_ns for p in kept]
    edit(file, code.format(-10))
    told = step("attribute", expect=1)
    assert "Use --overwrite" in told and f"sum_of_mine.total ({file}) was edited" in told
    assert not re.search("[0-9a-f]{16}", told) and told.startswith("roar-nb attribute: 1 of 2")
    step("train", "--overwrite")
    step("attribute", "--overwrite")
    np.testing.assert_allclose(open_maps(mine)[:], -10 * before, rtol=1e-5)
    assert [p.stat().st_mtime_ns for p in kept] == times


def edit(file, text):
    "Write a module anew; it is imported again"
    file.write_text(text)
    sys.modules.pop(file.stem, None)
    importlib.invalidate_caches()
    linecache.clearcache()


def test_impossible_argument_leaves_the_other_methods(tmp_path, capsys):
    methods = (
        "extract_cams.attribution_methods=[{name: bad, method: rise, kwargs: {keep: 50}}, gradient]"
    )
    args = [
        "--config",
        str(TINY),
        "--out",
        str(tmp_path),
        *QUICK,
        "--set",
        methods,
        "--set",
        "retrain_cls.attribution_methods=[gradient]",
    ]
    assert main(["train", *args]) == 0
    assert main(["attribute", *args]) == 1
    assert "bad: kwargs.keep: 50 is impossible" in capsys.readouterr().err
    assert open_maps(tmp_path / "attributions/gradient/test.zarr").shape[0] > 0


def test_image_folder_with_own_statistics(tmp_path):
    from roar_nb.shapes import shapes

    for part, n in {"train": 160, "val": 20, "test": 40}.items():
        ds = shapes(n, seed=n)
        for i in range(n):
            folder = tmp_path / "tree" / part / ds.classes[ds.labels[i]]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(ds.images[i].permute(1, 2, 0).numpy()).save(folder / f"{i}.png")
    config = tmp_path / "tree.yml"
    config.write_text(
        TINY.read_text().replace(
            "{dataset: Shapes, n_train: 1000, n_validation: 100, n_test: 200}",
            f"{{dataset: ImageFolder, dataset_dir: {tmp_path / 'tree'}}}",
        )
    )
    methods = "extract_cams.attribution_methods=[{name: gradient, method: gradient}]"
    args = ["run", "--config", str(config), "--out", str(tmp_path / "run"), "--set", methods, *GRID]
    assert main(args) == 0
    data = json.loads((tmp_path / "run/manifest.json").read_text())["data"]
    assert [data[k]["images"] for k in ("train", "validation", "test")] == [160, 20, 40]
    assert data["test"]["mean"] == data["train"]["mean"]


BAD = {
    "train_cls.optimiser.name=Adam": ["train_cls.optimiser", "did you mean 'optimizer'"],
    "train_cls.optimizer.name=Adamm": ["train_cls.optimizer.name", "Adamm", "did you mean 'Adam"],
    "train_cls.optimizer.momentum=0.9": [
        "train_cls.optimizer.momentum",
        "AdamW has no such argument",
    ],
    "train_cls.batch_size=many": ["train_cls.batch_size", "'many'"],
    "train_cls.model.arch=roar_nb.models.ResNet9": ["train_cls.model.arch", "did you mean 'ResNet"],
    "train_cls.model.constructor_args.num_classes=7": ["train_cls.model", "7 logits", "10 classes"],
    "train_cls.model.constructor_args.wide=7": [
        "train_cls.model.constructor_args.wide",
        "allowed: num_classes, width",
    ],
    "data.dataset=CIFAR11": ["data.dataset", "CIFAR11", "did you mean 'CIFAR10"],
    "data.dataset=ImageFolder": ["data.dataset_dir", "ImageFolder"],
    "extract_cams.attribution_methods.1.method=smoothgard_sq": [
        "extract_cams.attribution_methods.smooth.method",
        "did you mean 'smoothgrad_sq'",
    ],
    "extract_cams.attribution_methods.1.kwargs.n_sample=3": [
        "extract_cams.attribution_methods.smooth.kwargs.n_sample",
        "did you mean 'n_samples'",
    ],
    "extract_cams.attribution_methods.1={name: cam, method: gradcam, kwargs: {layer: layer3.0.rleu}}": [
        "extract_cams.attribution_methods.cam.kwargs.layer",
        "did you mean 'layer3.0.relu'",
    ],
    "retrain_cls.percentiles=[30, 101]": ["retrain_cls.percentiles", "101"],
    "retrain_cls.percentiles=25,70": ["retrain_cls.percentiles", "a list is written [25, 70]"],
    "retrain_cls.seeds=0,5": ["retrain_cls.seeds", "a list is written [0, 5]"],
    "train_cls.augment.crop_padding=-1": ["crop_padding", "-1 is impossible"],
    "retrain_cls.metrics=raor": ["retrain_cls.metrics", "did you mean 'roar'"],
    "retrain_cls.imputation=channel_maen": [
        "retrain_cls.imputation",
        "did you mean 'channel_mean'",
    ],
    "retrain_cls.attribution_methods=[orcale]": [
        "retrain_cls.attribution_methods.0",
        "did you mean 'oracle'",
    ],
    "device=gpu": ["device", "gpu"],
    "precision=half": ["precision", "'half'"],
}


@pytest.mark.parametrize("override", BAD)
def test_bad_config_is_refused_before_any_work(override, tmp_path, capsys):
    assert (
        main(["run", "--config", str(TINY), "--out", str(tmp_path / "run"), "--set", override]) == 2
    )
    said = capsys.readouterr().err
    assert [word for word in BAD[override] if word not in said] == [], said
    assert "Traceback" not in said and not (tmp_path / "run").exists()


def test_usage_errors_exit_with_2(capsys):
    assert roar_nb("fly").returncode == 2
    for args in ([], ["run", "--sed", "3"], ["run", "-q", "-v"]):
        with pytest.raises(SystemExit) as stopped:
            main(args)
        assert stopped.value.code == 2
    assert main(["run", "--config", "shapes_dmeo"]) == 2
    assert "did you mean 'shapes_demo'" in capsys.readouterr().err


def test_steps_say_what_must_come_first(tmp_path, capsys):
    args = ["--config", str(TINY), "--out", str(tmp_path), *QUICK]
    for step, told in (
        ("attribute", "run `roar-nb train` first"),
        ("retrain", "run `roar-nb attribute` first"),
        ("report", "begin one with `roar-nb run`"),
    ):
        assert main([step, *args]) == 1
        assert told in capsys.readouterr().err


def test_other_settings_are_refused_or_overwritten(tmp_path, capsys):
    args = ["train", "--config", str(TINY), "--out", str(tmp_path), *QUICK]
    assert main(args) == 0
    assert main([*args, "--seed", "5"]) == 1
    assert "seed: 0 → 5" in capsys.readouterr().err
    assert main([*args, "--seed", "5", "--overwrite"]) == 0


def test_failing_method_leaves_the_others(tmp_path, capsys):
    bad = "extract_cams.attribution_methods.0={name: bad, method: roar_nb.core.duration}"
    args = ["--config", str(TINY), "--out", str(tmp_path), *QUICK]
    assert main(["train", *args]) == 0
    assert (
        main(
            ["attribute", *args, "--set", bad, "--set", "retrain_cls.attribution_methods=[smooth]"]
        )
        == 1
    )
    assert "bad" in capsys.readouterr().err
    assert (
        main(
            [
                "retrain",
                *args,
                *GRID,
                "--set",
                bad,
                "--set",
                "retrain_cls.attribution_methods=[smooth]",
            ]
        )
        == 0
    )


def test_user_errors_give_no_traceback(tmp_path, capsys, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    assert main(["train", "--config", str(TINY), "--out", str(tmp_path / "file"), *QUICK]) == 1
    (tmp_path / "half_written_method.py").write_text("def f(model, image, label:\n")
    monkeypatch.syspath_prepend(tmp_path)
    own = "extract_cams.attribution_methods.0={name: mine, method: half_written_method.f}"
    args = ["--config", str(TINY), "--out", str(tmp_path / "run"), *QUICK]
    assert (
        main(["run", *args, "--set", own, "--set", "retrain_cls.attribution_methods=[mine]"]) == 2
    )
    assert "half_written_method" in capsys.readouterr().err


def test_splits_of_different_sizes_are_refused(tmp_path, capsys):
    for part, side in (("train", 32), ("test", 40)):
        for c in ("a", "b"):
            (tmp_path / part / c).mkdir(parents=True)
            for i in range(8):
                Image.new("RGB", (side, side)).save(tmp_path / part / c / f"{i}.png")
    data = f"data={{dataset: ImageFolder, dataset_dir: {tmp_path}}}"
    assert (
        main(["train", "--config", str(TINY), "--out", str(tmp_path / "run"), "--set", data]) == 1
    )
    assert "set data.image_size" in capsys.readouterr().err


def test_interrupted_replacement_of_a_model_is_not_taken_for_the_old_one(tmp_path, monkeypatch):
    import roar_nb.steps as steps

    args = ["train", "--config", str(TINY), "--out", str(tmp_path), *QUICK]
    assert main(args) == 0
    before = (tmp_path / "train/model.safetensors").read_bytes()
    real = steps.save_weights

    def save_then_die(*a, **k):
        real(*a, **k)
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "save_weights", save_then_die)
    assert main([*args, "--seed", "7", "--overwrite"]) == 130
    monkeypatch.undo()
    assert main(args) == 0
    assert (tmp_path / "train/model.safetensors").read_bytes() == before


def test_lists_come_from_the_registries(capsys):
    assert main(["list"]) == 0
    said = capsys.readouterr().out
    assert tuple(LISTS) == KINDS and [k for k in KINDS if f"\n{k} " not in f"\n{said}"] == []
    for kind in KINDS:
        assert main(["list", kind]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= 100 and len(lines) > 4
        if kind == "methods":
            assert [line.split()[0] for line in lines if line[:1].strip()][:-1] == list(METHODS)
            assert any("Selvaraju et al. 2017" in line for line in lines)
    with pytest.raises(SystemExit) as stopped:
        main(["list", "method"])
    assert stopped.value.code == 2 and "'methods'" in capsys.readouterr().err


def planned(capsys, *args):
    "What a dry run prints"
    assert main([*map(str, args), "--dry-run"]) == 0
    return capsys.readouterr().out


def test_dry_run_imports_and_writes_nothing(tmp_path, capsys):
    own = "extract_cams.attribution_methods.0={name: oracle, method: not_to_be_imported.f}"
    args = ["run", "--config", TINY, "--out", tmp_path / "run", "--set", own]
    args += ["--set", "data={dataset: not_to_be_imported.load}"]
    args += ["--set", "train_cls.model.arch=not_to_be_imported.Net"]
    args += ["--set", "retrain_cls.imputation=not_to_be_imported.fill"]
    said = planned(capsys, *args)
    assert "numbers known once they are read" in said and "size known once" in said
    assert "not imported, so a change in it is not seen: not_to_be_imported.f" in said
    assert "not_to_be_imported" not in sys.modules and list(tmp_path.iterdir()) == []


def test_dry_run_tells_cost_before_a_run(tmp_path, capsys):
    said = planned(capsys, "run", "--config", TINY, "--out", tmp_path / "run")
    words = [
        "Shapes: 1,000 training, 100 validation, 200 test; 32×32 pixels",
        "2,000 passes forward and backward, 400 forward (2 epochs)",
        "oracle: 1,300 maps, 0 passes",
        "smooth: 1,300 maps, 5,200 passes",
        "10.6 MB on the disk",
        "to do: 18 cells",
    ]
    assert [w for w in words if w not in said] == []
    said = planned(capsys, "run", "--config", "cifar10_resnet8", "--out", tmp_path / "run")
    assert "CIFAR10: 43,750 training, 6,250 validation, 10,000 test; 32×32 pixels" in said
    assert list(tmp_path.iterdir()) == []


def test_dry_run_sees_what_is_there(whole, capsys):
    out, _ = whole
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*")}
    args = ["run", "--config", TINY, "--out", out, *QUICK]
    said = planned(capsys, *args)
    assert [line.split()[1:3] for line in said.splitlines()[2:5]] == [["there", "already:"]] * 3
    more = planned(capsys, *args, "--set", "retrain_cls.seeds=3")
    assert "to do: 9 of 27 cells" in more and "train      there already" in more
    more = planned(capsys, *args, "--set", "extract_cams.attribution_methods+=random")
    assert "to do: 500 of 1,500 maps" in more and "to do: 8 of 26 cells" in more
    other = ["--set", "extract_cams.attribution_methods.1.kwargs.n_samples=5", "--overwrite"]
    more = planned(capsys, *args, *other)
    assert "smooth: 500 maps, 2,500 passes" in more and "to do: 8 of 18 cells" in more
    more = planned(capsys, *args, "--set", "train_cls.nb_epochs=2", "--overwrite")
    assert "to do: 1 network" in more and "to do: 1,000 maps" in more and "18 cells" in more
    assert main([*map(str, args), "--set", "train_cls.nb_epochs=2", "--dry-run"]) == 1
    assert "nb_epochs: 1 → 2" in capsys.readouterr().err
    assert {p: p.stat().st_mtime_ns for p in out.rglob("*")} == before


def test_quiet_and_verbose(whole, tmp_path, capsys):
    out = shutil.copytree(whole[0], tmp_path / "copy")
    args = ["run", "--config", str(TINY), "--out", str(out), *QUICK]
    assert main([*args, "-q"]) == 0
    said = capsys.readouterr().out
    results = ["train: ", "warning: ", "attribute: ", "retrain: "]
    assert [re.match(r"(\w+: )?", line)[0] for line in said.splitlines()[:4]] == results
    assert "images:" not in said and "ROAR: most relevant" in said
    for path in (out / "retrain").glob("smooth-kar*-s1-*.json"):
        path.unlink()
    assert main([*args, "-v"]) == 0
    said = capsys.readouterr().out
    assert "cell smooth-kar-channel_mean-p25-s1: test accuracy 0." in said
    assert f"oracle, test: maps there already: {out}" in said and VOICE["level"] == 1
    wrong = [*args, "--set", "data.datset=Shapes"]
    assert main([*wrong, "-v"]) == main([*wrong, "-q"]) == 2
    said = capsys.readouterr().err
    assert said.count("Traceback") == 1 and said.count("data.datset") >= 2


def test_files_get_plain_lines_of_progress(tmp_path, capsys, monkeypatch):
    for name in ("IN_TEST", "ROAR_NB_PROGRESS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    monkeypatch.setattr(Lines, "every", 0)
    args = ["run", "--config", str(TINY), "--out", str(tmp_path), *QUICK, *GRID]
    assert main(args) == 0
    said = capsys.readouterr().err
    assert "\r" not in said and "\x1b" not in said
    line = r"[\w, -]+: \d+/\d+ (epoch|cell|map)s, [\d.,]+ (\w+/s|s/\w+), ETA .+"
    lines = [o for o in said.splitlines() if "fine-tuning" not in o]
    assert lines and [o for o in lines if not re.fullmatch(line, o)] == []


def test_progress_is_a_line_every_ten_seconds(capsys, monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("roar_nb.core.time.monotonic", lambda: clock[0])
    for _ in Lines(range(10), desc="ten", unit="pass"):
        clock[0] += 4
    assert capsys.readouterr().err.splitlines() == [
        "ten: 3/10 passes, 4.0 s/pass, ETA 28 s",
        "ten: 6/10 passes, 4.0 s/pass, ETA 16 s",
        "ten: 9/10 passes, 4.0 s/pass, ETA 4 s",
        "ten: 10/10 passes, 4.0 s/pass, ETA 0 s",
    ]


def test_help_names_the_documentation_and_the_environment(capsys):
    assert docs_url() == settings()["doc_url"]
    for argv in (["--help"], ["run", "--help"]):
        with pytest.raises(SystemExit):
            main(argv)
        said = capsys.readouterr().out
        assert docs_url() in said and "ROAR_NB_PROGRESS=0" in said
        assert max(map(len, said.splitlines())) <= 110


def test_docs_address_of_a_tree_that_is_not_installed(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr("roar_nb.cli.metadata.metadata", missing)
    assert "README" in docs_url()


@pytest.mark.parametrize("option", [["--seed", "3"], ["--device", "cpu"], ["--dry-run"]])
def test_report_refuses_options_that_mean_nothing_to_it(option, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["report", "--out", str(tmp_path), *option])
    assert stopped.value.code == 2 and option[0] in capsys.readouterr().err


def test_messages_have_one_prefix_and_all_failures(tmp_path, capsys, monkeypatch):
    import roar_nb.steps as steps

    def fail(name):
        def step(run):
            raise RoarError(f"{name}: 1 of 2 failed")

        return step

    done = dict(train=lambda run: None, attribute=lambda run: None)
    monkeypatch.setattr(steps, "STEPS", done | {k: fail(k) for k in ("perturb", "retrain")})
    perturb = "pixel_perturbation_analysis={test_samples: 10}"
    args = ["--config", str(TINY), "--out", str(tmp_path), "--set", perturb]
    assert main(["retrain", *args]) == 1
    assert capsys.readouterr().err == "roar-nb retrain: 1 of 2 failed\n"
    assert main(["run", *args]) == 1
    failed = capsys.readouterr().err
    assert failed == "roar-nb run: perturb: 1 of 2 failed\nretrain: 1 of 2 failed\n"


LOADER = """
from roar_nb.datasets import Splits
from roar_nb.shapes import shapes

def load():
    return Splits(**{part: shapes(60, seed=SEED + i) for i, part in enumerate(("train", "test"))})
"""


def test_an_edited_dataset_function_is_named(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    file = tmp_path / "shapes_of_mine.py"
    data = ["--set", "data={dataset: shapes_of_mine.load}", "--set", "train_cls.nb_epochs=1"]
    config = tmp_path / "mine.yml"
    config.write_text(TINY.read_text())
    args = ["train", "--config", str(config), "--out", str(tmp_path / "run"), *data]
    for seed, status in ((0, 0), (10, 1)):
        edit(file, LOADER.replace("SEED", str(seed)))
        assert main(args) == status
    said = capsys.readouterr().err
    assert "data.train: other images than before" in said
    assert f"shapes_of_mine.load ({file}) made them" in said and not re.search("[0-9a-f]{16}", said)


def test_the_demonstration_says_what_it_will_do(tmp_path):
    said = opening(open_run(outdir=tmp_path / "demo"))
    words = ["less than three minutes", "1,600 training", "retrain 33 networks", "gradcam, oracle"]
    assert [w for w in words if w not in said] == []


def test_a_shell_can_complete_commands(monkeypatch):
    asked = []
    fake = type(sys)("argcomplete")
    fake.autocomplete = asked.append
    monkeypatch.setitem(sys.modules, "argcomplete", fake)
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    assert main(["--version"]) == 0 and asked[0].prog == parser().prog == "roar-nb"


def test_arguments_from_python_are_refused_in_words():
    ds, model = shapes(16), build_model("roar_nb.models.ResNet8", dict(width=4), 10)
    assert fit(model, ds, recipe=Recipe(nb_epochs=0), device="auto").best_epoch == 0
    images = torch.rand(2, 3, 32, 32)
    with pytest.raises(RoarError, match="class numbers from 0, not .'a'."):
        attribute(model, images, ["a"])
    black = dict(method="integrated_gradients", baseline="black", mean=[0.5] * 2, std=[0.5] * 2)
    with pytest.raises(RoarError, match="2 numbers for images of 3 channels"):
        attribute(model, images, [0, 1], **black)
    with pytest.raises(RoarError, match="crop_padding: -1 is impossible"):
        fit(model, ds, recipe=Recipe(augment=dict(crop_padding=-1)))


def test_an_edited_protocol_is_named():
    specs = [dict(name="mine", measure=letter * 16) for letter in "ab"]
    index = dict(context={}, protocol=dict(mine=specs[1]), imputation=dict(fill="a" * 16))
    spec = dict(protocol=specs[0], imputation="b" * 16)
    assert misfits(index, spec, protocol="mine", imputation="fill") == [
        "protocol of mine: others now (measure: this function was edited)",
        "imputation of fill: its function was edited",
    ]
