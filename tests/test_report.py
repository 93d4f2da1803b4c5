"Figures, maps side by side, and the files of a report."

import numpy as np
import pytest
import torch
import zarr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from roar_nb.core import ConfigError, DataError
from roar_nb.metrics import Curve
from roar_nb.report import _spread, figure_metrics, show_maps, write_report
from roar_nb.results import Scores

from test_results import base, cell, curve, grid, over_images, scores

LONG = ["integrated_gradients_smoothgrad_squared_of_a_long_name", "random", "oracle"]


def titles(fig):
    return [ax.get_title(loc="left") for ax in fig.axes]


def dotted(ax):
    return [line for line in ax.lines if line.get_linestyle() == ":" and len(line.get_xdata()) > 2]


def masks(order):
    cells = [cell(m, p, 0, 0.3, "mask_only") for m in "abc" for p in (10, 30, 90)]
    return [{**c, "order": order} for c in cells]


@pytest.mark.parametrize("n", [1, 2, 12, 26])
def test_names_are_apart_and_inside(n):
    fig = scores(grid([*LONG, *(f"m{i}" for i in range(n))][:n])).plot("roar")
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    ax, renderer = fig.axes[0], canvas.get_renderer()
    names = [t for t in ax.texts if t.arrow_patch is not None]
    boxes = sorted((Text.get_window_extent(t, renderer) for t in names), key=lambda b: b.y0)
    assert len(names) == n
    assert all(a.y1 <= b.y0 + 3 for a, b in zip(boxes, boxes[1:]))
    assert all(b.x1 <= fig.bbox.x1 and 0 <= b.y0 and b.y1 <= fig.bbox.y1 for b in boxes)


@pytest.mark.parametrize("heights", [[0.5] * 8, [0, 0, 1, 1], list(np.linspace(0.2, 0.21, 10))])
def test_heights_are_spread_in_order(heights):
    out = _spread(heights, 0.1, 0, 1)
    assert np.diff(np.sort(out)).min() > 0.0999 and 0 <= out.min() and out.max() <= 1 + 1e-9
    assert (np.argsort(out, kind="stable") == np.argsort(heights, kind="stable")).all()


def test_figures_are_at_most_two_panels_wide():
    curves = [
        curve("a", [[1.0, 0.5]] * 9, order=o, imputation=i)
        for o in ("morf", "lerf")
        for i in ("zero", "blur", "noisy_linear")
    ]
    fig = over_images(curves).plot("road")
    assert len(fig.axes) == 6 and fig.get_figwidth() * fig.dpi == 1280


def test_unknown_metric_in_a_plot():
    with pytest.raises(ConfigError, match="did you mean 'roar'.*kar, roar"):
        scores(grid() + grid(metric="kar")[3:]).plot("raor")


def test_a_metric_of_ones_own_is_drawn():
    fig = over_images([curve(m, [[-3.0, 7.0]] * 9, "mine") for m in "ab"]).plot()
    assert titles(fig) == ["mine, most relevant first"]
    assert fig.axes[0].get_ylim()[0] < -3


def test_masks_are_drawn_into_the_panels_of_roar_and_kar():
    found = scores(grid() + grid(metric="kar")[3:] + masks("morf") + masks("lerf"))
    assert figure_metrics(found.summary) == ["roar", "kar"]
    fig = found.plot()
    assert [len(dotted(ax)) for ax in fig.axes] == [3, 3] and len(fig.legends) == 1


def test_masks_have_a_figure_where_nothing_else_shows_them():
    found = scores(grid() + masks("morf") + masks("lerf"))
    assert figure_metrics(found.summary) == ["roar", "mask_only"]  # lerf needs a panel of KAR
    alone = scores([base(0), *masks("morf")])
    fig = alone.plot()
    assert titles(fig) == ["Mask alone, most relevant first (higher: the mask tells more)"]
    assert fig.legends == []


def test_chance_is_drawn_for_accuracies_only():
    found = over_images(
        [curve("a", [[1.0, 0.5]] * 9, m) for m in ("road", "probability")], chance=0.1
    )
    shown = {
        m: "chance" in [t.get_text() for t in found.plot(m).axes[0].texts]
        for m in ("road", "probability")
    }
    assert shown == {"road": True, "probability": False}


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_report_removes_what_an_earlier_one_left(tmp_path):
    wide = scores(grid() + grid(metric="kar")[3:])
    wide = wide.join(over_images([curve(m, [[1.0, 0.5]] * 9) for m in "ab"]))
    write_report(wide, tmp_path)
    own = {"notes.txt", "figures/mine.png", "figures/paper.svg", "comparisons_of_mine.csv"}
    for name in own:
        (tmp_path / name).write_text("mine")
    first = names(tmp_path)
    assert {"figures/kar.svg", "figures/road.png", "comparisons.csv"} <= first
    files = write_report(scores(grid()), tmp_path)
    assert {p.relative_to(tmp_path).as_posix() for p in files} | own == names(tmp_path) - {
        "figures/index.json"
    }
    assert {"figures/kar.svg", "figures/road.png", "comparisons.csv"} & names(tmp_path) == set()


def test_a_tampered_list_removes_nothing_else(tmp_path):
    (tmp_path / "run/figures").mkdir(parents=True)
    kept = [tmp_path / "precious.csv", tmp_path / "run/config.yaml"]
    for path in kept:
        path.write_text("x")
    listed = '{"files": ["../precious.csv", "config.yaml", "figures/../config.yaml"]}'
    (tmp_path / "run/figures/index.json").write_text(listed)
    write_report(scores(grid()), tmp_path / "run")
    assert all(path.exists() for path in kept)


def test_the_same_scores_give_the_same_bytes(tmp_path):
    read = [
        {p.name: p.read_bytes() for p in write_report(scores(grid()), tmp_path / run)}
        for run in ("a", "b")
    ]
    assert read[0] == read[1] and len(read[0]) == 4


IMAGES = torch.rand(3, 3, 8, 8)


@pytest.mark.parametrize("kind", ["tensor", "numpy", "zarr", "dict", "half"])
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
    }.get(kind, maps)
    fig = show_maps(IMAGES.numpy() if kind == "numpy" else IMAGES, given)
    assert isinstance(fig, Figure)


@pytest.mark.parametrize(
    "images, maps, told",
    [
        (IMAGES.permute(0, 2, 3, 1), torch.rand(3, 8, 8), r"permute\(0, 3, 1, 2\)"),
        (IMAGES[0], torch.rand(8, 8), r"image\[None\]"),
        (IMAGES * 4 - 2, torch.rand(3, 8, 8), "denormalise"),
        ((IMAGES * 255).byte(), torch.rand(3, 8, 8), "divide by 255"),
        (IMAGES, torch.rand(100, 8, 8), r"100 maps for 3 images: maps\[:3\]"),
        (IMAGES, {"grad": torch.rand(3, 3, 8, 8)}, "grad.*sum over the channels"),
        (IMAGES, torch.rand(3, 4, 4), r"\(3, 8, 8\), not \(3, 4, 4\)"),
    ],
)
def test_what_does_not_fit_is_refused(images, maps, told):
    with pytest.raises(DataError, match=told):
        show_maps(images, maps)


def test_titles_are_one_an_image():
    with pytest.raises(DataError, match="2 titles for 3 images"):
        show_maps(IMAGES, torch.rand(3, 8, 8), ["a", "b"])


def test_numbers_are_drawn_as_points():
    curves = [
        Curve(m, "deletion_auc", "morf", "zero", (float("nan"),), np.full((9, 1), v))
        for m, v in (("a", 0.4), ("b", 0.2))
    ]
    ax = Scores.from_curves(curves, "d", "m").plot("deletion_auc").axes[0]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["a", "b"]  # the best on top
