"Links lead somewhere, and the files around the package are well formed."

import os
import re
from urllib.parse import unquote

import pytest
import yaml
from fastcore.nbio import read_nb

from repo import NBS, NOTEBOOKS, ROOT, name

TASKS = {
    "build-docker",
    "bash-docker",
    "train-cls",
    "extract-attribution-maps",
    "evaluate-attribution-maps-roar",
    "roar",
    "lerf",
}
TEST_COMMAND = "python3 -m venv .venv && .venv/bin/pip install -e '.[dev]' && .venv/bin/pytest"
CODE = re.compile(r"^(`{3,})[^\n]*\n.*?^\1`*[ \t]*$|`[^`\n]+`", re.M | re.S)
LINK = re.compile(r"""\]\(\s*<?([^\s)>]+)|(?:src|href)=["']([^"']+)""")
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
PAGES = [*NOTEBOOKS, ROOT / "README.md", ROOT / "CHANGELOG.md"]


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


def test_readme_says_how_to_test_and_run():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert TEST_COMMAND in readme
    assert "roar-nb run" in readme


def test_ci_runs_the_test_command_of_the_readme():
    script = (ROOT / ".ci/run").read_text(encoding="utf-8")
    steps = [
        step.replace(".venv/bin/", "").replace(".venv", "") for step in TEST_COMMAND.split(" && ")
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
    assert sorted(listed) == sorted(map(name, NOTEBOOKS))
    assert (NBS / "_quarto.yml").resolve() == ROOT / "_quarto.yml"
