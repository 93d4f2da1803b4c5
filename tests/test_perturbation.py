"""Protocols without retraining: loops that follow the definitions, one explained class, the door,
files that are resumed, and folders that are read alone."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import zarr
from scipy.integrate import trapezoid
from torch import nn

from repo import ROOT
from roar_nb.core import ConfigError, DataError, ModelError, StoreError
from roar_nb.filters import FILTERS
from roar_nb.images import ImageSet
from roar_nb.imputation import get_imputation
from roar_nb.metrics import METRICS
from roar_nb.perturbation import (
    Perturbation,
    ResponseFile,
    collect_responses,
    lerf_morf,
    perturb,
    responses,
)
from roar_nb.protocols import ARRAYS, PROTOCOLS, Protocol, measure_removal, ranks_of
from roar_nb.removal import rank

MEAN, STD = [0.5, 0.4, 0.3], [0.2, 0.3, 0.25]
NORM = dict(mean=MEAN, std=STD)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def model():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 6 * 5, 4)
    return nn.Sequential(*layers).eval().requires_grad_(False)


@pytest.fixture
def images():
    return random(7, 3, 6, 5, seed=1) * 2


@pytest.fixture
def maps():
    return random(7, 6, 5, seed=2)


def removed(image, relevance, percentile, order, value=0.0):
    "One image without its most, or least, relevant pixels"
    k = int(np.floor(percentile / 100 * relevance.numel() + 0.5))
    by_relevance = np.argsort(relevance.flatten().numpy())
    gone = by_relevance[len(by_relevance) - k :] if order == "morf" else by_relevance[:k]
    out = image.clone().flatten(1)
    out[:, gone.copy()] = value if np.isscalar(value) else value.flatten(1)[:, gone.copy()]
    return out.view(image.shape)


def test_lerf_morf_is_the_loop_of_its_definition(model, images, maps):
    rows, percentiles = [], [0, 10, 33, 50, 100]
    for order in ("morf", "lerf"):
        for p in percentiles:
            found = []
            for x, m in zip(images, maps):
                before = model(x[None]).softmax(1)[0]
                c = before.argmax()
                after = model(removed(x, m, p, order)[None]).softmax(1)[0]
                change = float(abs(before[c] - after[c]) / before[c] * 100)
                found.append((change, float(after[c]), float(after.argmax() == c)))
            rows.append((order, p, *np.mean(found, 0)))
    columns = ["order", "percentile", "deviation", "probability", "accuracy"]
    expected = pd.DataFrame(rows, columns=columns)
    got = lerf_morf(model, images, maps, percentiles, batch_size=3)
    pd.testing.assert_frame_equal(got, expected, check_dtype=False, rtol=1e-4, atol=1e-4)
    assert lerf_morf(model, images, maps, 33).percentile.tolist() == [33, 33]


def test_regions_are_the_loop_of_their_definition(model, images, maps):
    protocol = PROTOCOLS["region_perturbation"](region_size=3, imputation="channel_mean")
    r = responses(model, images, maps, protocol, batch_size=4)
    curves = {(c.metric, c.order): c for c in protocol.measure(r)}
    f = dict(morf=[], lerf=[])
    for x, m in zip(images, maps):
        c, corners = model(x[None]).argmax(), [(i, j) for i in (0, 3) for j in (0, 3)]
        corners.sort(key=lambda at: m[at[0] : at[0] + 3, at[1] : at[1] + 3].mean())
        for order in f:
            y, path = x.clone(), []
            for step in [None, *(corners if order == "lerf" else corners[::-1])]:
                if step:
                    y[:, step[0] : step[0] + 3, step[1] : step[1] + 3] = 0
                path.append(float(model(y[None]).softmax(1)[0, c]))
            f[order].append(path)
    morf, lerf = np.array(f["morf"]), np.array(f["lerf"])
    for step in range(5):
        mean = np.mean([morf[:, 0] - morf[:, k] for k in range(step + 1)], 0)
        assert np.allclose(curves["aopc", "morf"].values[0, :, step], mean, atol=1e-5)
        gap = np.mean([lerf[:, k] - morf[:, k] for k in range(step + 1)], 0)
        assert np.allclose(curves["abpc", "both"].values[0, :, step], gap, atol=1e-5)
    assert r.protocol.percentiles == (0, 25, 50, 75, 100)


def test_narrow_regions_at_the_edges():
    m = torch.zeros(1, 5, 7)
    m[0, 0, 0], m[0, 4, 6], m[0, 2, 3] = 3, 9, -1
    ranks = ranks_of(m, 3)
    assert ranks[0, ::3, ::3][[0, 1, 0], [0, 2, 1]].tolist() == [4, 5, 0]
    assert ranks[0, 3:, 6:].unique().tolist() == [5]


def test_small_regions_at_the_edges_are_neither_first_nor_last():
    ranks = ranks_of(torch.rand(400, 32, 32, generator=torch.Generator().manual_seed(0)), 9)
    at_the_edge = ranks[:, 31, ::9].float()  # of 16 regions, three rows of whole ones
    assert abs(float(at_the_edge.mean()) - 7.5) < 0.5
    assert torch.equal(ranks_of(torch.ones(1, 32, 32), 9), rank_of_ones())


def rank_of_ones():
    "Sixteen regions of equal relevance, ties broken by the seed"
    order = rank(torch.ones(1, 4, 4))
    return order.repeat_interleave(9, 1).repeat_interleave(9, 2)[:, :32, :32]


def test_insertion_and_deletion_are_the_loop_of_their_definition(model, images, maps):
    protocol = PROTOCOLS["insertion_deletion"](steps=5)
    r = responses(model, images, maps, protocol, **NORM)
    everything = torch.ones(len(images), 6, 5, dtype=bool)
    blurred = get_imputation("blur")(images, everything, MEAN, STD)
    at, expected = np.linspace(0, 100, 6), {}
    for order, fill in (("morf", torch.zeros_like(images)), ("lerf", blurred)):
        found = []
        for x, m, value in zip(images, maps, fill):
            c = model(x[None]).argmax()
            altered = torch.stack([removed(x, m, p, order, value) for p in at])
            found.append(model(altered).softmax(1)[:, c].numpy())
        expected[order] = np.array(found)
    curves = {c.metric: c for c in protocol.measure(r)}
    for name, order in (("deletion", "morf"), ("insertion", "lerf")):
        assert np.allclose(curves[name].values, expected[order], atol=1e-5)
        area = trapezoid(expected[order], at / 100, axis=1)
        assert np.allclose(curves[f"{name}_auc"].areas, area, atol=1e-5)
        assert np.allclose(curves[name].areas, area, atol=1e-5)


def test_the_class_that_is_explained_is_the_class_that_is_watched(model, images, maps):
    "Maps that explain the label are measured by the label's probability"
    p = model(images).softmax(1)
    labels = (p.argmax(1) + torch.arange(7) % 2) % 4
    r = responses(model, images, maps, "lerf_morf", labels, target=labels)
    assert np.allclose(r.clean, p[torch.arange(7), labels], atol=1e-6)
    assert (r.target == labels.numpy()).all()
    wrong = labels.numpy() != p.argmax(1).numpy()
    assert wrong.any() and (r.holds[:, 0] == ~wrong).all() and (r.correct == r.holds).all()
    predicted = responses(model, images, maps, "lerf_morf", labels)
    assert (predicted.target == p.argmax(1).numpy()).all() and predicted.holds[:, 0].all()
    assert not np.allclose(predicted.probability[wrong], r.probability[wrong])


def test_one_class_for_all_images(model, images, maps):
    r = responses(model, images, maps, "lerf_morf", labels=1, target=2)
    assert set(r.label) == {1} and set(r.target) == {2}


def test_a_relative_change_is_finite_where_the_class_is_impossible(maps, images):
    class Certain(nn.Module):
        def forward(self, x):
            return torch.tensor([[500.0, 0.0]]).repeat(len(x), 1) + 0 * x.sum()

    r = responses(Certain(), images, maps, "lerf_morf", target=1)
    assert all(np.isfinite(c.values).all() for c in measure_removal(r))


def test_fractions_are_exact(model, images, maps):
    protocol = PROTOCOLS["region_perturbation"](region_size=2, steps=3, repetitions=10)
    r = responses(model, images, maps, protocol, **NORM)
    assert r.holds.dtype == np.float64
    assert set(np.round(r.holds * 10).flatten() / 10) == set(r.holds.flatten())


def test_what_draws_no_random_numbers_is_not_repeated(model, images, maps):
    runs = []
    model.register_forward_hook(lambda *_: runs.append(1))
    protocol = PROTOCOLS["region_perturbation"](
        region_size=2, steps=1, imputation="channel_mean", repetitions=10
    )
    responses(model, images, maps, protocol)
    assert len(runs) == 1 + protocol.for_size((6, 5)).passes == 3


def test_two_imputations_of_one_order_stay_apart(model, images, maps):
    fills = ["channel_mean", "image_mean", [0.5, 0.5, 0.5]]
    both = PROTOCOLS["lerf_morf"](percentiles=(50,), imputation=fills)
    together = {
        c.imputation: c for c in measure_removal(responses(model, images, maps, both, **NORM))
    }
    for fill in fills:
        alone = PROTOCOLS["lerf_morf"](percentiles=(50,), imputation=fill)
        curve = measure_removal(responses(model, images, maps, alone, **NORM))[-1]
        assert (together[curve.imputation].values == curve.values).all()
    with pytest.raises(ConfigError, match="different removals"):
        PROTOCOLS["lerf_morf"](imputation=["channel_mean", "channel_mean"])


def test_a_mean_fill_in_both_orders_shares_nothing_but_the_clean_images(model, images, maps):
    r = responses(model, images, maps, "lerf_morf")
    assert (r.curve("probability", "morf", "channel_mean")[:, 0] == r.clean).all()
    assert (r.curve("probability", "lerf", "channel_mean")[:, 0] == r.clean).all()


class Twofold(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    "change, error, words",
    [
        (dict(maps=random(7, 4, 5)), DataError, "do not fit"),
        (dict(maps=random(6, 6, 5)), DataError, "do not fit"),
        (dict(protocol="lerf_mrf"), ConfigError, "did you mean 'lerf_morf'"),
        (
            dict(protocol="road"),
            ConfigError,
            "road: imputation noisy_linear needs the mean and std",
        ),
        (dict(protocol="region_perturbation"), ConfigError, "uniform needs the mean and std"),
        (dict(mean=[0.5], std=[0.2]), ConfigError, "mean: 1 numbers for images of 3 channels"),
        (dict(images=random(0, 3, 6, 5), maps=random(0, 6, 5)), DataError, "at least one image"),
        (dict(images=random(7, 6, 5, 3)), DataError, "looks like"),
        (dict(images=(random(7, 3, 6, 5) * 9).byte()), DataError, "normalised floats"),
        (dict(labels=[0, 1]), DataError, "labels: expected 7 classes, one for each image"),
        (dict(labels=[0.5] * 7), DataError, "labels: expected class indices"),
        (dict(target=[0, 1]), DataError, "target: expected 7 classes"),
        (dict(target=[0, 1, 2, 3, 4, 5, 6]), DataError, "in 0 to 3"),
        (dict(model=Twofold()), ModelError, "not tuple"),
        (dict(model=nn.Sequential(nn.Flatten(), nn.Linear(90, 1))), ModelError, "two classes"),
        (dict(precision="fp23"), ConfigError, "precision"),
    ],
)
def test_the_door(model, images, maps, change, error, words):
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    given = dict(model=model, images=images, maps=maps, protocol="lerf_morf", **{}) | change
    with pytest.raises(error, match=words):
        responses(**given)
    assert "target" in change or not seen


@pytest.mark.parametrize(
    "what, error, words", [("images", ModelError, "image 2"), ("maps", DataError, "image 2")]
)
def test_values_that_are_not_numbers_are_named_by_image(model, images, maps, what, error, words):
    given = dict(images=images, maps=maps)
    given[what] = given[what].index_fill(0, torch.tensor(2), float("nan"))
    with pytest.raises(error, match=words):
        responses(model, given["images"], given["maps"], batch_size=2)


@pytest.mark.parametrize(
    "wrong, words",
    [
        (dict(percentiles=(101,)), "101 is impossible"),
        (dict(percentiles=("10",)), "'10' is impossible"),
        (dict(percentiles=()), "no percentiles"),
        (dict(removals=(("mrf", "blur"),)), "did you mean 'morf'"),
        (dict(removals=()), "different removals"),
        (dict(removals=(("morf", "blurr"),)), "imputation of mine.*did you mean 'blur'"),
    ],
)
def test_an_impossible_protocol_is_refused(wrong, words):
    right = dict(name="mine", percentiles=(10,), removals=(("morf", "blur"),))
    with pytest.raises(ConfigError, match=words):
        Protocol(**(right | wrong), measure=measure_removal)


def test_settings_are_checked_by_name():
    with pytest.raises(
        ConfigError, match="road: no setting 'percentile'; did you mean 'percentiles'"
    ):
        PROTOCOLS["road"](percentile=(10,))
    with pytest.raises(ConfigError, match="road: expected different removals"):
        PROTOCOLS["road"](imputation=[])
    assert PROTOCOLS["region_perturbation"].settings["region_size"] == 9
    with pytest.raises(ConfigError, match="must return a Protocol, not a dict"):
        PROTOCOLS.find(dict)()


def test_arrays_and_stores_serve_as_maps(model, images, maps, tmp_path):
    expected = responses(model, images, maps, batch_size=3).probability
    stored = zarr.create_array(str(tmp_path / "a.zarr"), data=maps.numpy(), chunks=(2, 6, 5))
    for given in (maps.numpy(), maps[:, None], stored):
        assert (responses(model, images.numpy(), given, batch_size=3).probability == expected).all()
    assert not any(p.requires_grad for p in model.parameters())


# files


@pytest.fixture
def ds():
    pixels = torch.randint(256, (40, 3, 6, 5), generator=torch.Generator().manual_seed(3))
    labels = torch.arange(40) % 4
    return ImageSet(pixels.byte(), labels, "abcd", MEAN, STD, "noise")


@pytest.fixture
def setup(model, ds, tmp_path):
    protocols = [
        PROTOCOLS["lerf_morf"](percentiles=(10, 50)),
        PROTOCOLS["insertion_deletion"](steps=4),
    ]
    index = torch.arange(0, 40, 2)
    return Perturbation(model, ds, protocols, tmp_path / "perturb", index=index, batch_size=8)


@pytest.fixture
def found():
    return random(40, 6, 5, seed=4)


def contents(folder):
    return {p: p.stat().st_mtime_ns for p in folder.rglob("*") if p.is_file()}


def test_a_finished_file_is_not_made_again(setup, found):
    files = perturb(setup, "gradcam", found)
    before = contents(setup.folder)
    perturb(replace(setup, model=None), "gradcam", found)
    assert contents(setup.folder) == before and all(f.complete for f in files)
    assert (files[0].responses.index == setup.index.numpy()).all()


def test_an_interrupted_run_goes_on(setup, found, model, tmp_path):
    class Stops(nn.Module):
        "Fails at its 30th forward pass"

        left = 30

        def forward(self, x):
            self.left -= 1
            if self.left < 0:
                raise RuntimeError("power cut")
            return model(x)

    with pytest.raises(RuntimeError, match="power cut"):
        perturb(replace(setup, model=Stops()), "gradcam", found)
    jobs = setup.jobs("gradcam")
    assert [ResponseFile(j).done for j in jobs] == [16, 16]
    assert collect_responses(setup.folder) == (
        [],
        ["gradcam, insertion_deletion: 16 of 20 images", "gradcam, lerf_morf: 16 of 20 images"],
    )
    resumed = perturb(setup, "gradcam", found)
    whole = perturb(replace(setup, folder=tmp_path / "whole"), "gradcam", lambda b: found[b.index])
    for a, b in zip(resumed, whole):
        for k in ARRAYS:
            assert (getattr(a.responses, k) == getattr(b.responses, k)).all()


def test_a_damaged_file_is_named(setup, found):
    path = perturb(setup, "gradcam", found)[0].job.path
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(StoreError, match=f"{path.name} is not readable.*delete it"):
        perturb(setup, "gradcam", found)
    measured, left_out = collect_responses(setup.folder)
    assert [m.protocol for m in measured] == ["insertion_deletion"]
    assert f"lerf_morf/{path.name}: damaged" in left_out[0]
    path.unlink()
    perturb(setup, "gradcam", found)
    assert len(collect_responses(setup.folder)[0]) == 2


def test_a_folder_is_read_alone(setup, found):
    files = perturb(setup, "gradcam", found)
    measured, left_out = collect_responses(setup.folder)
    assert left_out == []
    got = {(c.method, c.metric, c.order): c for m in measured for c in m.curves}
    for f in files:
        for c in f.job.protocol.measure(f.responses):
            read = got.pop((c.method, c.metric, c.order))
            assert (read.values == c.values).all() and read.imputation == c.imputation
            assert np.array_equal(read.percentiles, c.percentiles, equal_nan=True)
    assert got == {}
    accuracy = (setup.model(next(setup.ds.batches(40)).images).argmax(1) == setup.ds.labels)[::2]
    assert measured[0].accuracy == accuracy.double().mean()


def test_a_narrower_experiment_loses_nothing(setup, found):
    for m in ("a", "b"):
        perturb(setup, m, found, dict(method=m))
    perturb(
        replace(setup, protocols=setup.protocols[:1], methods=("a",)), "a", found, dict(method="a")
    )
    measured, left_out = collect_responses(setup.folder)
    assert len(measured) == 4 and left_out == []


def test_filtered_copies_are_what_filtered_maps_give(setup, found, tmp_path):
    calls = []

    def maps_of(batch):
        calls.append(len(batch.index))
        return found[batch.index]

    audit = replace(setup, filters=("maximum3", "block4"))
    files = perturb(audit, "gradcam", maps_of)
    assert sum(calls) == 20  # once for each image
    names = [(f.job.filter, f.job.protocol.name) for f in files]
    assert names == [(f, p.name) for f in ("", "maximum3", "block4") for p in setup.protocols]
    for name in ("", "maximum3", "block4"):
        maps = FILTERS[name](found) if name else found
        alone = perturb(replace(setup, folder=tmp_path / f"alone{name}"), "gradcam", maps)
        mine = [f for f in files if f.job.filter == name]
        for a, b in zip(mine, alone, strict=True):
            assert all((getattr(a.responses, k) == getattr(b.responses, k)).all() for k in ARRAYS)
            if not name:
                assert a.job.path.name == b.job.path.name


def test_curves_of_filtered_copies_differ_from_plain_ones_by_their_filter(setup, found):
    perturb(setup, "a", found, dict(method="a"))
    before = contents(setup.folder)
    audit = replace(setup, filters=("gaussian1",), methods=("a", "b"))
    perturb(audit, "a", found, dict(method="a"))
    after, index = contents(setup.folder), setup.folder / "index.json"
    assert all(after[path] == time for path, time in before.items() if path != index)
    measured, left_out = collect_responses(setup.folder)
    assert [m.filter for m in measured] == ["", "", "gaussian1", "gaussian1"]
    for plain, copy in zip(measured[:2], measured[2:], strict=True):
        for p, c in zip(plain.curves, copy.curves, strict=True):
            assert c.filter == "gaussian1" and p.filter == ""
            assert replace(c, filter="", values=p.values) == replace(p, values=p.values)
    assert left_out == [
        "b, lerf_morf: not measured yet",
        "b, insertion_deletion: not measured yet",
        "b+gaussian1, lerf_morf: not measured yet",
        "b+gaussian1, insertion_deletion: not measured yet",
    ]


def test_what_is_left_out_is_said(setup, found):
    perturb(setup, "a", found, dict(method="a"))
    wider = [PROTOCOLS["lerf_morf"](percentiles=(10, 50, 80)), setup.protocols[1]]
    perturb(replace(setup, protocols=wider, methods=("a", "b")), "a", found, dict(method="a"))
    measured, left_out = collect_responses(setup.folder)
    assert [len(m.curves[0].percentiles) for m in measured if m.protocol == "lerf_morf"] == [4]
    assert "protocol of lerf_morf: others now" in left_out[0]
    assert left_out[1:] == [
        "b, lerf_morf: not measured yet",
        "b, insertion_deletion: not measured yet",
    ]
    perturb(replace(setup, seed=1), "a", found, dict(method="a"))
    assert "seed: 0 → 1" in " ".join(collect_responses(setup.folder)[1])
    perturb(replace(setup, seed=1), "a", found, dict(method="other"))
    assert "maps of a: others now" in " ".join(collect_responses(setup.folder)[1])


def test_a_failed_step_changes_no_record(setup, found, model):
    perturb(setup, "a", found)
    before = contents(setup.folder)
    with pytest.raises(ModelError):
        perturb(replace(setup, model=nn.Flatten(start_dim=0), seed=1), "a", found)
    with pytest.raises(DataError, match="do not fit"):
        perturb(replace(setup, seed=1), "a", found[:5])
    assert contents(setup.folder) == before


def test_target_label_has_files_of_its_own(setup, found, ds):
    labels = replace(setup, target=ds.labels)
    paths = {f.job.path for s in (setup, labels) for f in perturb(s, "a", found)}
    assert len(paths) == 4
    r = perturb(labels, "a", found)[0].responses
    assert (r.target == r.label).all()


def test_one_name_for_one_protocol(model, ds, tmp_path):
    with pytest.raises(ConfigError, match="each name must be there once"):
        Perturbation(model, ds, ["road", "road"], tmp_path)
    with pytest.raises(StoreError, match="no responses here"):
        collect_responses(tmp_path)


MINE = """
from roar_nb.metrics import METRICS, Metric
from roar_nb.protocols import Protocol

METRICS.add(Metric("kept", "Kept", "share of predictions that hold", better={"morf": "low"}))


def measure(r):
    return [r.as_curve("kept", r.curve("holds", "morf", "zero"), "morf", "zero")]


def kept(percentiles=(10, 20)):
    return Protocol("kept", percentiles, (("morf", "zero"),), measure)
"""


def test_a_protocol_of_ones_own_by_dotted_path(setup, found, tmp_path, monkeypatch):
    (tmp_path / "mine_of_test.py").write_text(MINE)
    monkeypatch.syspath_prepend(tmp_path)
    own = replace(setup, protocols=["mine_of_test.kept", "road"], folder=tmp_path / "own")
    perturb(own, "a", found)
    monkeypatch.delitem(METRICS, "kept")
    measured, _ = collect_responses(own.folder)
    assert {c.metric for m in measured for c in m.curves} == {"kept", "road", "road_probability"}
    assert METRICS["kept"].title == "Kept" and METRICS["kept"].better == {"morf": "low"}
    code = (
        "import sys; from roar_nb.perturbation import collect_responses; "
        "print(collect_responses(sys.argv[1])[0][0].curves[0].unit, 'mine_of_test' in sys.modules)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(own.folder)], capture_output=True, text=True, cwd=ROOT
    )
    assert ran.stdout.strip() == "fraction False", ran.stderr


def test_an_edited_protocol_is_another_one(setup, found, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    for i, text in enumerate((MINE, MINE + "\n# edited\n")):
        (tmp_path / f"mine_{i}.py").write_text(text)
    specs = [replace(setup, protocols=[f"mine_{i}.kept"]).protocols[0].spec for i in (0, 1)]
    assert specs[0]["measure"] != specs[1]["measure"]
    assert json.loads(json.dumps(specs[0])) == specs[0]


def test_maps_are_ranked_as_the_retraining_protocols_rank_them(model, images):
    ties = torch.zeros(7, 6, 5)
    assert (ranks_of(ties, 1, seed=5) == rank(ties, 5)).all()


@pytest.mark.parametrize(
    "protocol, settings",
    [
        ("insertion_deletion", dict(steps=0)),
        ("insertion_deletion", dict(steps="many")),
        ("region_perturbation", dict(region_size=0)),
        ("region_perturbation", dict(repetitions=0)),
        ("region_perturbation", dict(steps=-1)),
    ],
)
def test_counts_of_a_protocol_are_checked(protocol, settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=f"{protocol}: {name} .* is impossible; expected an int"):
        PROTOCOLS[protocol](**settings)
