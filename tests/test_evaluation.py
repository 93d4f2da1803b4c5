"The front door: what it offers, what it accepts, what it refuses, and that it goes on where it stopped."

import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision

import roar_nb
from roar_nb.core import RoarError
from roar_nb.datasets import Splits
from roar_nb.images import normalise
from roar_nb.models import ResNet8
from roar_nb.shapes import shapes
from roar_nb.training import Recipe

MEAN, STD = [0.5] * 3, [0.25] * 3


@pytest.fixture(scope="module")
def setup():
    torch.manual_seed(0)
    ds = shapes(12, seed=3)
    return ResNet8(width=4).eval(), normalise(ds.images, MEAN, STD), ds


def test_the_package_offers_few_names_and_loads_nothing_at_import():
    assert {"attribute", "evaluate", "roar", "show_maps", "Scores"} <= set(dir(roar_nb))
    code = "import sys, roar_nb; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "False", done.stderr
    for name in ("attribute", "evaluate", "roar"):
        assert "Examples" in getattr(roar_nb, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'evalute'"):
        roar_nb.evalute


def test_five_methods_and_three_protocols_on_a_torchvision_network():
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=7)
    x = torch.randn(4, 3, 64, 64)
    methods = ["gradcam", "gradient", "input_x_gradient", "smoothgrad", "random"]
    protocols = ["lerf_morf", "road", "insertion_deletion"]
    scores = roar_nb.evaluate(model, x, [0, 1, 2, 3], methods, protocols, mean=MEAN, std=STD)
    assert set(scores.table.method) == set(methods)
    assert {"deviation", "road", "insertion_auc", "deletion_auc"} <= set(scores.table.metric)
    assert scores.summary["mean"].notna().all() and len(scores.comparisons)
    assert scores.plot("road").axes and "gradcam" in scores._repr_html_()
    assert model.training  # left as it was


def test_methods_in_all_forms_give_the_same(setup):
    model, x, _ = setup
    maps = roar_nb.attribute(model, x, method="gradient")
    forms = {
        "named": "gradient",
        "called": roar_nb.methods.gradient,
        "pair": ("gradient", {}),
        "tensor": maps,
        "array": maps.numpy(),
    }
    summary = roar_nb.evaluate(model, x, methods=forms, protocols=["lerf_morf"]).summary
    tables = [s["mean"].to_numpy() for _, s in summary.groupby("method")]
    assert len(tables) == 5
    assert all(np.allclose(t, tables[0]) for t in tables)


def test_one_target_is_explained_and_watched(setup):
    model, x, ds = setup
    how = dict(methods=["gradient"], protocols=["lerf_morf"])
    by_label = roar_nb.evaluate(model, x, ds.labels, target="label", **how).table
    with torch.no_grad():
        p = model(x).softmax(1).gather(1, ds.labels[:, None]).mean().item()
    start = by_label.query("metric == 'probability' and percentile == 0").value
    assert start.to_numpy() == pytest.approx(p, abs=1e-6)


@pytest.mark.parametrize(
    "change, told",
    [
        (dict(methods=["gradcan"]), "did you mean 'gradcam'"),
        (dict(methods=[]), "none is given"),
        (dict(methods=["gradient", "gradient"]), "give a dict"),
        (dict(protocols=["raod"]), "did you mean 'road'"),
        (dict(protocols=["road"]), "needs the mean and std"),
        (dict(target="labels"), "allowed: label, predicted"),
        (dict(target="label"), "needs labels"),
        (dict(labels=[1, 2]), "labels: expected 12 classes"),
        (dict(methods={"mine": torch.zeros(3, 32, 32)}), "do not fit images"),
        (dict(seeed=1), "did you mean 'seed'"),
        (dict(protocols="raod"), "did you mean 'road'"),
        (dict(images=torch.zeros(2, 32, 32, 3)), "looks like (N,H,W,C)"),
        (dict(images=torch.zeros(2, 3, 32, 32, dtype=torch.uint8)), "see `normalise`"),
        (dict(images=[0.0]), "expected a tensor or array, not a list; give one batch of it"),
        (dict(methods=torch.zeros(12, 32, 32)), "give {name: maps}"),
        (dict(methods={"mine": [1, 2]}), "[1, 2] is not the name of"),
        (dict(labels=["cat"] * 12), "labels: expected class numbers from 0, not ['cat'"),
    ],
)
def test_what_is_wrong_is_said(setup, change, told):
    model, x, _ = setup
    how = dict(images=x, methods=["gradient"], protocols=["lerf_morf"]) | change
    with pytest.raises(RoarError) as e:
        roar_nb.evaluate(model, **how)
    assert told in str(e.value)


@pytest.mark.parametrize("model", [ResNet8, lambda x: x])
def test_a_class_or_a_function_is_no_network(setup, model):
    with pytest.raises(RoarError, match="expected a torch.nn.Module"):
        roar_nb.evaluate(model, setup[1], methods="random")


def test_a_set_of_images_brings_what_is_known_about_it(setup):
    model, _, ds = setup
    by_hand = normalise(ds.images, ds.mean, ds.std)
    how = dict(methods=["oracle", "random"], protocols=["lerf_morf", "road"])
    facts = dict(mean=ds.mean, std=ds.std, relevance=ds.relevance, name=ds.name)
    whole = roar_nb.evaluate(model, ds, **how)
    assert whole.table.equals(roar_nb.evaluate(model, by_hand, ds.labels, **how, **facts).table)
    assert whole.gallery.name_of(0) == ds.classes[ds.labels[0]]
    other = roar_nb.evaluate(model, ds, ds.labels.flip(0), **how, name="mine")
    assert set(other.table.dataset) == {"mine"}
    assert other.gallery.name_of(0) == ds.classes[ds.labels[-1]]
    oracle = roar_nb.attribute(model, ds, method="oracle")
    assert torch.equal(oracle, ds.relevance.float())
    with pytest.raises(RoarError, match="the set is empty"):
        roar_nb.evaluate(model, ds.subset([]), **how)


def test_maps_may_be_a_list(setup):
    model, x, ds = setup
    maps = torch.rand(12, 32, 32)
    forms = {"whole": maps, "tensors": list(maps), "arrays": list(maps.numpy())}
    summary = roar_nb.evaluate(model, x, methods=forms, protocols="lerf_morf").summary
    assert len({tuple(s["mean"]) for _, s in summary.groupby("method")}) == 1


QUICK = Recipe(1, 64, augment=dict(crop_padding=0))


def test_roar_goes_on_in_its_folder(tmp_path):
    sets = shapes(160, seed=1), shapes(60, seed=2)
    how = dict(folder=tmp_path, recipe=QUICK, precision="fp32")
    first = roar_nb.roar(lambda: ResNet8(width=4), sets, ["oracle"], [50], [0], **how)
    files = {
        p: p.stat().st_mtime_ns
        for p in tmp_path.rglob("*")
        if p.suffix in (".json", ".safetensors")
    }
    more = roar_nb.roar(lambda: ResNet8(width=4), sets, ["oracle", "random"], [50], [0], **how)
    kept = {p: p.stat().st_mtime_ns for p in files if p.name != "index.json"}
    assert kept == {p: t for p, t in files.items() if p.name != "index.json"}
    assert set(first.table.method) == {"oracle"} and set(more.table.method) == {"oracle", "random"}
    one, two = (s.table.query("method == 'oracle'").value.tolist() for s in (first, more))
    assert one == two
    with pytest.raises(RoarError, match="holds another model"):
        roar_nb.roar(lambda: ResNet8(width=8), sets, ["oracle"], [50], [0], **how)


def grey(level):
    "An imputation that knows its colour from outside"

    def fill(image, mask):
        return torch.full_like(image, level)

    return fill


@pytest.mark.parametrize(
    "change, told",
    [
        (dict(make_model=lambda: ResNet8Fixed()), "same initial weights"),
        (dict(splits=(1, 2)), "expected Splits, or (train, test)"),
        (dict(splits=shapes(40, seed=1)), "not ImageSet"),
        (dict(make_model=ResNet8(width=4)), "expected a class or a function of no arguments"),
        (dict(make_model=lambda: "a model"), "expected a torch.nn.Module, not a str"),
        (dict(recipe=dict(nb_epochs=1)), "recipe: expected a Recipe"),
        (dict(imputations=[grey(0.2), grey(0.8)]), "IMPUTATIONS.register(name)(function)"),
        (dict(metrics=["raor"]), "unknown value 'raor'"),
        (dict(sed=1), "no such option: 'sed'; did you mean 'seed'"),
        (dict(make_model=lambda: WithFixedBackbone()), "same initial weights"),
        (dict(percentiles=[10, 500]), "percentiles: 500 is impossible"),
        (dict(methods={"a/b": "random"}), "'a/b' cannot name results"),
        (dict(methods={"none": "random"}), "'none' cannot name results"),
        (dict(methods={"a": "randon"}), "did you mean 'random'"),
        (dict(methods={"a": torch.zeros(3, 32, 32)}), "`evaluate` takes maps"),
        (dict(splits=Splits(shapes(40, seed=1), None, None)), "no test set"),
    ],
)
def test_what_is_wrong_with_roar_is_said(change, told, monkeypatch):
    "Before anything is trained"
    monkeypatch.setattr("roar_nb.evaluation.fit", None)
    how = dict(
        make_model=lambda: ResNet8(width=4),
        splits=(shapes(40, seed=1), shapes(20, seed=2)),
        methods=["random"],
        percentiles=[50],
        seeds=[0],
        recipe=QUICK,
    )
    with pytest.raises(RoarError) as e:
        roar_nb.roar(**how | change)
    assert told in str(e.value)


def ResNet8Fixed():
    "Not from scratch: always the same weights"
    torch.manual_seed(0)
    return ResNet8(width=4)


def WithFixedBackbone():
    "Fine-tuning: only the last layer is new"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = ResNet8(width=4)
    [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1].reset_parameters()
    return model


def small(folder=None, **change):
    sets = shapes(60, seed=1), shapes(20, seed=2)
    how = dict(methods="oracle", percentiles=[50], seeds=[0], folder=folder, recipe=QUICK)
    make = change.pop("make_model", lambda: ResNet8(width=4))
    return roar_nb.roar(make, sets, **{**how, **change})


def test_numbers_of_any_kind_name_the_same_cells(tmp_path):
    first = small(tmp_path).table
    cells = sorted(p.name for p in (tmp_path / "retrain").iterdir())
    for percentiles in ([50.0], np.array([50]), np.linspace(50, 50, 2)):
        again = small(tmp_path, percentiles=percentiles, seeds=np.arange(1)).table
        assert again.equals(first)
    assert sorted(p.name for p in (tmp_path / "retrain").iterdir()) == cells


def test_an_edited_cell_goes_on_with_the_same_network(tmp_path):
    "The text around make_model may change, what it makes may not"
    makers = []
    for i, text in enumerate(
        ["make = lambda: ResNet8(width=4)", "# new\nmake = lambda: ResNet8(4)"]
    ):
        path = tmp_path / f"cell{i}.py"
        path.write_text(text)
        scope = dict(ResNet8=lambda width: ResNet8(width=width))
        exec(compile(text, path, "exec"), scope)
        makers.append(scope["make"])
    one, two = (small(tmp_path / "run", make_model=make).table for make in makers)
    assert one.equals(two)


def weighted(sign):
    "An attribution method that knows its sign from outside"

    def method(model, image, label):
        return sign * image.sum(1)

    return method


def test_functions_made_alike_are_told_apart(tmp_path):
    "Two closures of one text, and two lambdas of one name"
    values = []
    for level in (0.0, 1.0, 0.0):
        small(tmp_path, imputations=[grey(level)])
        values.append(len(list(tmp_path.glob("retrain/oracle-roar-*.json"))))
    assert values == [1, 2, 2]
    pairs = [(weighted(1), weighted(-1)), (lambda m, x, y: x.sum(1), lambda m, x, y: -x.sum(1))]
    for i, (one, other) in enumerate(pairs):
        first = small(tmp_path / str(i), methods={"mine": one}).table
        assert first.equals(small(tmp_path / str(i), methods={"mine": one}).table)
        with pytest.raises(RoarError, match="holds other maps"):
            small(tmp_path / str(i), methods={"mine": other})


def test_an_edited_method_or_model_may_be_replaced(tmp_path):
    first = small(tmp_path, methods={"mine": weighted(1), "oracle": "oracle"})
    edited = {"mine": weighted(-1), "oracle": "oracle"}
    with pytest.raises(RoarError, match="mine/train.zarr holds other maps"):
        small(tmp_path, methods=edited)
    there = {p: p.stat().st_mtime_ns for p in tmp_path.glob("retrain/*-s0-*.json")}
    second = small(tmp_path, methods=edited, overwrite=True)
    assert all(p.stat().st_mtime_ns == t for p, t in there.items())
    assert len(list(tmp_path.glob("retrain/*-s0-*.json"))) == len(there) + 1
    assert second.table.equals(small(tmp_path, methods=edited).table)
    kept = [s.table.query("method == 'oracle'").value.tolist() for s in (first, second)]
    assert kept[0] == kept[1]
    with pytest.raises(RoarError, match="overwrite=True"):
        small(tmp_path, methods=edited, make_model=lambda: ResNet8(width=5))
    how = dict(methods=edited, make_model=lambda: ResNet8(width=5))
    wider = small(tmp_path, overwrite=True, **how)
    assert wider.table.equals(small(tmp_path, **how).table)


def test_a_single_name_is_enough():
    table = small(metrics="kar", imputations="zero", percentiles=50).table
    assert set(table.metric) == {"kar"} and set(table.imputation) == {"zero"}


def test_failures_are_named(tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("the disk is full")

    monkeypatch.setattr("roar_nb.retraining.retrain", broken)
    with pytest.raises(RoarError, match="no network could be retrained(.|\n)*the disk is full"):
        small(tmp_path)


def test_fine_tuning_must_be_said():
    scores = small(make_model=WithFixedBackbone, pretrained="a fixed seed")
    assert "not trained from scratch: a fixed seed" in scores.notes
    assert scores.table.model.str.contains("fine-tuned").all()
