"Curves, differences, areas and agreement, for reading and for print."

import itertools
import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text

from roar_nb.comparisons import tie_groups
from roar_nb.core import ConfigError
from roar_nb.figures import (
    SIZES,
    STYLES,
    _range,
    _spread,
    difference_rows,
    figure_metrics,
    figure_svg,
    method_styles,
    plot_agreement,
    save_figure,
    short_name,
)
from roar_nb.metrics import Curve
from roar_nb.results import Scores

LONG = ["integrated_gradients_smoothgrad_squared_of_a_long_name", "random", "oracle"]
HOSTILE = '<script>alert("#1")</script> $x & id="a" 0.12345'
KINDS = ["curves", "difference", "areas"]


def made(method, strength, metric="road", order="morf", at=(0, 10, 30, 50, 90), **more):
    "150 images that turn wrong, early or late"
    falls = 1.5**strength if order == "morf" else 1.5**-strength
    chances = 0.1 + 0.8 * (1 - np.array(at) / 100) ** falls
    images = np.random.default_rng(0).random((150, 1))
    facts = {"imputation": "noisy_linear", "protocol": "road"} | more
    return Curve(method, metric, order, percentiles=at, values=images < chances, **facts)


def of(curves, chance=0.1):
    return Scores.from_curves(curves, "Shapes", "ResNet8", chance=chance)


def some(n, metrics=("road",), orders=("morf",), **more):
    names = [*LONG, *(f"method_{i}" for i in range(n))][:n]
    each = itertools.product(enumerate(names), metrics, orders)
    return of([made(m, i % 7, metric, order, **more) for (i, m), metric, order in each])


def retrained(metrics, methods="abc", at=(0, 10, 30, 90)):
    "Metrics of retraining, each with its order"
    rng, curves = np.random.default_rng(0), []
    for (metric, order), method in itertools.product(metrics, methods):
        where = at[1:] if metric == "mask_only" else at
        values = rng.random((3, 60, len(where))) < 0.7
        facts = {"seeds": (0, 1, 2), "protocol": "retraining"}
        curves.append(Curve(method, metric, order, "channel_mean", where, values, **facts))
    return of(curves)


ROAR, KAR = ("roar", "morf"), ("kar", "lerf")
MASKS = [("mask_only", "morf"), ("mask_only", "lerf")]


def titles(fig):
    return [ax.get_title(loc="left") for ax in fig.axes]


def drawn(fig):
    "The figure after drawing, and its renderer"
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return canvas.get_renderer()


def names(ax):
    return [t for t in ax.texts if t.get_label() == "name"]


def texts(fig):
    return [t for t in fig.findobj(Text) if t.get_text().strip() and t.get_visible()]


def dotted(ax):
    return [line for line in ax.lines if line.get_linestyle() == ":" and len(line.get_xdata()) > 2]


@pytest.mark.parametrize("kind", ["curves", "difference"])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("n", [3, 12, 17, 26])
def test_names_are_apart_and_inside(n, size, kind):
    fig = some(n).plot("road", kind, size=size)
    renderer = drawn(fig)
    boxes = [Text.get_window_extent(t, renderer) for t in names(fig.axes[0])]
    boxes = sorted(boxes, key=lambda b: b.y0)
    assert len(boxes) == n - (kind == "difference")
    assert all(a.y1 <= b.y0 + 3 for a, b in zip(boxes, boxes[1:]))
    assert all(b.x1 <= fig.bbox.x1 + 1 and 0 <= b.y0 and b.y1 <= fig.bbox.y1 for b in boxes)


@pytest.mark.parametrize("kind", [*KINDS, "multiples"])
@pytest.mark.parametrize("size", ["column", "page"])
def test_print_has_the_width_of_the_journal_and_readable_letters(size, kind):
    fig = some(5, orders=("morf", "lerf")).plot("road", kind, order="morf", size=size)
    renderer = drawn(fig)
    assert fig.get_figwidth() == {"column": 3.25, "page": 6.75}[size]
    sizes = {t.get_fontsize() for t in texts(fig)}
    assert min(sizes) >= 7 and max(sizes) <= 9
    ticks = [t for ax in fig.axes for t in (*ax.get_xticklabels(), *ax.get_yticklabels())]
    boxes = [t.get_window_extent(renderer) for t in texts(fig) if t not in ticks]
    all_ = fig.get_tightbbox(renderer)  # with the ticks that are shown
    assert all_.x0 >= 0 and all_.x1 <= fig.get_figwidth() and all_.y0 >= 0
    assert all(b.x0 >= -1 and b.x1 <= fig.bbox.x1 + 1 for b in boxes)
    assert all(b.y0 >= -1 and b.y1 <= fig.bbox.y1 + 1 for b in boxes)


@pytest.mark.parametrize("heights", [[0.5] * 8, [0, 0, 1, 1], list(np.linspace(0.2, 0.21, 10))])
def test_heights_are_spread_in_order(heights):
    out = _spread(heights, 0.1, 0, 1)
    assert np.diff(np.sort(out)).min() > 0.0999 and 0 <= out.min() and out.max() <= 1 + 1e-9
    assert (np.argsort(out, kind="stable") == np.argsort(heights, kind="stable")).all()


def test_a_look_follows_from_the_name():
    methods = [f"method_{i}" for i in range(26)] + LONG
    looks = method_styles(methods)
    assert looks == method_styles(methods[::-1])
    kinds = {(str(s["ls"]), s["marker"]) for s in looks.values()}
    assert len(kinds) == len(methods)
    assert looks["random"] == method_styles(["random", "b"])["random"]
    assert len({s["color"] for s in method_styles("abcdefgh").values()}) == 8
    assert len(method_styles([f"m{i}" for i in range(70)])) == 70  # looks repeat, none is missing


def test_a_method_looks_the_same_where_a_metric_is_missing():
    both = of([made(m, 1, "road") for m in "abc"] + [made(m, 1, "accuracy") for m in "cbz"])
    colours = []
    for metric in ("road", "accuracy"):
        ax = both.plot(metric).axes[0]
        line = dict(zip([t.get_text() for t in names(ax)], ax.lines))["c"]
        colours.append((line.get_color(), line.get_marker()))
    assert colours[0] == colours[1]


# Machado, Oliveira, Fernandes (2009): what people without one kind of cones see
BLIND = {
    "no one": np.eye(3),
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


def lab(colour, seen):
    "CIE L*a*b* of a colour as seen"
    c = np.array(to_rgb(colour))
    linear = np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)
    xyz = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    x = np.array(xyz) @ np.clip(np.array(seen) @ linear, 0, 1) / [0.9505, 1, 1.089]
    f = np.where(x > 0.008856, np.cbrt(x), 7.787 * x + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen", BLIND)
def test_colours_are_told_apart_by_everyone(seen):
    colours = [s["color"] for s in STYLES[:8]]
    found = [lab(c, BLIND[seen]) for c in colours]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(found, 2)) > 12


def test_renaming_keeps_the_look():
    scores = some(4)
    plain, renamed = (scores.plot("road", labels=o).axes[0] for o in ({}, {"random": "Chance"}))
    assert "Chance" in [t.get_text() for t in names(renamed)]
    looks = [[(o.get_color(), o.get_linestyle()) for o in ax.lines] for ax in (plain, renamed)]
    assert looks[0] == looks[1]
    areas = scores.plot("road", "areas", labels={"random": "Chance"}).axes[0]
    assert "Chance" in [t.get_text() for t in areas.get_yticklabels()]


def test_figures_are_at_most_two_panels_wide():
    each = itertools.product("ab", ("morf", "lerf"), ("zero", "blur", "noisy_linear"))
    fig = of([made(m, 1, order=o, imputation=i) for m, o, i in each]).plot("road")
    assert len(fig.axes) == 6 and fig.get_figwidth() * fig.dpi == 1280


@pytest.mark.parametrize(
    "asked, said",
    [
        ({"metric": "raod"}, "did you mean 'road'"),
        ({"metric": "road", "kind": "areass"}, "did you mean 'areas'"),
        ({"metric": "road", "order": "lerff"}, "did you mean 'lerf'"),
        ({"metric": "road", "imputation": "noisy"}, "imputation: no 'noisy' in road"),
        ({"metric": "road", "kind": "difference", "reference": "randm"}, "did you mean 'random'"),
        ({"metric": "road", "size": "colum"}, "did you mean 'column'"),
        ({"metric": "road", "ax": Figure().subplots()}, "one panel fits, these are 2"),
    ],
)
def test_what_is_not_there_is_refused(asked, said):
    with pytest.raises(ConfigError, match=said):
        some(4, orders=("morf", "lerf")).plot(**asked)


def test_a_metric_of_ones_own_is_drawn():
    values = np.array([[-3.0, 7.0]] * 9)
    fig = of([Curve(m, "mine", "morf", "zero", (0, 50), values) for m in "ab"]).plot()
    assert titles(fig) == ["mine, most relevant first"]
    assert fig.axes[0].get_ylim()[0] < -3


def test_masks_are_drawn_into_the_panels_of_roar_and_kar():
    found = retrained([ROAR, KAR, *MASKS])
    assert figure_metrics(found.summary) == ["roar", "kar"]
    fig = found.plot()
    assert [len(dotted(ax)) for ax in fig.axes] == [3, 3] and len(fig.legends) == 1


def test_masks_have_a_figure_where_nothing_else_shows_them():
    found = retrained([ROAR, *MASKS])
    assert figure_metrics(found.summary) == ["roar", "mask_only"]  # lerf needs a panel of KAR
    fig = retrained([("mask_only", "morf")]).plot()
    assert titles(fig) == ["Mask alone, most relevant first"]
    assert "higher: the mask tells more" in fig.axes[0].get_ylabel() and fig.legends == []


def test_chance_is_drawn_for_accuracies_only():
    found = some(3, ("road", "probability"))
    shown = {
        m: "chance" in [t.get_text() for t in found.plot(m).axes[0].texts]
        for m in ("road", "probability")
    }
    assert shown == {"road": True, "probability": False}


def test_chance_far_away_stretches_nothing():
    values = np.array([[0.9, 0.8]] * 9)
    ax = of([Curve(m, "road", "morf", "zero", (0, 50), values) for m in "ab"]).plot().axes[0]
    assert ax.get_ylim()[0] > 0.3 and "chance" not in [t.get_text() for t in ax.texts]


def test_panels_of_one_unit_share_their_scale_within_the_bounds():
    fig = some(4, orders=("morf", "lerf")).plot("road")
    low, high = fig.axes[0].get_ylim()
    assert fig.axes[1].get_ylim() == (low, high) and 0 <= low < 0.1 and 0.9 < high <= 1


def test_insertion_runs_forwards():
    at = (0, 50, 90)
    scores = of([made(m, i, "insertion", "lerf", at) for i, m in enumerate("ab")])
    ax = scores.plot("insertion").axes[0]
    assert ax.get_xlabel() == "pixels inserted (%)" and ax.get_xlim() == (10, 100)
    line, rows = ax.lines[0], scores.summary.query("method == 'a'").set_index("percentile")
    assert line.get_xdata().tolist() == [10, 50, 100]
    assert line.get_ydata()[-1] == rows.loc[0, "mean"]


def test_bands_begin_where_pixels_are_gone():
    ax = some(4).plot("road").axes[0]
    assert len(ax.collections) == 4
    assert all(c.get_paths()[0].vertices[:, 0].min() == 10 for c in ax.collections)
    assert not list(some(14).plot("road").axes[0].collections)


@pytest.mark.parametrize("order, up", [("morf", -1), ("lerf", 1)])
def test_differences_are_paired_and_turned(order, up):
    a, b = made("a", 3, order=order), made("random", 0, order=order)
    rows = difference_rows([a, b], "random")
    expected = up * (a.values.mean((0, 1)) - b.values.mean((0, 1)))
    assert np.allclose(rows["mean"], expected) and (rows["mean"] >= 0).all()
    assert rows["low"][0] == rows["high"][0] == 0  # the same images, unaltered
    assert set(rows["method"]) == {"a"}


def test_differences_use_the_seeds_of_both():
    def of_seeds(method, seeds, height):
        values = np.full((len(seeds), 20, 1), height)
        facts = {"seeds": seeds, "protocol": "retraining"}
        return Curve(method, "roar", "morf", "zero", (50,), values, **facts)

    rows = difference_rows([of_seeds("a", (0, 1), 0.2), of_seeds("random", (1, 2), 0.5)], "random")
    assert rows["seeds"].tolist() == [1] and np.allclose(rows["mean"], 0.3)


def test_numbers_are_drawn_as_points():
    curves = [
        Curve(m, "deletion_auc", "morf", "zero", (float("nan"),), np.full((9, 1), v))
        for m, v in (("a", 0.4), ("b", 0.2))
    ]
    ax = of(curves).plot("deletion_auc").axes[0]
    names = [t.get_text() for t in ax.get_yticklabels()]
    assert names == ["b", "a"] and ax.yaxis_inverted()  # the best on top


def test_ties_are_joined_and_what_is_like_random_is_marked():
    strengths = {"a": 6, "b": 5.95, "c": 2, "random": 0, "d": 0.01}
    scores = of([made(m, s) for m, s in strengths.items()])
    ax = scores.plot("road", "areas").axes[0]
    order = [t.get_text() for t in ax.get_yticklabels()]
    groups = tie_groups(scores.comparisons, order)
    bars = [line for line in ax.lines if line.get_label() == "tie"]
    ends = [[round(y) for y in line.get_ydata()] for line in bars]
    assert groups and ends == [[order.index(g[0]), order.index(g[-1])] for g in groups]
    marked = [t.get_text() for t in ax.texts if t.get_text().endswith("°")]
    assert len(marked) == 1


def test_a_figure_of_several_panels():
    scores = some(4, orders=("morf", "lerf"))
    parts = [("road", "curves", "morf"), ("road", "difference", "morf"), "road_srg"]
    fig = scores.plot(parts, size="page")
    assert [t[:3] for t in titles(fig)] == ["(a)", "(b)", "(c)"]
    assert titles(scores.plot(parts, title=False)) == ["", "", ""]
    assert titles(scores.plot("road", order="morf", title="Mine")) == ["Mine"]


def test_into_axes_of_ones_own():
    fig = Figure(figsize=(6, 3))
    left, _ = fig.subplots(1, 2)
    assert some(4).plot("road", ax=left, size="page") is fig
    assert len(names(left)) == 4


@pytest.mark.parametrize("n, numbers", [(6, True), (40, False)])
def test_agreement(n, numbers):
    labels = [f"measure_{k}" for k in range(n)]
    square = pd.DataFrame(np.eye(n) * 0.5 - 0.25, labels, labels)
    fig = plot_agreement(square, size=SIZES["page"])
    shown = [t.get_text() for t in fig.axes[0].texts]
    assert ("−25" in shown) == numbers and (len(fig.axes) == 2) != numbers
    assert min(t.get_fontsize() for t in texts(fig)) >= 7


def test_agreement_of_scores():
    scores = some(5, ("road", "accuracy"), ("morf", "lerf"))
    assert len(scores.plot(kind="agreement").axes[0].get_yticklabels()) > 3


def test_names_are_text_whatever_they_are():
    for kind in (*KINDS, "multiples"):
        drawn(of([made(m, 1) for m in (HOSTILE, "$\\frac$", "random")]).plot("road", kind))


def test_svg_for_a_page():
    scores = of([made(HOSTILE, 1), made("b", 2)])
    text = figure_svg(scores.plot("road"), HOSTILE)
    ElementTree.fromstring(text)
    assert text == figure_svg(scores.plot("road"), HOSTILE)
    assert "<script" not in text and "0.12345" in text and "currentColor" in text
    other = figure_svg(some(3).plot("road"))
    ids = [set(re.findall(r' id="([^"]*)"', t)) for t in (text, other)]
    assert ids[0] and not ids[0] & ids[1]
    assert set(re.findall(r'(?:href="|url\()#(\w+)', text)) <= ids[0]


def test_svg_of_26_methods_is_small():
    scores = some(26, orders=("morf", "lerf"), at=tuple(range(0, 100, 10)))
    for kind in KINDS:
        assert len(figure_svg(scores.plot("road", kind))) < 100_000


@pytest.mark.parametrize("kind", ["pdf", "svg", "png"])
def test_files_are_the_same_bytes(tmp_path, kind):
    paths = [tmp_path / f"{n}.{kind}" for n in "ab"]
    for path in paths:
        save_figure(some(4).plot("road", size="column"), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()
    with pytest.raises(ConfigError, match="pdf, .svg or .png"):
        save_figure(some(2).plot("road"), tmp_path / "a.jpg")


def test_text_stays_text(tmp_path):
    save_figure(some(3).plot("road"), tmp_path / "a.svg")
    assert ">oracle<" in (tmp_path / "a.svg").read_text()
    save_figure(some(3).plot("road"), tmp_path / "a.pdf")
    pdf = (tmp_path / "a.pdf").read_bytes()
    assert b"/CIDFontType2" in pdf and b"/Type3" not in pdf  # TrueType, no drawn letters


def test_long_names_lose_their_middle():
    assert short_name("integrated_gradients_smoothgrad_squared", 22) == "integrated_gra…squared"


def test_the_range_follows_what_is_drawn():
    rows = pd.DataFrame({"method": ["a"] * 2, "mean": [0.5, 0.9], "low": [0.4, 0.8]})
    rows["high"] = [0.6, 1]
    assert np.round(_range(rows, bounds=(0, 1)), 2).tolist() == [0.37, 1]
    assert np.round(_range(rows, 0.25, (0, 1)), 2).tolist() == [0.22, 1]
