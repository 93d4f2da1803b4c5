"""Every notebook runs from top to bottom: one test each, in a process of its own.

What it then shows must have the form of what is stored: as many outputs, of the same kinds, and
tables with the same columns. Numbers may differ, since machines do.
"""

import re

import pytest
from fastcore.ansi import strip_ansi

from repo import NBS, NOTEBOOKS, code_cells, name, nbdev, scratch_copy

HEAD = re.compile(r"<thead>.*?</thead>", re.S)
COLUMN = re.compile(r"<th(?: [^>]*)?>(.*?)</th>", re.S)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "A copy of the notebooks, in which outputs may be stored"
    names = "pyproject.toml", "settings.ini", "nbs", "configs", "CHANGELOG.md"
    return scratch_copy(tmp_path_factory.mktemp("copy"), *names)


def columns(html):
    "The heads of all tables"
    return [COLUMN.findall(head) for head in HEAD.findall(html)]


def form(output):
    "What kind of thing an output shows, and the columns of its tables"
    data = output.get("data", {})
    return sorted(data), columns("".join(data.get("text/html", "")))


def forms(path):
    "{cell: forms of what it shows}; what is printed may come in one part or several"
    return {
        cell.id: [form(o) for o in cell.outputs if o.output_type != "stream"]
        for cell in code_cells(path)
    }


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebook_runs_and_shows_what_is_stored(notebook, copy, flags):
    again = copy / "nbs" / name(notebook)
    result = nbdev(
        "test.nbdev_test", cwd=copy, path=str(again), n_workers=0, flags=flags, save=True
    )
    if result.returncode or "Success." not in result.stdout:
        pytest.fail(strip_ansi(result.stdout + result.stderr), pytrace=False)
    assert forms(again) == forms(notebook)


def test_columns_of_tables_are_compared():
    table = "<table><thead><tr><th></th><th class='a'>area</th></tr></thead></table>"
    assert columns(table) == [["", "area"]]
    assert form({"data": {"text/html": table, "text/plain": "x"}})[0] == ["text/html", "text/plain"]


def test_there_are_notebooks():
    assert NOTEBOOKS and all(path.is_relative_to(NBS) for path in NOTEBOOKS)
