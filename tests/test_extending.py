"One of each kind in one file of one's own, run by the command: nothing else is touched."

import pandas as pd

from repo import ROOT
from test_cli import GRID, QUICK, roar_nb

TINY = ROOT / "tests/tiny.yml"

METHOD = """
def bright(model, image, label, power=1):
    "Bright pixels are relevant"
    return (image[0] ** power).sum(0)
"""
IMPUTATION = """
def mirrored(image, mask):
    "What stands on the other side of the image"
    return image.flip(-1)
"""
DATASET = """
from roar_nb.datasets import Splits
from roar_nb.shapes import shapes


def two(seed=0, n=200):
    "Shapes of two classes, without a validation split"
    made = [shapes(k * n, seed=seed + k) for k in (2, 1)]
    train, test = [ds.subset((ds.labels < 2).nonzero().flatten()) for ds in made]
    return Splits(train, None, test)
"""
PROTOCOL = """
from roar_nb.metrics import METRICS, Curve, Metric
from roar_nb.protocols import Protocol

METRICS.add(Metric("kept", "Predictions kept", "share of predictions that hold", better=dict(morf="low")))


def measure(responses):
    return [responses.as_curve("kept", responses.curve("holds", "morf", "zero"), "morf", "zero")]


def kept(percentiles=(10, 20)):
    "Do predictions hold when the most relevant pixels turn black?"
    return Protocol("kept", percentiles, (("morf", "zero"),), measure)
"""


def test_one_of_each_from_one_file(tmp_path):
    (tmp_path / "mine.py").write_text(PROTOCOL + DATASET + METHOD + IMPUTATION)
    config = tmp_path / "mine.yml"
    config.write_text(TINY.read_text())
    sets = [
        "data={dataset: mine.two, n: 300}",
        "extract_cams.attribution_methods=[{name: bright, method: mine.bright, kwargs: {power: 2}}]",
        "retrain_cls.imputation=[mine.mirrored]",
        "retrain_cls.attribution_methods=[bright]",
        "pixel_perturbation_analysis={protocols: [mine.kept], test_samples: 20}",
    ]
    changes = [o for each in sets for o in ("--set", each)]
    epochs = ["--set", "train_cls.nb_epochs=1", "--set", "train_cls.model.constructor_args.width=4"]
    args = ["run", "--config", config, "--out", tmp_path / "run", *epochs, *GRID, *changes]
    result = roar_nb(*args, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    table = pd.read_csv(tmp_path / "run/results.csv")
    assert set(table.metric) == {"roar", "kept"} and set(table.method) == {"bright"}
    assert set(table.query("metric == 'roar'").imputation) == {"mine.mirrored"}
    assert set(table.query("metric == 'kept'").percentile) == {0, 10, 20}
    assert (tmp_path / "run/figures/kept.png").exists()
    # the report needs neither the file nor what it defines
    (tmp_path / "mine.py").unlink()
    again = roar_nb("report", "--out", tmp_path / "run", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "run/results.csv"), table)
