"Exported code is short, plain and documented."

import ast
import importlib
import inspect
import pkgutil
import sys

import pytest

import roar_nb
from repo import NOTEBOOKS, REFERENCE, ROOT, code_cells, name, run

sys.path.insert(0, str(ROOT / "tools"))
import measure  # noqa: E402

COLUMNS, CELL, FUNCTION, PARAMETERS, PUBLIC = 100, 30, 25, 7, 100
CELLS = list(measure.exported_cells(ROOT))


@pytest.mark.parametrize("notebook", [p.stem for p in REFERENCE])
class TestExported:
    def sources(self, notebook):
        return [source for name, source in CELLS if name == notebook]

    def test_columns(self, notebook):
        lines = [o for source in self.sources(notebook) for o in source.split("\n")]
        assert [line for line in lines if len(line) > COLUMNS] == []

    def test_cells_are_short(self, notebook):
        cells = [s for s in self.sources(notebook) if not measure.is_import(s)]
        assert [s.split("\n")[0] for s in cells if measure.lines_of_cell(s) > CELL] == []

    def test_functions_are_short(self, notebook):
        nodes = [n for s in self.sources(notebook) for n in measure.functions(s)]
        assert [n.name for n in nodes if measure.lines_of_function(n) > FUNCTION] == []

    def test_functions_take_few_parameters(self, notebook):
        nodes = [n for s in self.sources(notebook) for n in measure.functions(s)]
        # the front door and what a configuration calls by keyword take what users may give
        many = [n for n in nodes if measure.parameters(n) > PARAMETERS]
        assert [n.name for n in many if len(n.args.args) > PARAMETERS] == []

    def test_one_statement_a_line(self, notebook):
        assert [s for s in self.sources(notebook) if measure.crowded(s)] == []


def test_the_median_cell_has_ten_lines():
    assert measure.measure(ROOT)["median lines of an exported cell"] <= 10


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_imports_stand_alone(notebook):
    "The docs execute cells with imports, so such a cell holds nothing else"
    mixed = []
    for cell in code_cells(notebook):
        source = "\n".join(o for o in cell.source.split("\n") if not o.startswith(("#|", "%", "!")))
        kinds = {isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(source).body}
        if kinds == {True, False}:
            mixed.append(source.split("\n")[0])
    assert mixed == []


def modules():
    for module in pkgutil.iter_modules(roar_nb.__path__, "roar_nb."):
        if (
            not module.ispkg
            and not module.name.endswith("__main__")
            and "_modidx" not in module.name
        ):
            yield importlib.import_module(module.name)


def public():
    "Everything in `__all__` of some module"
    for module in modules():
        for each in getattr(module, "__all__", []):
            yield f"{module.__name__}.{each}", getattr(module, each)


def test_the_public_surface_is_small():
    assert len(list(public())) <= PUBLIC


@pytest.mark.parametrize(
    "dotted, thing", list(public()), ids=lambda o: o if isinstance(o, str) else ""
)
def test_public_things_are_documented(dotted, thing):
    if not callable(thing) or isinstance(thing, dict) or inspect.ismodule(thing):
        return
    if inspect.isclass(thing) and issubclass(thing, Exception):
        return
    doc = inspect.getdoc(thing) or ""
    assert len(doc.splitlines()) > 3 and "Examples" in doc, dotted
    if inspect.isroutine(thing) and inspect.signature(thing).parameters:
        assert "Parameters" in doc, dotted
        named = inspect.signature(thing).parameters.values()
        missing = [p.name for p in named if p.kind != p.VAR_KEYWORD and p.name not in doc]
        assert missing == [], dotted


def test_code_is_formatted():
    result = run(
        sys.executable, "-m", "ruff", "format", "--check", "nbs", "tests", "tools", "benchmarks"
    )
    assert result.returncode == 0, result.stdout
