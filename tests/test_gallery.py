"Images, their maps, and what removal leaves of them: from memory, from a file, from a run."

import io
import json
import shutil

import numpy as np
import pytest
import torch
import zarr
from matplotlib.figure import Figure
from PIL import Image

from repo import ROOT
from roar_nb import evaluation, steps
from roar_nb.config import config_to_yaml, load_config
from roar_nb.core import ConfigError, DataError, StoreError
from roar_nb.gallery import Gallery, choose_images, disagreement, show_maps
from roar_nb.images import ImageSet, normalise
from roar_nb.metrics import Curve
from roar_nb.models import ResNet8
from roar_nb.removal import MaskedSet, rank
from roar_nb.run import open_run

IMAGES = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
MAPS = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(1))
TINY = ROOT / "tests/tiny.yml"
HOSTILE = ["<script>alert(1)</script>", "$\\frac{", "a\nb", "", "ü" * 300]


@pytest.mark.parametrize("kind", ["tensor", "numpy", "zarr", "dict", "half", "channels"])
def test_maps_as_they_come(kind, tmp_path):
    maps = torch.randn(3, 8, 8)
    if kind == "zarr":
        stored = zarr.create_array(
            tmp_path / "m.zarr", shape=(3, 8, 8), dtype="f4", chunks=(2, 8, 8)
        )
        stored[:] = maps.numpy()
        maps = zarr.open_array(tmp_path / "m.zarr", mode="r")
    given = {
        "numpy": maps.numpy() if kind == "numpy" else None,
        "dict": {"a": maps, "b": np.asarray(maps)},
        "half": {"a": maps.half() if kind == "half" else maps},
        "channels": {"a": torch.randn(3, 3, 8, 8), "b": torch.randn(3, 1, 8, 8)},
    }.get(kind, maps)
    fig = show_maps(IMAGES.numpy() if kind == "numpy" else IMAGES, given)
    assert isinstance(fig, Figure)


@pytest.mark.parametrize(
    "images, maps, told",
    [
        (IMAGES.permute(0, 2, 3, 1), torch.rand(3, 8, 8), r"permute\(0, 3, 1, 2\)"),
        (IMAGES[0], torch.rand(8, 8), r"image\[None\]"),
        (IMAGES * 4 - 2, torch.rand(3, 8, 8), "mean= and std=.*denormalise"),
        ((IMAGES * 255).byte(), torch.rand(3, 8, 8), "divide by 255"),
        (IMAGES * float("nan"), torch.rand(3, 8, 8), r"\[0,1\], not \[nan"),
        (IMAGES, torch.rand(100, 8, 8), r"100 maps for 3 images: maps\[:3\]"),
        (IMAGES, {"grad": torch.rand(3, 3, 4, 4)}, "grad: maps are"),
        (IMAGES, torch.rand(3, 4, 4), r"\(3, 8, 8\), not \(3, 4, 4\)"),
        (IMAGES, None, "only a Gallery has its own"),
    ],
)
def test_what_does_not_fit_is_refused(images, maps, told):
    with pytest.raises(DataError, match=told):
        show_maps(images, maps)


def test_the_normalisation_is_whole():
    with pytest.raises(ConfigError, match="both, or neither"):
        show_maps(IMAGES, MAPS, mean=[0.5] * 3)
    with pytest.raises(DataError, match="3 numbers each"):
        show_maps(IMAGES, MAPS, mean=[0.5], std=[0.5])


def test_titles_are_one_an_image():
    with pytest.raises(DataError, match="2 titles for 3 images"):
        show_maps(IMAGES, torch.rand(3, 8, 8), ["a", "b"])


def drawn(fig):
    "Everything is drawn, so that no text is refused"
    file = io.BytesIO()
    fig.savefig(file)
    return np.asarray(Image.open(file).convert("RGB"))


@pytest.mark.parametrize("overlay", [False, True])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, float("nan"), float("inf"), 1e-30, 1e30])
def test_constant_and_broken_maps_are_drawn(value, overlay):
    drawn(show_maps(IMAGES, torch.full((3, 8, 8), value), overlay=overlay))


def picture(fig, i=1):
    return fig.axes[i].images[0].get_array()


def test_signs_decide_the_colours():
    signed, plain = torch.linspace(-1, 1, 64).view(1, 8, 8), torch.linspace(0, 1, 64).view(1, 8, 8)
    fig = show_maps(IMAGES[:1], dict(signed=signed, plain=plain))
    low, high = picture(fig)[0, 0].astype(int), picture(fig)[-1, -1].astype(int)
    assert low[2] > low[0] + 50 and high[0] > high[2] + 50  # blue, red
    assert picture(fig, 2)[0, 0].max() < 10 and picture(fig, 2)[-1, -1].min() > 100


def test_one_method_has_one_kind_of_colours():
    "A method with a negative value in one image is signed in all"
    maps = torch.zeros(2, 8, 8)
    maps[0, 0, 0] = -1
    fig = show_maps(IMAGES[:2], maps)
    assert picture(fig, 3).min() > 240  # white, not black, is 0


def test_nothing_lies_over_pixels_that_do_not_count():
    maps = torch.zeros(1, 8, 8)
    maps[0, 0, 0] = 1
    seen = picture(show_maps(IMAGES[:1], maps, overlay=True))
    grey = (IMAGES[0].mean(0) * 255).numpy()
    assert np.abs(seen[1:].astype(float) - grey[1:, :, None]).max() <= 2


def test_normalised_images_look_like_those_in_01():
    how = dict(mean=[0.4, 0.5, 0.6], std=[0.2, 0.3, 0.1])
    x = normalise((IMAGES * 255).round().byte(), *how.values())
    pairs = picture(show_maps(x, MAPS, **how), 0), picture(show_maps(IMAGES, MAPS), 0)
    assert np.abs(np.subtract(*pairs, dtype=int)).max() <= 1


def gallery(n=3, channels=3, size=8, **facts):
    x, g = torch.rand(n, channels, size, size), torch.Generator().manual_seed(2)
    maps = {"a": torch.randn(n, size, size, generator=g), "b_c": torch.rand(n, size, size)}
    facts = dict(labels=[0] * n, predicted=[1] * n, classes=["cat", "dog"], rule="these") | facts
    return Gallery.of(x, maps, [0.5] * channels, [0.25] * channels, **facts)


def test_a_file_holds_all_of_it(tmp_path):
    g = gallery(index=[5, 7, 9], seed=3, about={"k": [1]})
    g.save(tmp_path / "g.npz")
    again = Gallery.load(tmp_path / "g.npz")
    for key, value in vars(g).items():
        if key == "maps":
            assert list(value) == list(again.maps)
            assert all(np.array_equal(value[k], again.maps[k]) for k in value)
        else:
            assert np.array_equal(value, getattr(again, key)), key
    assert [p.name for p in tmp_path.iterdir()] == ["g.npz"]
    before = (tmp_path / "g.npz").read_bytes()
    again.save(tmp_path / "g.npz")
    assert (tmp_path / "g.npz").read_bytes() == before


def test_damage_is_told_with_the_file(tmp_path):
    path = tmp_path / "g.npz"
    gallery().save(path)
    whole = path.read_bytes()
    for broken in (b"", whole[:100], whole[: len(whole) // 2], b"no zip", whole[:900] + b"xx"):
        path.write_bytes(broken)
        with pytest.raises(StoreError, match="g.npz is not a readable gallery"):
            Gallery.load(path)
    with pytest.raises(StoreError, match="none.npz"):
        Gallery.load(tmp_path / "none.npz")


@pytest.mark.parametrize("change", ["facts", "object", "unknown", "maps"])
def test_a_file_of_something_else_is_refused(change, tmp_path):
    path = tmp_path / "g.npz"
    gallery().save(path)
    arrays = dict(np.load(path))
    facts = json.loads(str(arrays["facts"]))
    if change == "facts":
        del arrays["facts"]
    elif change == "object":
        arrays["maps"] = np.array([{"code": 1}], dtype=object)  # a pickle
    elif change == "unknown":
        arrays["facts"] = json.dumps(facts | {"later": 1})
    else:
        arrays["maps"] = arrays["maps"][:1]
    np.savez(path, **arrays)
    with pytest.raises(StoreError, match="not a readable gallery"):
        Gallery.load(path)


@pytest.mark.parametrize("scale", [1e-30, 1e-7, 1.0, 1e30])
def test_half_precision_keeps_small_and_large_maps(scale):
    maps = MAPS * scale
    g = Gallery.of(IMAGES, maps)
    ratio = torch.from_numpy(g.maps["map"]).double() / maps.double()
    spread = ratio / ratio.flatten(1).median(1).values[:, None, None] - 1
    assert spread.abs().max() < 1e-3


@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize("imputation", ["channel_mean", "noisy_linear", "zero"])
def test_what_is_left_is_what_a_masked_set_shows(order, imputation):
    pixels = (IMAGES * 255).round().byte()
    maps = torch.randint(-9, 9, (3, 8, 8)).float()  # with ties, the same in half precision
    ds = ImageSet(pixels, torch.zeros(3, dtype=torch.long), ["a"], mean=[0.4] * 3, std=[0.2] * 3)
    masked = MaskedSet(ds, rank(maps, 5), 30, order, imputation, 5)
    (batch,) = masked.batches(3)
    g = Gallery.of(normalise(pixels, ds.mean, ds.std), maps, ds.mean, ds.std, seed=5)
    expected = (batch.images * 0.2 + 0.4).clamp(0, 1) * 255
    found = torch.from_numpy(g.removed("map", 30, order, imputation))
    assert (found - expected).abs().max() <= 0.51


def test_ties_are_those_of_the_image_in_its_split():
    x, maps = IMAGES, torch.zeros(3, 8, 8)
    g = Gallery.of(x, maps, index=[9, 4, 7], seed=2)
    gone = torch.from_numpy(g.removed("map", 50, imputation=[1.0] * 3) == 255).all(1)
    assert torch.equal(gone, rank(maps, 2, [9, 4, 7]) >= 32)


def test_removal_needs_numbers_and_a_known_method():
    g = Gallery.of(IMAGES, {"mine": torch.full((3, 8, 8), float("nan"))}, index=[4, 5, 6])
    with pytest.raises(DataError, match="mine: the map of image 4 holds NaN"):
        g.removed("mine", 10)
    with pytest.raises(ConfigError, match="did you mean 'mine'"):
        g.removed("mines", 10)


def texts(fig):
    more = [t.get_text() for ax in fig.axes for t in (*ax.texts, ax.title)]
    return " ".join([*more, fig.get_supxlabel()]).replace("\n", " ")


def test_a_figure_of_removal_shows_what_was_asked_for():
    fig = gallery().show_removal(percentiles=[10, 50], order="both", image=2)
    assert sum(len(ax.images) for ax in fig.axes) == 1 + 2 * (1 + 4)
    told = texts(fig)
    assert "cat → dog" in told and "b c" in told
    assert "10 % removed, most relevant first" in told
    assert "50 % removed, least relevant first" in told and "become channel_mean" in told
    assert len(gallery().show_removal(methods="a").axes) == 2 * 4
    drawn(fig)


@pytest.mark.parametrize(
    "options, error, told",
    [
        (dict(image=3), DataError, "3 is not one of 3"),
        (dict(order="mrof"), ConfigError, "did you mean 'morf'"),
        (dict(methods=["c"]), ConfigError, "no maps of 'c'"),
        (dict(percentiles=[101]), ConfigError, "101"),
    ],
)
def test_a_figure_of_removal_refuses(options, error, told):
    with pytest.raises(error, match=told):
        gallery().show_removal(**options)


def test_an_imputation_that_is_not_here_is_replaced_and_told():
    fig = gallery().show_removal(imputation="my_fills.paint")
    assert "channel_mean, as my_fills.paint cannot be imported" in texts(fig)
    assert gallery().thumbnails(imputation="my_fills.paint")


@pytest.mark.parametrize("channels, size", [(1, 8), (3, 8), (3, 224), (1, 150)])
def test_grey_and_large_images(channels, size):
    g = gallery(2, channels, size)
    drawn(show_maps(g, overlay=True))
    drawn(g.show_removal(percentiles=[50]))
    rows = g.thumbnails(percentiles=[0, 50])
    for row in rows:
        files = [row["image"]]
        for m in row["methods"]:
            files += [m["overlay"], *(b for _, b in m["removed"])]
        for b in files:
            shown = Image.open(io.BytesIO(b))
            assert shown.format == "WEBP" and shown.size == (row["width"], row["height"])
            assert max(shown.size) == min(size, 96)
    first = rows[0]
    assert [p for p, _ in first["methods"][0]["removed"]] == [0, 50]
    if size == 8:  # without loss
        same = Image.open(io.BytesIO(first["image"])).convert("RGB")
        assert np.array_equal(np.moveaxis(np.asarray(same), 2, 0)[:channels], g.images[0])
    assert first["methods"][0]["removed"][0][1] == first["image"]


def test_images_keep_their_proportions():
    g = Gallery.of(torch.rand(1, 3, 60, 240), torch.rand(1, 60, 240))
    assert (g.thumbnails()[0]["width"], g.thumbnails()[0]["height"]) == (96, 24)


def test_hostile_names_are_text(tmp_path):
    x, maps = torch.rand(5, 3, 8, 8), {name: torch.rand(5, 8, 8) for name in HOSTILE}
    facts = dict(classes=HOSTILE, labels=range(5), predicted=[-1, 0, 1, 2, 99])
    g = Gallery.of(x, maps, **facts)
    g.save(tmp_path / "g.npz")
    g = Gallery.load(tmp_path / "g.npz")
    drawn(show_maps(g))
    drawn(g.show_removal(image=1))
    assert [row["label"] for row in g.thumbnails([10])] == HOSTILE
    assert g.thumbnails([10])[4]["predicted"] == "99"  # a class without a name
    assert g.thumbnails([10])[0]["predicted"] == ""


def curve(method, areas, **facts):
    values = np.array([areas, areas], float).T
    return Curve(method, "probability", "morf", "channel_mean", (0, 100), values, **facts)


def test_choices():
    a, b = curve("a", [1, 2, 3, 4, 5]), curve("b", [1, 2, 3, 5, 4])
    assert choose_images(9, 3)[0].tolist() == [0, 3, 6]
    assert choose_images(9, 0)[0].tolist() == [] and choose_images(2, 6)[0].tolist() == [0, 1]
    assert choose_images(9, 3)[1] == "3 test images, evenly spread"
    assert choose_images(5, 3, "first")[0].tolist() == [0, 1, 2]
    assert choose_images(2, 6, "first")[1] == "the first 2 test images"
    index, rule = choose_images(5, 2, "disagreement", [a, b])
    assert index.tolist() == [3, 4] and rule.endswith("the methods disagree most")
    others = [curve("a", [1, 2]), curve("b", [2, 1])]  # of other images
    for nothing in ([], [a], others, [a, curve("b", [1, 2, 3, 5, 4], filter="max3")]):
        index, rule = choose_images(5, 2, "disagreement", nothing)
        assert index.tolist() == [0, 1] and "no measurement compares" in rule
    with pytest.raises(ConfigError, match="disagreement"):
        choose_images(5, 2, "disagrement")


def test_disagreement_does_not_depend_on_the_unit():
    a, b = [1, 2, 3, 4, 5], [5, 1, 2, 3, 4]
    plain = disagreement([curve("a", a), curve("b", b)])
    assert np.allclose(plain, disagreement([curve("a", a), curve("b", np.multiply(b, 100))]))
    assert plain.argmax() == 0


# In memory


def small():
    return ResNet8(width=4), torch.randn(8, 3, 16, 16)


def test_evaluate_keeps_the_first_images():
    model, x = small()
    how = dict(mean=[0.5] * 3, std=[0.25] * 3)
    scores = evaluation.evaluate(model, x, range(8), ["gradient", "random"], "lerf_morf", **how)
    g = scores.gallery
    assert len(g) == 6 and list(g.maps) == ["gradient", "random"]
    assert g.rule == "the first 6 test images" and g.labels.tolist() == list(range(6))
    assert g.predicted.tolist() == model.eval()(x).argmax(1)[:6].tolist()
    drawn(show_maps(g))


def test_evaluate_without_a_normalisation_shows_stretched_colours():
    model, x = small()
    g = evaluation.evaluate(model, x, methods=["random"], protocols="lerf_morf").gallery
    assert "stretched" in g.rule and g.images.min() == 0 and g.images.max() == 255
    x = torch.randn(8, 4, 16, 16)  # infrared
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(1024, 3))
    scores = evaluation.evaluate(net, x, methods=["random"], protocols="lerf_morf")
    assert scores.gallery is None and any("no gallery" in n for n in scores.notes)


# Runs

PERTURB = (
    "pixel_perturbation_analysis={test_samples: 60, protocols: [lerf_morf], percentiles: [10]}"
)


def opened(folder, *changes):
    changes = ["data.n_train=300", "retrain_cls=~", "train_cls.nb_epochs=1", *changes]
    return open_run(TINY, changes, outdir=str(folder))


def go(run):
    "All steps but the report, which only reads"
    for step, section in steps.SECTIONS.items():
        if getattr(run.cfg, section):
            steps.STEPS[step](run)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("gallery") / "run"
    go(opened(folder, PERTURB))
    return folder


@pytest.fixture
def folder(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_a_run_keeps_a_gallery(folder):
    g = Gallery.load(folder / "gallery.npz")
    assert g.rule == "6 of 60 test images drawn at random, evenly spread"
    assert list(g.maps) == ["oracle", "smooth"] and len(g) == 6
    run = opened(folder, PERTURB)
    batch = next(run.split("test").batches(6, torch.from_numpy(g.index)))
    assert np.array_equal(g.labels, batch.labels)
    assert g.classes == list(run.split("test").classes)
    pixels = batch.images * torch.tensor(g.std)[:, None, None] + torch.tensor(g.mean)[:, None, None]
    assert np.abs(g.images - (pixels * 255).numpy()).max() < 0.51


def test_a_report_needs_neither_data_nor_stores(folder):
    for name in ("attributions", "train", "labels"):
        shutil.rmtree(folder / name)
    scores = steps.load(folder)
    assert len(scores.gallery) == 6
    (folder / "gallery.npz").write_bytes(b"broken")
    scores = steps.load(folder)
    assert scores.gallery is None and any("gallery.npz" in n for n in scores.notes)
    (folder / "gallery.npz").unlink()
    assert steps.load(folder).gallery is None


def test_what_has_not_changed_is_not_written(folder):
    path = folder / "gallery.npz"
    before = path.stat().st_mtime_ns, path.read_bytes()
    go(opened(folder, PERTURB))
    assert (path.stat().st_mtime_ns, path.read_bytes()) == before


@pytest.mark.parametrize("damage", [None, b"broken"])
def test_finished_runs_get_one_later(folder, damage):
    path = folder / "gallery.npz"
    before = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage)
    go(opened(folder, PERTURB))
    assert path.read_bytes() == before


def test_the_choice_may_change(folder):
    go(opened(folder, PERTURB, "gallery={images: 3, choose: disagreement}"))
    g = Gallery.load(folder / "gallery.npz")
    assert len(g) == 3 and "disagree most" in g.rule
    go(opened(folder, PERTURB, "gallery.images=0"))
    assert not (folder / "gallery.npz").exists()


def test_folders_of_before_have_no_such_section(folder):
    doc = load_config(folder / "config.yaml").model_dump()
    del doc["gallery"]
    (folder / "config.yaml").write_text(json.dumps(doc))
    assert load_config(folder / "config.yaml").gallery.images == 6
    steps.load(folder)
    assert "gallery:" in config_to_yaml(opened(folder, PERTURB).cfg)


def test_without_stores_maps_are_computed_for_these_images(tmp_path):
    changes = [
        "extract_cams=~",
        PERTURB,
        "pixel_perturbation_analysis.attribution_methods=[random]",
    ]
    run = opened(tmp_path / "run", *changes)
    run.cfg.gallery.choose = "disagreement"
    go(run)
    g = Gallery.load(tmp_path / "run/gallery.npz")
    assert list(g.maps) == ["random"] and "no measurement compares" in g.rule
    assert not (tmp_path / "run/attributions").exists()


def test_a_failure_stops_nothing(folder, monkeypatch, capsys):
    (folder / "gallery.npz").unlink()

    def broken(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(Gallery, "save", broken)
    go(opened(folder, PERTURB))
    assert "gallery: not made: disk full" in "".join(capsys.readouterr())
