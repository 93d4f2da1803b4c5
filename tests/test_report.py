"The report: its sentences, its warnings, its files, and the page in a browser."

import html
import json
import re
import shutil
import subprocess
import time
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from roar_nb.gallery import Gallery
from roar_nb.metrics import Curve
from roar_nb.answer import answer, listed, warnings_of
from roar_nb.report import page, write_report
from roar_nb.results import Scores

ROAR = ("roar", "morf", "channel_mean", "retraining")
GAIN = ("road_srg", "both", "noisy_linear", "road")


def rows(areas, measure=ROAR, model="ResNet8", interval=0.04, ranks=None, **more):
    "A summary of one measure, a row a method"
    facts = dict(zip(("metric", "order", "imputation", "protocol"), measure))
    table = pd.DataFrame([dict(method=m, area=a) for m, a in areas.items()])
    table = table.assign(dataset="Shapes", model=model, unit="fraction", percentile=0.0, **facts)
    table = table.assign(area_low=table.area - interval, area_high=table.area + interval)
    up = measure[0] not in ("roar", "deletion_auc")
    table["rank"] = table.area.rank(method="min", ascending=not up) if ranks is None else ranks
    return table.assign(**more)


def pairs(summary, alike=()):
    "Comparisons of all methods of a summary; those in `alike` are not told apart"
    found = []
    for _, t in summary.groupby(["dataset", "model", "protocol", "metric"], sort=False):
        up = 1 if t.metric.iloc[0] != "roar" else -1
        facts = t[["dataset", "model", "protocol", "metric", "order", "imputation"]].iloc[0]
        for i, a in enumerate(t.method):
            for j, b in list(enumerate(t.method))[i + 1 :]:
                d = up * (t.area.iloc[i] - t.area.iloc[j])
                apart = {a, b} not in [set(pair) for pair in alike]
                numbers = dict(difference=d, low=d, high=d, wins=0.5, p_holm=0.5, apart=apart)
                found.append(dict(facts, method=a, other=b, **numbers))
    columns = [*rows({"a": 1}).columns[5:], "method", "other", "difference", "apart", "metric"]
    return pd.DataFrame(found) if found else pd.DataFrame(columns=dict.fromkeys(COLUMNS + columns))


COLUMNS = ["dataset", "model", "protocol", "metric", "order", "imputation", "low", "high", "wins"]


def told(areas, alike=(), **more):
    summary = rows(areas, **more)
    return answer(SimpleNamespace(summary=summary, comparisons=pairs(summary, alike)))


class TestAnswer:
    def test_names_as_a_sentence_lists_them(self):
        assert listed("abc") == "a, b and c" and listed("abcdefg") == "a, b, c and 4 others"

    def test_the_best_of_several(self):
        (text,) = told(dict(b=0.4, a=0.35, random=0.8))
        assert text == (
            "After retraining, a is the best of 2 methods on ROAR (area 0.350, 95 % interval "
            "0.310 to 0.390, lower is better); it is told apart from b. "
            "Both are better than random."
        )

    def test_who_cannot_be_told_apart(self):
        areas = dict(a=0.35, b=0.36, c=0.4, d=0.5, random=0.8)
        (one,) = told(areas, ["ab"])
        assert "; it cannot be told apart from b. All 4 are better than random." in one
        (two,) = told(areas, ["ab", "ac", ("d", "random")])
        assert "cannot be told apart from b and c. 3 of 4 are better than random; d cannot" in two

    def test_nobody_is_told_apart(self):
        areas = dict(a=0.35, b=0.36, c=0.37, random=0.38)
        every = [(x, y) for x in areas for y in areas]
        (text,) = told(areas, every)
        assert "), but cannot be told apart from any other. None of the 3 can be told apart" in text
        (two,) = told(dict(a=0.35, b=0.36, random=0.38), every)
        assert "a comes first of 2 methods" in two
        assert ", but cannot be told apart from b. Neither can be told apart from random." in two

    def test_random_wins(self):
        (text,) = told(dict(a=0.5, b=0.6, random=0.2))
        assert text.endswith("Both are worse than random.")
        (one,) = told(dict(a=0.5, b=0.1, random=0.2))
        assert one.endswith("Only b is better than random; a is worse.")
        (none,) = told(dict(a=0.5, b=0.6, c=0.7, random=0.2), [("a", "random")])
        expected = "None is better than random; a cannot be told apart from it; b and c are worse."
        assert none.endswith(expected)

    def test_one_method(self):
        (text,) = told(dict(a=0.5, random=0.6))
        assert "a is the only method beside controls on ROAR (area 0.500" in text
        assert text.endswith("It is better than random.")
        (text,) = told(dict(a=0.5, random=0.6), [("a", "random")])
        assert text.endswith("It cannot be told apart from random.")

    def test_without_random(self):
        (text,) = told(dict(a=0.5, b=0.6))
        assert text.endswith(
            "Without random among the methods, nothing says who is better than chance."
        )

    def test_only_controls(self):
        assert told(dict(random=0.6)) == ["After retraining, only controls were measured on ROAR."]

    def test_the_oracle_does_not_compete(self):
        (text,) = told(dict(oracle=0.1, a=0.3, b=0.4, random=0.8))
        assert "a is the best of 2 methods" in text and "oracle" not in text

    def test_equal_areas(self):
        (text,) = told(dict(a=0.3, b=0.3, c=0.5, random=0.8), ["ab"])
        assert "a and b are equally good, the best of 3 methods" in text
        assert "; they are told apart from c." in text

    def test_one_seed_without_an_interval_or_a_test(self):
        summary = rows(dict(a=0.3, b=0.4, random=0.8), interval=np.nan)
        scores = SimpleNamespace(summary=summary, comparisons=pairs(summary).iloc[:0])
        (text,) = answer(scores)
        assert "(area 0.300, no interval, lower is better)" in text
        assert "a comes first of 2 methods" in text
        assert "; no test says whether that is more than chance. No test compares" in text

    def test_incomplete(self):
        (text,) = told(dict(a=0.3, b=0.4, random=0.8), ranks=np.nan)
        assert "ROAR ranks nobody yet" in text

    def test_nothing_ranks(self):
        measure = ("mask_only", "morf", "none", "retraining")
        assert told(dict(a=0.3, b=0.4), measure=measure) == [
            "Nothing that was measured ranks methods."
        ]

    def test_retraining_comes_first_and_the_gain_leads_without(self):
        areas = dict(a=0.3, b=0.4, random=0.5)
        summary = pd.concat(
            [
                rows(areas, ("deletion_auc", "morf", "blur", "deletion")),
                rows(areas, GAIN),
                rows(areas, ("kar", "lerf", "channel_mean", "retraining")),
                rows(areas),
            ]
        )
        found = answer(SimpleNamespace(summary=summary, comparisons=pairs(summary)))
        starts = [text.split(" (")[0] for text in found]
        assert sorted(starts[:2]) == [
            "After retraining, a is the best of 2 methods on ROAR",
            "Without retraining, b is the best of 2 methods on ROAD's gain of LeRF over MoRF",
        ]

    def test_several_models_are_named(self):
        areas = dict(a=0.3, b=0.4, random=0.5)
        summary = pd.concat([rows(areas), rows(areas, model="VGG")])
        found = answer(SimpleNamespace(summary=summary, comparisons=pairs(summary)))
        assert [t.split(",")[:2] for t in found] == [
            ["Shapes", " ResNet8: after retraining"],
            ["Shapes", " VGG: after retraining"],
        ]

    def test_the_best_over_all_measures(self):
        one, other = dict(a=0.3, b=0.4, random=0.8), dict(a=0.5, b=0.4, random=0.8)
        measures = [(m, "morf", "zero", m) for m in ("roar", "road", "accuracy")]

        def over_all(*areas):
            tables = [rows(x, m) for x, m in zip(areas, measures)]
            tables = [t.assign(metric="roar", imputation=f"i{k}") for k, t in enumerate(tables)]
            summary = pd.concat(tables)
            return answer(SimpleNamespace(summary=summary, comparisons=pairs(summary)))[-1]

        assert over_all(one, one, other) == "a may be the best on 2 of 3 measures."


def scores_with(summary, notes=(), chance=0.1, **tables):
    return SimpleNamespace(summary=summary, notes=list(notes), chance=chance, **tables)


class TestWarnings:
    def masks(self, mean):
        measure = ("mask_only", "morf", "none", "retraining")
        return rows(dict(a=mean), measure, mean=mean, low=mean - 0.02, percentile=50.0)

    def test_notes_come_first(self):
        assert warnings_of(scores_with(rows(dict(a=1.0), mean=0.9, low=0.8), ["lost"])) == ["lost"]

    def test_leakage(self):
        (found,) = warnings_of(scores_with(self.masks(0.6)))
        assert found.startswith("leakage: the masks of a alone tell the class (accuracy up to 0.60")
        assert warnings_of(scores_with(self.masks(0.15))) == []
        assert warnings_of(scores_with(self.masks(0.6), chance=None)) == []

    def test_a_network_that_guesses(self):
        (found,) = warnings_of(scores_with(rows(dict(a=0.1), mean=0.11, low=0.08)))
        assert found.startswith("accuracy near chance: ResNet8 is right on 0.110")

    def test_maps(self):
        maps = pd.DataFrame(dict(method=["a", "b"], filter="", constant=[0.0, 0.2], tied=[0.8, 0]))
        found = warnings_of(scores_with(rows(dict(a=1.0), mean=1.0, low=0.9), maps=maps))
        assert found == [
            "constant maps: of b (20 %); chance alone ranks their pixels",
            "tied pixels: in the maps of a (80 %); chance decides which of them go first",
        ]

    def test_imputation_and_agreement(self):
        names = dict(dataset="d", model="m", protocol="p", metric="road", imputation="zero")
        unfair = pd.DataFrame(
            [dict(names, fair=f, verdict=v) for f, v in [(False, "bad"), (True, "")]]
        )
        unfair = unfair.astype(dict(fair="boolean"))
        low = pd.DataFrame([dict(names, order="morf", alpha=0.02, word="low", over="images")])
        tables = dict(imputations=unfair, reliability=low)
        found = warnings_of(scores_with(rows(dict(a=1.0), mean=1.0, low=0.9), **tables))
        assert found[0] == "imputation not trusted: by road, imputation zero: bad"
        assert found[1].startswith(
            "low agreement: by ROAD, most relevant first (α 0.02) single images"
        )


# The files


def curve(
    method, metric="road", order="morf", n=40, protocol="road", strength=0.5, points=(0, 50), **more
):
    rng = np.random.default_rng(len(method) + ord(method[-1]) * 7 + len(metric))
    fall = strength * np.linspace(0, 1, len(points))
    seeds = more.get("seeds", (0,))
    values = rng.random((len(seeds), n, len(points))) < 0.9 - fall
    facts = dict(dataset="Shapes", model="ResNet8", protocol=protocol)
    return Curve(method, metric, order, "zero", points, values, **facts | more)


def some(methods=("gradcam", "gradient", "random"), **more):
    return [
        curve(m, order=o, strength=0.3 + 0.1 * i, **more)
        for i, m in enumerate(methods)
        for o in ("morf", "lerf")
    ]


def retrained(methods=("gradcam", "gradient", "random"), metric="roar"):
    order = "lerf" if metric == "kar" else "morf"
    how = dict(protocol="retraining", seeds=(0, 1, 2), order=order)
    return [curve(m, metric, strength=0.3 + 0.1 * i, **how) for i, m in enumerate(methods)]


def whole(methods=("gradcam", "gradient", "random")):
    "Scores with everything"
    x = np.random.default_rng(0).random((2, 3, 8, 8))
    maps = {m: x[:, 0] for m in methods}
    gallery = Gallery.of(x, maps, classes=["disc"], labels=[0, 0], rule="the first 2 test images")
    step = dict(seconds=1.5, finished="2026-01-01T00:00:00+00:00", device="cpu")
    manifest = dict(
        data=dict(test=dict(images=40, fingerprint="abc123")),
        steps=dict(perturb=dict(step, versions=dict(torch="2.6"))),
    )
    about = dict(folder="mine", config="desc: x", command="roar-nb run", manifest=manifest)
    more = dict(chance=0.1, gallery=gallery, about=about | dict(networks=dict(explained="fff")))
    return Scores(some(methods) + retrained(methods), ["left out: one cell"], **more)


def names(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_a_report_removes_what_an_earlier_one_left(tmp_path):
    write_report(Scores(retrained() + retrained(metric="kar") + some()), tmp_path)
    own = {"notes.txt", "figures/mine.png", "figures/paper.svg", "comparisons_of_mine.csv"}
    for name in own:
        (tmp_path / name).write_text("mine")
    gone = {"figures/kar.svg", "figures/road.png"}
    assert gone | {"report.html"} <= names(tmp_path)
    files = write_report(Scores(retrained()), tmp_path)
    written = {p.relative_to(tmp_path).as_posix() for p in files}
    assert written | own == names(tmp_path) - {"figures/index.json"}
    assert gone & names(tmp_path) == set() and files[-1] == tmp_path / "report.html"


def test_a_tampered_list_removes_nothing_else(tmp_path):
    (tmp_path / "run/figures").mkdir(parents=True)
    kept = [tmp_path / "precious.csv", tmp_path / "run/config.yaml", tmp_path / "run/mine.csv"]
    for path in kept:
        path.write_text("x")
    listed = ["../precious.csv", "config.yaml", "figures/../config.yaml", "mine.csv"]
    (tmp_path / "run/figures/index.json").write_text(json.dumps(dict(files=listed)))
    write_report(Scores(retrained()), tmp_path / "run")
    assert all(path.exists() for path in kept)


def test_the_same_scores_give_the_same_bytes(tmp_path):
    read = [
        {p.name: p.read_bytes() for p in write_report(whole(), tmp_path / run)}
        for run in ("a", "b")
    ]
    assert read[0] == read[1] and len(read[0]) >= 6


# The page, without a browser


class Page(HTMLParser):
    "What a page holds: tags, ids, targets, text; that tags are closed in order"

    VOID = {"meta", "link", "img", "br", "path", "use"}

    def __init__(self, text):
        super().__init__()
        self.tags, self.ids, self.targets, self.open, self.urls = [], [], [], [], []
        self.words = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        facts = dict(attributes)
        self.tags.append((tag, facts))
        self.ids += [facts["id"]] if "id" in facts else []
        href = facts.get("href") or facts.get("src") or ""
        (self.targets if href.startswith("#") else self.urls).append(href)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in ("meta", "link", "img", "br"):
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, (self.open[-4:], tag)
        self.open.pop()

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.words.append(data)

    def all(self, tag):
        return [facts for t, facts in self.tags if t == tag]


@pytest.fixture(scope="module")
def whole_page():
    return page(whole())


def test_the_page_is_well_formed(whole_page):
    found = Page(whole_page)
    assert found.open == []
    assert len(found.ids) == len(set(found.ids))
    assert {t[1:] for t in found.targets} <= set(found.ids)
    levels = [int(t[1]) for t, _ in found.tags if re.fullmatch(r"h[1-6]", t)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:]))


def test_the_page_needs_nothing_else(whole_page):
    found = Page(whole_page)
    assert all(u == "" or u.startswith("data:") for u in found.urls)
    assert "http://" not in re.sub(r"http://www\.w3\.org/\S+", "", whole_page)
    policy = next(m["content"] for m in found.all("meta") if "http-equiv" in m)
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy


def test_the_page_is_accessible(whole_page):
    found = Page(whole_page)
    assert all(facts.get("alt") for facts in found.all("img")) and found.all("img")
    assert all(f.get("role") == "img" and f.get("aria-label") for f in found.all("svg"))
    assert all(facts.get("scope") for facts in found.all("th"))
    assert found.all("html")[0]["lang"] == "en"


def test_the_page_holds_every_part(whole_page):
    found = Page(whole_page)
    parts = {"answer", "warnings", "overview", "measures", "gallery", "provenance"}
    assert parts <= set(found.ids)
    text = " ".join(found.words)
    for words in ("roar-nb run", "abc123", "fff", "torch 2.6", "desc: x", "one cell", "40"):
        assert words in text


@pytest.mark.parametrize("curves", [some(), retrained(), some(["gradcam"]), retrained(["random"])])
def test_what_is_missing_is_left_out(curves):
    found = Page(page(Scores(curves)))
    assert found.open == [] and not {"gallery", "provenance", "audit"} & set(found.ids)
    assert ("agreement" in found.ids) == (len({c.method for c in curves}) > 1)
    assert not re.search(r"\bNone\b(?! is)|\bnan\b|<NA>", " ".join(found.words))


HOSTILE = (
    "<script>alert(1)</script>",
    "\"'><img src=x onerror=alert(2)>",
    "</style>{{ 7*7 }}",
    "random",
)


@pytest.fixture(scope="module")
def hostile_page():
    scores = whole(HOSTILE)
    scores.remarks = [f"{name}: failed" for name in HOSTILE]
    scores.about |= dict(config=HOSTILE[0], folder=HOSTILE[1], command=HOSTILE[2])
    return page(scores)


def test_hostile_names_are_text(hostile_page):
    found = Page(hostile_page)
    assert found.open == [] and len(found.all("script")) == 1 and len(found.all("style")) >= 1
    assert not any(k.startswith("on") for _, facts in found.tags for k in facts)
    assert all(f["src"].startswith("data:") for f in found.all("img"))
    text = " ".join(found.words)
    assert all(name in text for name in HOSTILE)


def test_many_methods_make_a_small_page_soon():
    methods = ["random", *(f"method_{i}" for i in range(25))]
    curves = some(methods, n=100, points=(0, 25, 50, 75, 100))
    for metric, protocol in (
        ("deviation", "lerf_morf"),
        ("accuracy", "lerf_morf"),
        ("aopc", "regions"),
    ):
        curves += [
            curve(m, metric, o, 100, protocol, points=(0, 25, 50, 75, 100))
            for m in methods
            for o in ("morf", "lerf")
        ]
    curves += [curve(m, "deletion", "morf", 100, "deletion") for m in methods]
    curves += [curve(m, "roar", "morf", 100, "retraining", seeds=(0, 1, 2)) for m in methods]
    x = np.random.default_rng(0).random((6, 3, 224, 224)).astype(np.float32)
    scores = Scores(curves, gallery=Gallery.of(x, {m: x[:, 0] for m in methods}))
    scores.summary
    start = time.process_time()
    text = page(scores)
    assert len(text.encode()) < 5e6
    assert time.process_time() - start < 60  # some ten seconds on a free machine


# The page in a browser

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium or Chrome")


def look(folder, text, script, width=1280):
    "What a script finds on a page in Chromium without a network, and what the console said"
    frame = f'<iframe id="f" style="border:0;width:{width}px;height:3000px"'
    frame += f' srcdoc="{html.escape(text)}"></iframe>'
    then = "<script>f.onload = () => { const w = f.contentWindow, d = w.document; "
    then += f"document.title = JSON.stringify((() => {{ {script} }})()); }}</script>"
    (folder / "test.html").write_text(f"<title>-</title>{frame}{then}", encoding="utf-8")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    options += ["--virtual-time-budget=20000", "--host-resolver-rules=MAP * ~NOTFOUND"]
    options += ["--enable-logging=stderr", f"--user-data-dir={folder / 'profile'}"]
    command = [CHROMIUM, *options, (folder / "test.html").as_uri()]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    title = html.unescape(re.search(r"<title>(.*?)</title>", result.stdout, re.S)[1])
    assert title != "-", result.stderr[-2000:]
    return json.loads(title), [line for line in result.stderr.splitlines() if "CONSOLE" in line]


@pytest.fixture
def seen(request, tmp_path):
    "A function that looks at a page"
    return lambda text, script, **more: look(tmp_path, text, script, **more)


SORT = """
    const table = d.querySelector("#overview table"), head = table.tHead.rows[0].cells;
    const column = i => [...table.tBodies[0].rows].map(r => r.cells[i].dataset.key ?? r.cells[i].textContent);
    const click = i => { head[i].querySelector("button").click(); return column(i); };
    return [click(1), click(1), click(0), head[0].getAttribute("aria-sort"),
            head[1].getAttribute("aria-sort")];
"""


@browser
def test_the_console_is_read(seen):
    text = "<!DOCTYPE html><title>x</title><script>nothing()</script>"
    assert seen(text, "return 1")[1] != []
    blocked = page(Scores(retrained())).replace("</body>", "<script>1</script></body>")
    assert "Content Security Policy" in "".join(seen(blocked, "return 1")[1])


@browser
def test_tables_sort_and_images_load(seen, whole_page):
    (up, down, by_name, first, second), console = seen(whole_page, SORT)
    assert console == []
    assert [float(x) for x in up] == sorted(float(x) for x in up)
    assert up == down[::-1] and len(set(up)) == 3
    assert by_name == ["gradcam", "gradient", "random"]
    assert (first, second) == ("ascending", None)
    widths, _ = seen(whole_page, "return [...d.images].map(i => i.naturalWidth)")
    assert len(widths) > 10 and min(widths) > 0


OPEN = "d.querySelectorAll('details').forEach(e => e.open = true);"
WIDTH = OPEN + "return [w.innerWidth, d.documentElement.scrollWidth]"


@browser
@pytest.mark.parametrize("width", [390, 768, 1280])
def test_nothing_scrolls_sideways(seen, whole_page, hostile_page, width):
    for text in (whole_page, hostile_page):
        (inner, scroll), _ = seen(text, WIDTH, width=width)
        assert inner == width and scroll <= width


@browser
def test_hostile_names_do_nothing(seen, hostile_page):
    script = "return [d.scripts.length, d.querySelectorAll('[onerror]').length, d.body.innerText]"
    (scripts, handlers, text), console = seen(hostile_page, OPEN + script)
    assert (scripts, handlers, console) == (1, 0, [])
    assert all(name in text for name in HOSTILE)
