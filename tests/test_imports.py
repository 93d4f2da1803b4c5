"Imports point one way: notebooks to lower numbers, the package to what settings.ini declares."

import ast
import re
import sys

import pytest

from repo import (
    LIB,
    NOTEBOOKS,
    REFERENCE,
    ROOT,
    code_cells,
    is_exported,
    module_of,
    name,
    setting_lines,
    settings,
)

NUMBER = {module_of(p): int(p.name[:2]) for p in REFERENCE}
DIST = {
    "yaml": "pyyaml",
    "PIL": "pillow",
    "sklearn": "scikit-learn",
    "skimage": "scikit-image",
    "ruamel": "ruamel.yaml",
}
MAGIC = re.compile(r"^\s*[%!].*$", re.M)


def tree_of(source):
    "The syntax tree of a cell, magics and shell commands aside; another language's cell is empty"
    return ast.parse("" if source.lstrip().startswith("%%") else MAGIC.sub("", source))


def imports(node):
    "The dotted names that the imports below `node` name, `from a import b` as `a.b`"
    for n in ast.walk(node):
        if isinstance(n, ast.Import):
            yield from (alias.name for alias in n.names)
        elif isinstance(n, ast.ImportFrom) and not n.level:
            yield from (f"{n.module}.{alias.name}" for alias in n.names)


def own_modules(source):
    "The modules of roar_nb that a cell imports"
    parts = [dotted.split(".") for dotted in imports(tree_of(source))]
    return [p[1] for p in parts if p[0] == "roar_nb" and len(p) > 1 and not p[1].startswith("__")]


@pytest.mark.parametrize("notebook", REFERENCE, ids=name)
def test_notebooks_import_lower_numbers_only(notebook):
    own = int(notebook.name[:2])
    modules = {module for cell in code_cells(notebook) for module in own_modules(cell.source)}
    assert {m for m in modules if NUMBER.get(m, 100) >= own} == set()


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_no_star_import_is_exported(notebook):
    trees = [tree_of(cell.source) for cell in code_cells(notebook) if is_exported(cell)]
    assert [d for tree in trees for d in imports(tree) if d.endswith(".*")] == []


def distribution(requirement):
    "The normalised name that a requirement starts with"
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def declared(*keys):
    return {distribution(r) for key in keys for r in setting_lines(key)}


def third_party(names):
    "The distributions that imported names come from, the standard library and the project aside"
    tops = {dotted.split(".")[0] for dotted in names} - set(sys.stdlib_module_names) - {"roar_nb"}
    return {DIST.get(top, top).lower().replace("_", "-") for top in tops}


def lazy_nodes(tree):
    "The functions of a module, whose imports run only when they are called"
    return [
        n
        for n in ast.walk(tree)
        if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
    ]


def split_imports(tree):
    "The names imported with the module, and those imported inside functions"
    lazy = [d for node in lazy_nodes(tree) for d in imports(node)]
    inside = {id(n) for node in lazy_nodes(tree) for n in ast.walk(node)}
    eager = [
        d
        for n in ast.walk(tree)
        if id(n) not in inside and isinstance(n, (ast.Import, ast.ImportFrom))
        for d in imports(n)
    ]
    return eager, lazy


MODULES = sorted(p for p in LIB.rglob("*.py") if p.name != "_modidx.py")


@pytest.mark.parametrize("module", MODULES, ids=lambda p: p.name)
def test_package_imports_are_declared(module):
    eager, lazy = split_imports(ast.parse(module.read_text(encoding="utf-8")))
    extras = [k for k in settings() if k.endswith("_requirements") and k != "dev_requirements"]
    assert third_party(eager) - declared("requirements") == set()
    assert third_party(lazy) - declared("requirements", *extras) == set()


def test_lessons_and_tests_import_what_dev_installs():
    sources = [cell.source for p in NOTEBOOKS for cell in code_cells(p)]
    sources += [p.read_text(encoding="utf-8") for p in sorted((ROOT / "tests").rglob("*.py"))]
    local = {
        p.stem
        for folder in (ROOT / "tests", ROOT / "tools", LIB / "configs")
        for p in folder.glob("*.py")
    }
    names = [d for s in sources for d in imports(tree_of(s)) if d.split(".")[0] not in local]
    # IPython comes with nbdev, tomllib with Python 3.11
    assert (
        third_party(names) - declared("requirements", "dev_requirements") - {"ipython", "tomli"}
        == set()
    )
