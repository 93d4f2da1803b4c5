"The documentation as nbdev makes it, but for the last step, which needs Quarto."

import ast
import json
import os
import re
import sys
from types import SimpleNamespace

import pytest
import yaml
from fastcore.nbio import read_nb

import roar_nb
from repo import NBS, NOTEBOOKS, ROOT, code_cells, name, run, scratch_copy

sys.path.insert(0, str(ROOT / "tools"))
import pages  # noqa: E402

PROCESS = "from nbdev.serve import proc_nbs; proc_nbs(n_workers=2, force=True)"
SOURCES = ("pyproject.toml", "settings.ini", "_quarto.yml", "nbs", "tools", "CHANGELOG.md")
IMPORTS = (ast.Import, ast.ImportFrom)
BAD = ("__main__", "NoneType", "<lambda>", "<function", "data: Any", "<factory>")


def body_of(cell):
    "The statements of a code cell, its magics aside"
    lines = [line for line in cell.source.splitlines() if not line.startswith(("%", "!", "#|"))]
    return ast.parse("\n".join(lines)).body


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
class TestSource:
    "What a notebook must keep to become a page"

    def test_imports_stand_in_cells_of_their_own(self, notebook):
        "nbdev executes every cell that holds an import when it makes the page"
        for cell in code_cells(notebook):
            kinds = {isinstance(node, IMPORTS) for node in body_of(cell)}
            assert len(kinds) <= 1, cell.source

    def test_figures_have_a_description(self, notebook):
        for cell in code_cells(notebook):
            shown = [kind for o in cell.outputs for kind in o.get("data", {})]
            if "image/png" in shown or "image/jpeg" in shown:
                assert re.search(r"^#\| fig-alt: \S", cell.source, re.M), cell.source

    def test_a_title_and_what_the_page_is_for(self, notebook):
        assert re.match(r"# \S.*\n\n> \S", read_nb(notebook).cells[0].source)


@pytest.mark.parametrize("tutorial", sorted(NBS.glob("tutorials/*.ipynb")), ids=name)
def test_tutorials_show_no_checks_and_few_imports(tutorial):
    cells = [cell for cell in code_cells(tutorial) if "#| hide" not in cell.source]
    assert [o.source for o in cells if any(map(pages.is_check, body_of(o)))] == []
    first = next(o for o in cells if any(isinstance(node, IMPORTS) for node in body_of(o)))
    assert len([line for line in first.source.splitlines() if line.strip()]) <= 5


def test_sidebar_and_navigation_lead_to_pages():
    site = yaml.safe_load((ROOT / "_quarto.yml").read_text(encoding="utf-8"))["website"]
    links = [entry["href"] for entry in site["navbar"]["left"]] + [site["favicon"]]
    assert [link for link in links if not (NBS / link).exists()] == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "The folder of processed pages"
    copy = scratch_copy(tmp_path_factory.mktemp("site"), *SOURCES)
    path = os.pathsep.join([str(copy), os.environ.get("PYTHONPATH", "")])
    result = run(sys.executable, "-c", PROCESS, cwd=copy, PYTHONPATH=path)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "imports and other code" not in result.stderr
    return copy / "_proc"


@pytest.fixture(scope="module")
def made(site):
    "{name: processed notebook}"
    return {name(p): json.loads((site / name(p)).read_text(encoding="utf-8")) for p in NOTEBOOKS}


def joined(text):
    return text if isinstance(text, str) else "".join(text)


def documentation(notebook):
    "What the page says of functions and classes"
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            yield joined(output.get("data", {}).get("text/markdown", ""))


def test_every_notebook_becomes_a_page(site):
    assert [name(p) for p in NOTEBOOKS if not (site / name(p)).exists()] == []
    assert {"llms.txt", "styles.css", "changelog.md", "_quarto.yml"} <= set(os.listdir(site))


def test_pages_hold_no_times_of_execution(made):
    "Quarto would wrap such cells, and their headings would leave the contents of the page"
    cells = [cell for notebook in made.values() for cell in notebook["cells"]]
    assert not any("execution" in cell["metadata"] for cell in cells)


def test_signatures_show_real_names(made):
    for page, notebook in made.items():
        for text in documentation(notebook):
            assert [bad for bad in BAD if bad in text] == [], (page, text)


def test_links_are_not_nested_and_directives_are_not_shown(made):
    for page, notebook in made.items():
        for cell in notebook["cells"]:
            if cell["cell_type"] == "markdown":
                text = joined(cell["source"])
                assert "[[`" not in text and not re.search(r"^#\|", text, re.M), (page, text)


def test_no_page_opens_with_imports(made):
    for page, notebook in made.items():
        code = [joined(o["source"]) for o in notebook["cells"] if o["cell_type"] == "code"]
        first = next(iter(code), "")
        wall = [line for line in first.splitlines() if line.startswith(("import", "from"))]
        assert len(wall) <= 5 or "code-fold: true" in first, page


def test_public_names_are_on_their_pages(made):
    shown = "\n".join(text for notebook in made.values() for text in documentation(notebook))
    missing = [name for name in roar_nb.__all__ if name != "__version__" and name not in shown]
    assert missing == []


# --- the processors


def as_cell(source, outputs=()):
    return SimpleNamespace(cell_type="code", source=source, get=lambda key: list(outputs))


@pytest.mark.parametrize(
    "source, outputs, summary",
    [
        ("import os\nfrom a import b", [], "Imports"),
        ("x = f(1)\ntest_eq(x, 2)", [], "Check"),
        ("with expect_fail(E):\n    f()", [], "Check"),
        ("x = f(1)\ntest_eq(x, 2)\nx", ["2"], None),
        ("x = f(1)", [], None),
        ("%%capture\nf()", [], None),
    ],
)
def test_what_is_folded(source, outputs, summary):
    cell = as_cell(source, outputs)
    pages.fold(cell)
    assert cell.source.endswith(source)
    assert (f'code-summary: "{summary}"' in cell.source) == (summary is not None)
    assert ("code-fold: true" in cell.source) == (summary is not None)


def example(a, *rest, b=None, **more):
    """Do it.

    At length.

    Parameters
    ----------
    a : int | None
        The first,
        in two lines.
    **more
        The rest.

    Returns
    -------
    str

    Raises
    ------
    ValueError
        If not.
    """


def test_docstrings_become_tables():
    text = pages.ApiRenderer(example)._repr_markdown_()
    assert "```python\nexample(a, *rest, b=None, **more)\n```" in text
    assert "| <code>a</code> | int \\| None | The first, in two lines. |" in text
    assert "| <code>**more</code> |  | The rest. |" in text
    assert "| str |  |" in text and "| ValueError | If not. |" in text


def test_a_link_around_code_keeps_its_target():
    cell = SimpleNamespace(
        cell_type="markdown", source="[[`a`](https://x.org)](b.ipynb) and [`a`](c)"
    )
    pages.unnest_links(cell)
    assert cell.source == "[`a`](b.ipynb) and [`a`](c)"
