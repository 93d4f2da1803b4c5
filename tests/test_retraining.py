"""Retraining: seeds of its own, from scratch or said, exact fractions, cells that are never lost,
and folders that are read alone."""

import json
import shutil
from functools import partial

import pytest
import torch
from torch import nn

from roar_nb.attribution import make_attribution
from roar_nb.core import (
    ConfigError,
    DataError,
    ModelError,
    StoreError,
    fingerprint,
    source_hash,
    write_json,
)
from roar_nb.datasets import Splits
from roar_nb.filters import FILTERS
from roar_nb.models import build_model
from roar_nb.removal import MaskedSet, rank
from roar_nb.retraining import (
    Cell,
    Grid,
    Retraining,
    collect_cells,
    grid,
    masked_splits,
    retrain_seed,
    split_ranks,
    unpack_correct,
    update_index,
)
from roar_nb.shapes import shapes
from roar_nb.store import dump, open_maps
from roar_nb.training import Recipe, evaluate_classifier, fit

RECIPE = dict(
    nb_epochs=1,
    batch_size=32,
    optimizer=dict(name="AdamW", lr=0.01),
    scheduler=None,
    augment=dict(crop_padding=0, flip=True),
)


def make_model(seed):
    return build_model("roar_nb.models.ResNet8", dict(width=4), 10, seed=seed)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    "Splits, and the maps of two methods"
    sets = [shapes(n, seed=s) for s, n in enumerate((64, 32, 30))]
    for ds in sets[1:]:
        ds._mean, ds._std = sets[0].mean, sets[0].std
    splits, folder = Splits(*sets), tmp_path_factory.mktemp("maps")
    stores = {}
    for m in ("oracle", "random"):
        stores[m] = {k: folder / m / f"{k}.zarr" for k, _ in splits.items()}
        for k, ds in splits.items():
            dump(make_attribution(m), make_model(0).eval(), ds, stores[m][k])
    return splits, stores


@pytest.fixture
def make(world):
    "A `Retraining` with some settings changed"

    def setup(**changes):
        recipe = Recipe(**(RECIPE | changes.pop("recipe", {})))
        given = dict(splits=world[0], make_model=make_model, recipe=recipe, stores=world[1])
        return Retraining(**(given | changes))

    return setup


CELLS = grid(["oracle", "random"], percentiles=[50])


def contents(folder):
    return {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_cells_and_their_names():
    cells = grid(["a", "b"], ["roar", "kar", "mask_only"], ["blur", "zero"], [0, 12.5, 50], [0, 3])
    assert len(cells) == len({c.id for c in cells}) == 2 * (1 + 2 * 2 * (2 * 2 + 2))
    ids = [c.id for c in cells]
    assert ids[0] == "base-s0" and "a-kar-zero-p12.5-s3" in ids and "b-mask_only-lerf-p50-s0" in ids
    assert all(
        c.order == dict(roar="morf", kar="lerf")[c.metric] for c in cells if c.metric[1:] == "ar"
    )
    only = grid(["a"], ["mask_only"], percentiles=[50])
    assert only[1] == Cell("a", "mask_only", "morf", "none", 50, 0)
    with pytest.raises(ConfigError, match="metrics: unknown value 'raor'"):
        grid(["a"], ["raor"])


def test_no_cell_begins_where_the_explained_model_began(make, world, tmp_path):
    "Retraining seeds are derived apart from the run's; all methods share them"
    seeds, training_seed = [], 0

    def noting(seed):
        seeds.append(seed)
        return make_model(seed)

    setup = make(make_model=noting, pretrained=None)
    Grid(CELLS, setup, tmp_path).run()
    assert set(seeds[2:]) == {retrain_seed(0)} and len(seeds[2:]) == 3
    assert training_seed not in seeds and retrain_seed(0) != retrain_seed(1)
    explained = make_model(training_seed)
    fit(
        explained,
        world[0].train,
        world[0].validation,
        setup.recipe,
        seed=training_seed,
        precision="fp32",
    )
    base = next(c for c in collect_cells(tmp_path)[0] if c["percentile"] == 0)
    assert base["test_loss"] != evaluate_classifier(explained, world[0].test).loss
    fresh = zip(make_model(0).parameters(), make_model(retrain_seed(0)).parameters())
    assert not all(torch.equal(a, b) for a, b in fresh)


def test_weights_that_ignore_the_seed_are_refused(make, tmp_path):
    trained = make_model(7).state_dict()

    def loaded(seed):
        model = make_model(seed)
        model.load_state_dict(trained)
        return model

    with pytest.raises(ModelError, match="same initial weights.*pretrained="):
        Grid(CELLS, make(make_model=loaded), tmp_path).run()
    assert list(tmp_path.iterdir()) == []


def test_fine_tuning_is_said_and_recorded(make, tmp_path, capsys):
    Grid(
        CELLS[:1], make(make_model=lambda s: make_model(7), pretrained="seven.pth"), tmp_path
    ).run()
    assert "fine-tuning, not retraining from scratch: seven.pth" in capsys.readouterr().out
    (cell,), _ = collect_cells(tmp_path)
    assert cell["spec"]["pretrained"] == "seven.pth"
    Grid(CELLS[:1], make(), tmp_path / "scratch").run()
    assert collect_cells(tmp_path / "scratch")[0][0]["spec"]["pretrained"] is None


def test_values_are_exact_fractions(make, tmp_path):
    Grid(CELLS, make(), tmp_path).run()
    for c in collect_cells(tmp_path)[0]:
        correct = unpack_correct(c)
        assert type(c["n"]) is int and c["n"] == len(correct) == 30
        assert c["value"] == int(correct.sum()) / 30


def test_accuracy_is_that_of_evaluate_classifier(make, monkeypatch, tmp_path):
    "Retraining and perturbation measure bfloat16 accuracy the same way, with an exact head"
    import roar_nb.retraining as module

    seen = []

    def noting(model, ds, **how):
        seen.append(how)
        return evaluate_classifier(model, ds, **how)

    monkeypatch.setattr(module, "evaluate_classifier", noting)
    Grid(CELLS[:1], make(precision="bf16"), tmp_path).run()
    assert [how["dtype"] for how in seen] == [torch.bfloat16]


def test_a_second_run_trains_nothing_and_a_lost_cell_comes_back_the_same(make, tmp_path):
    Grid(CELLS, make(), tmp_path).run()
    before, results = contents(tmp_path), collect_cells(tmp_path)[0]
    Grid(CELLS, make(), tmp_path).run()
    assert contents(tmp_path) == before
    next(tmp_path.glob("oracle-roar-*")).unlink()
    cells, left_out = collect_cells(tmp_path)
    assert len(cells) == 2 and left_out == ["oracle-roar-channel_mean-p50-s0: not trained yet"]
    Grid(CELLS, make(), tmp_path).run()
    again = collect_cells(tmp_path)[0]
    same = ("id", "value", "correct", "test_loss", "spec")
    assert [[c[k] for k in same] for c in again] == [[c[k] for k in same] for c in results]


@pytest.mark.parametrize(
    "change, why",
    [
        (dict(recipe=dict(nb_epochs=2)), "recipe.nb_epochs: 1 → 2"),
        (dict(precision="bf16"), "precision: fp32 → bf16"),
        (dict(tie_seed=1), "tie_seed: 0 → 1"),
        (dict(model=dict(arch="other")), "model.arch: (absent) → other"),
        (dict(pretrained="seven.pth"), "pretrained: None → seven.pth"),
    ],
)
def test_cells_of_another_experiment_are_left_out_and_said(make, tmp_path, change, why):
    Grid(CELLS[:1], make(), tmp_path).run()
    Grid(CELLS[:1], make(**change), tmp_path).run()
    cells, left_out = collect_cells(tmp_path)
    assert len(cells) == 1 and len(left_out) == 1 and why in left_out[0]


def test_a_narrower_experiment_loses_no_cells(make, world, tmp_path):
    wide = grid(["oracle", "random"], ["roar"], ["channel_mean", "zero"], [50, 80])
    Grid(wide, make(imputations=["channel_mean", "zero"]), tmp_path).run()
    before = collect_cells(tmp_path)
    assert before[1] == [] and len(before[0]) == len(wide)
    one = make(stores=dict(random=world[1]["random"]))
    Grid(grid(["random"], percentiles=[50]), one, tmp_path).run()
    assert collect_cells(tmp_path) == before


def test_changed_maps_make_other_cells(make, world, tmp_path):
    Grid(CELLS, make(), tmp_path / "cells").run()
    stores = {**world[1], "oracle": world[1]["random"]}
    Grid(CELLS, make(stores=stores), tmp_path / "cells").run()
    cells, left_out = collect_cells(tmp_path / "cells")
    assert len(cells) == 3 and len(left_out) == 1 and "maps of oracle: others now" in left_out[0]


def test_maps_of_another_model_are_not_mixed(make, world, tmp_path):
    splits, stores = world
    other = {k: tmp_path / f"{k}.zarr" for k, _ in splits.items()}
    for k, ds in splits.items():
        dump(make_attribution("random"), make_model(1).eval(), ds, other[k])
    with pytest.raises(StoreError, match="explain different models"):
        Grid(CELLS, make(stores={**stores, "random": other}), tmp_path / "cells")
    Grid(CELLS, make(), tmp_path / "cells").run()
    one = make(stores=dict(random=other))
    Grid(grid(["random"], percentiles=[50]), one, tmp_path / "cells").run()
    cells, left_out = collect_cells(tmp_path / "cells")
    assert [c["method"] for c in cells] == ["none", "random"]
    assert any("oracle" in w and "explained" in w for w in left_out)


def test_maps_of_other_images_are_refused_before_anything_is_trained(make, world, tmp_path):
    splits, stores = world
    swapped = dict(stores["oracle"], test=stores["oracle"]["validation"])
    with pytest.raises(StoreError, match="maps of other images than the test split"):
        Grid(CELLS, make(stores={**stores, "oracle": swapped}), tmp_path)
    with pytest.raises(DataError, match="32 maps for 30 images"):
        split_ranks(swapped, splits)
    with pytest.raises(ConfigError, match="no maps of oracle"):
        Grid(CELLS, make(stores={}), tmp_path)
    with pytest.raises(StoreError):
        gone = {k: tmp_path / "gone.zarr" for k in swapped}
        Grid(CELLS, make(stores={**stores, "oracle": gone}), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_reading_needs_the_folder_alone(make, world, tmp_path):
    copies = {m: {k: tmp_path / m / p.name for k, p in s.items()} for m, s in world[1].items()}
    for m, paths in copies.items():
        for k, path in paths.items():
            shutil.copytree(world[1][m][k], path)
    Grid(CELLS, make(stores=copies), tmp_path / "cells").run()
    before = collect_cells(tmp_path / "cells")
    for m in copies:
        shutil.rmtree(tmp_path / m)
    assert collect_cells(tmp_path / "cells") == before and len(before[0]) == 3
    with pytest.raises(StoreError, match="no cells here"):
        collect_cells(tmp_path)


def test_a_damaged_cell_is_named(make, tmp_path):
    Grid(CELLS, make(), tmp_path).run()
    for path, text in zip(sorted(tmp_path.glob("*-p50-*.json")), ('{"id": ', "{}")):
        path.write_text(text)
    cells, left_out = collect_cells(tmp_path)
    assert [c["id"] for c in cells] == ["base-s0"]
    assert sum("damaged, delete it and run again" in w for w in left_out) == 2


def test_a_failing_cell_leaves_the_others_alone(make, tmp_path):
    class Fails(Retraining):
        def train(self, cell):
            if cell.method == "oracle":
                raise RuntimeError("out of memory")
            return Retraining.train(self, cell)

    good = make()
    bad = Fails(good.splits, make_model, good.recipe, good.stores)
    failed = Grid(CELLS, bad, tmp_path).run()
    assert [c.id for c in failed] == ["oracle-roar-channel_mean-p50-s0"]
    assert "out of memory" in next(tmp_path.glob("*.failed.txt")).read_text()
    assert len(collect_cells(tmp_path)[0]) == 2
    assert Grid(CELLS, good, tmp_path).run() == {}
    assert not list(tmp_path.glob("*.failed.txt")) and len(collect_cells(tmp_path)[0]) == 3


def test_an_error_of_every_cell_ends_the_run_and_changes_no_record(make, tmp_path):
    Grid(CELLS[:1], make(), tmp_path).run()
    before = contents(tmp_path)

    class Flat(nn.Module):
        def __init__(self, seed):
            super().__init__()
            torch.manual_seed(seed)
            self.weight = nn.Parameter(torch.randn(3))

        def forward(self, x):
            raise ModelError("of no use")

    with pytest.raises(ModelError, match="of no use"):
        Grid(CELLS, make(make_model=Flat, model=dict(arch="Flat")), tmp_path).run()
    assert contents(tmp_path) == before


def test_the_masks_alone(make, world, tmp_path):
    cells = grid(["oracle"], ["mask_only"], percentiles=[25])
    setup = make()
    splits = masked_splits(world[0], setup.ranks("oracle"), cells[1])
    assert isinstance(splits.train, MaskedSet)
    images = next(splits.train.batches(8)).images
    assert set(images.unique().tolist()) == {0, 1} and images.mean() == 0.75
    Grid(cells, setup, tmp_path).run()
    found = collect_cells(tmp_path)[0]
    assert [c["metric"] for c in found] == ["none", "mask_only"]
    assert "imputation" not in found[1]["spec"]


def test_a_users_imputation_is_part_of_the_cell(make, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "mine_of_retraining.py").write_text(
        "def black(image, mask):\n    return image * 0\n"
    )
    name = "mine_of_retraining.black"
    cells = grid(["oracle"], imputations=[name], percentiles=[50])
    job = Grid(cells, make(imputations=[name]), tmp_path / "cells").jobs[1]
    assert job.spec["imputation"] and json.loads(json.dumps(job.spec)) == job.spec
    assert Grid(CELLS, make(), tmp_path / "cells").jobs[1].spec["imputation"] is None


def paint(image, mask, colour):
    return torch.full_like(image, colour)


def test_the_settings_of_an_imputation_are_part_of_a_cell():
    splits = Splits(*(shapes(20, seed=s) for s in range(3)))
    one, two = (partial(paint, colour=c) for c in (0.1, 0.9))
    setups = [Retraining(splits, None, imputations=[i]) for i in (one, two)]
    (name,) = {name for s in setups for name in s.imputations}
    assert name.endswith("test_retraining.paint")
    sources = [source_hash(s.imputations[name].source) for s in setups]
    assert sources[0] != sources[1]
    with pytest.raises(ConfigError, match="two have the same name"):
        Retraining(splits, None, imputations=[one, two])


def test_what_an_interrupted_writing_left_is_no_result(tmp_path):
    update_index(tmp_path, {}, ["base-s0"])
    cell = dict(id="base-s0", method="none", percentile=0, seed=0, spec={})
    for name in ("base-s0-0123abcd.json", ".base-s0-0123abcd.json.x1y2.json"):
        write_json(tmp_path / name, cell)
    assert collect_cells(tmp_path) == ([dict(cell, filter="")], [])


def test_filtered_copies_are_cells_of_their_own():
    plain = grid(["a", "b"], ["roar", "kar", "mask_only"], percentiles=[0, 30, 60], seeds=[0, 1])
    cells = grid(
        ["a", "b"],
        ["roar", "kar", "mask_only"],
        percentiles=[0, 30, 60],
        seeds=[0, 1],
        filters=FILTERS,
    )
    assert cells[: len(plain)] == plain
    copies = cells[len(plain) :]
    assert len(copies) == len(FILTERS) * 2 * 2 * 2 * 2  # methods, metrics, percentiles, seeds
    assert len({c.id for c in cells}) == len(cells)
    assert {c.metric for c in copies} == {"roar", "kar"}
    assert copies[0].id == "a+maximum3-roar-channel_mean-p30-s0"
    assert grid([], filters=FILTERS) == grid([])


def test_plain_cells_keep_the_names_that_they_had(make, tmp_path):
    "A cell without a filter is described, and hashed, as it was when cells had none"
    cells = grid(["oracle"], percentiles=[50], filters=["gaussian1"])
    assert "filter" not in cells[1].facts and cells[2].facts["filter"] == "gaussian1"
    base, plain, copy = Grid(cells, make(), tmp_path).jobs
    described = dict(
        method="oracle",
        metric="roar",
        order="morf",
        imputation="channel_mean",
        percentile=50,
        seed=0,
    )
    digest = fingerprint(dict(cell=described, **plain.spec))[:8]
    assert plain.path.name == f"oracle-roar-channel_mean-p50-s0-{digest}.json"
    assert copy.spec == plain.spec and copy.path != plain.path


def test_a_filtered_copy_is_ranked_by_its_filtered_maps(make, world, tmp_path):
    setup = make(tie_seed=4)
    for name in ("maximum3", "gaussian2"):
        maps = torch.as_tensor(open_maps(world[1]["random"]["test"])[:])
        expected = rank(FILTERS[name](maps), 4)
        assert torch.equal(setup.ranks("random", name)["test"], expected)
    assert not torch.equal(setup.ranks("random")["test"], expected)
    cells = grid(["random"], percentiles=[50], filters=["gaussian2"])
    assert Grid(cells, setup, tmp_path).run() == {}
    found, left_out = collect_cells(tmp_path)
    assert [c["filter"] for c in found] == ["", "", "gaussian2"] and left_out == []
    assert [c["method"] for c in found] == ["none", "random", "random"]
    Grid(cells[:2], setup, tmp_path).run()
    assert collect_cells(tmp_path) == (found, [])  # without an audit they stay
