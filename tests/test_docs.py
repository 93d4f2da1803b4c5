"Links lead somewhere, and the files around the package are well formed."

import os
import re
from urllib.parse import unquote

import pytest
import yaml
from fastcore.nbio import read_nb

from repo import NBS, NOTEBOOKS, ROOT, name, settings

TASKS = {
    "build-docker",
    "bash-docker",
    "train-cls",
    "extract-attribution-maps",
    "evaluate-attribution-maps-roar",
    "roar",
    "lerf",
}
TEST_COMMAND = "python3 -m venv .venv\n.venv/bin/pip install -e '.[dev]'\n.venv/bin/pytest\n"
CODE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1`*[ \t]*$|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r"""\]\(\s*<?([^\s)>]+)|(?:src|href)=["']([^"']+)""")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TEXTS = [ROOT / path for path in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*NOTEBOOKS, *TEXTS]


def load(path):
    return yaml.safe_load((ROOT / path).read_text(encoding="utf-8"))


def markdown(path):
    "The prose of a page"
    if path.suffix != ".ipynb":
        return path.read_text(encoding="utf-8")
    return "\n\n".join(cell.source for cell in read_nb(path).cells if cell.cell_type == "markdown")


def relative_links(text):
    "The links of a text that name files, code and anchors aside"
    found = [a or b for a, b in LINK.findall(CODE.sub("", text))]
    return [
        unquote(link.partition("#")[0])
        for link in found
        if not re.match(r"[a-z][a-z0-9+.-]*:|#", link, re.I)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda p: os.path.relpath(p, ROOT))
def test_relative_links_lead_to_files(page):
    assert [
        link for link in relative_links(markdown(page)) if not (page.parent / link).exists()
    ] == []


def test_relative_links_are_found():
    text = "[a](x.md#top) ![b](i/y.png) <img src='z.svg'> [c](https://e.org) [d](#here) `[e](no.md)`\n```\n[f](no.md)\n```\n"
    assert relative_links(text) == ["x.md", "i/y.png", "z.svg"]


@pytest.mark.parametrize("page", TEXTS, ids=lambda p: p.name)
def test_public_addresses_lead_to_files(page):
    "Links that work on GitHub and on pip's page alike: none is relative, each has its file"
    text, cfg = page.read_text(encoding="utf-8"), settings()
    assert relative_links(text) == []
    known = {page_of(p) for p in NOTEBOOKS} | {"", "index.html"}
    docs = re.findall(rf"{re.escape(cfg['doc_url'])}/?([^)\s#]*)", text)
    assert [path for path in docs if path not in known] == []
    files = re.findall(rf"{re.escape(cfg['git_url'])}/(?:blob|raw)/main/([^)\s#]+)", text)
    assert [path for path in files if not (ROOT / path).exists()] == []


def page_of(notebook):
    "Where the documentation shows a notebook: nbdev drops the number"
    folder, _, file = name(notebook).rpartition("/")
    return (
        f"{folder}{'/' * bool(folder)}{re.sub(r'^[0-9]+_', '', file).removesuffix('.ipynb')}.html"
    )


def test_readme_fits_the_page_of_pip():
    "No line of code is cut at 1,280 px, and the page is valid as pip's page shows it"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    code = re.findall(r"^```.*?\n(.*?)^```", text, re.M | re.S)
    assert max(len(line) for block in code for line in block.splitlines()) <= 90
    renderer = pytest.importorskip("readme_renderer.markdown", reason="needs readme_renderer[md]")
    html = renderer.render(text)
    assert html and "<table>" in html
    assert re.findall(r'(?:href|src)="(?!https?://|#)', html) == []


def test_citation():
    cite, cfg = load("CITATION.cff"), settings()
    assert (cite["title"], str(cite["version"])) == (cfg["lib_name"], cfg["version"])
    assert (cite["repository-code"], cite["url"]) == (cfg["git_url"], cfg["doc_url"])
    assert cite["license"] == cfg["license"] and cite["message"] and cite["authors"]
    assert {ref["title"] for ref in cite["references"]} >= {
        "A Benchmark for Interpretability Methods in Deep Neural Networks"
    }


def test_readme_says_how_to_test_and_run():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"```sh\n{TEST_COMMAND}```" in readme
    assert "```sh\nroar-nb run\n```" in readme


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    steps = [
        step.replace(".venv/bin/", "").replace(".venv", "") for step in TEST_COMMAND.splitlines()
    ]
    plain = re.sub(r'"\$tmp/venv(?:/bin/(\w+))?"', r"\1", script).replace("--quiet ", "")
    assert [step for step in steps if step.strip() not in plain] == []
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_taskfile_has_the_tasks():
    tasks = load("Taskfile.yml")["tasks"]
    assert TASKS <= set(tasks)
    assert (
        "lerf_imagenet_resnet50" in tasks["lerf"]["vars"]["CONFIG"]
        and "roar-nb run" in tasks["lerf"]["cmd"]
    )


def test_tasks_find_their_commands_or_say_how():
    "Commands come from .venv where it is there; each task asks first whether its command is here"
    tasks = load("Taskfile.yml")["tasks"]
    assert "task install" in tasks["needs"]["preconditions"][0]["msg"]
    for name, task in tasks.items():
        command = task.get("cmd", "")
        if any(tool in command for tool in ("roar-nb", "pytest", "nbdev-", "python")):
            (needed,) = task["deps"]
            assert command.startswith("{{.BIN}}" + needed["vars"]["TOOL"]), name


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda p: p.name)
def test_workflows_are_yaml(workflow):
    jobs = load(workflow)["jobs"]
    assert all(job["runs-on"] and job["steps"] for job in jobs.values())


def hrefs(contents):
    "The pages that a part of the sidebar lists"
    for entry in contents:
        if isinstance(entry, str):
            yield entry
        else:
            yield from hrefs(entry["contents"])


def test_sidebar_lists_every_notebook():
    listed = list(hrefs(load("_quarto.yml")["website"]["sidebar"]["contents"]))
    assert sorted(listed) == sorted([*map(name, NOTEBOOKS), "changelog.md"])
    assert (NBS / "_quarto.yml").resolve() == ROOT / "_quarto.yml"


def test_llms_txt_lists_every_public_name_and_page():
    text = (NBS / "llms.txt").read_text(encoding="utf-8")
    for path in sorted(ROOT.glob("roar_nb/*.py")):
        names = re.search(r"^__all__ = \[(.*?)\]", path.read_text(encoding="utf-8"), re.M | re.S)
        for public in re.findall(r"'(\w+)'", names[1]) if names else ():
            assert f"`roar_nb.{path.stem}.{public}" in text
    assert [page for page in map(page_of, NOTEBOOKS) if f"/{page})" not in text] == []
    assert "roar_nb.results.Scores.plot(" in text
