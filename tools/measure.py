"""How large and how dense the exported code is: `python tools/measure.py [ROOT]`.

Docstrings do not count as lines of a cell or a function.
"""

import ast
import statistics
import sys
from pathlib import Path

from fastcore.nbio import read_nb

DIRECTIVES = ("#| export", "#| exporti", "#| exports")


def exported_cells(root):
    "(notebook, source without directives) of each exported cell"
    for path in sorted(root.glob("nbs/[0-9]*.ipynb")):
        for cell in read_nb(path).cells:
            if cell.cell_type == "code" and cell.source.lstrip().startswith(DIRECTIVES):
                lines = cell.source.strip().split("\n")
                yield path.stem, "\n".join(o for o in lines if not o.startswith("#|"))


def docstring_lines(node):
    "How many lines the docstrings below a node take"
    found = 0
    for n in ast.walk(node):
        if isinstance(
            n, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
        ) and ast.get_docstring(n):
            found += n.body[0].end_lineno - n.body[0].lineno + 1
    return found


def functions(source):
    "All functions and methods"
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def lines_of_cell(source):
    "Lines without docstrings"
    return len(source.strip().split("\n")) - docstring_lines(ast.parse(source))


def lines_of_function(node):
    "Lines without docstrings"
    return node.end_lineno - node.lineno + 1 - docstring_lines(node)


def parameters(node):
    "How many parameters a function has, `self` and `**kwargs` aside"
    a = node.args
    names = [o.arg for o in (*a.posonlyargs, *a.args, *a.kwonlyargs)]
    return len([name for name in names if name not in ("self", "cls")])


def crowded(source):
    "Lines on which a second statement begins"
    at = [node.lineno for node in ast.walk(ast.parse(source)) if isinstance(node, ast.stmt)]
    return len(at) - len(set(at))


def is_import(source):
    "Does a cell hold imports alone?"
    body = ast.parse(source).body
    return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in body)


def measure(root):
    "The figures, by what they say"
    cells = [source for _, source in exported_cells(root)]
    lengths = [lines_of_cell(source) for source in cells if not is_import(source)]
    nodes = [node for source in cells for node in functions(source)]
    bodies = [lines_of_function(node) for node in nodes]
    everything = "\n".join(cells).split("\n")
    docs = sum(docstring_lines(ast.parse(source)) for source in cells)
    return {
        "exported lines": len(everything),
        "of them docstrings": docs,
        "exported cells": len(cells),
        "median lines of an exported cell": statistics.median(lengths),
        "longest exported cell": max(lengths),
        "lines over 100 columns": sum(len(line) > 100 for line in everything),
        "lines with several statements": sum(map(crowded, cells)),
        "median lines of a function": statistics.median(bodies),
        "longest function": max(bodies),
        "functions with more than 7 parameters": sum(parameters(node) > 7 for node in nodes),
    }


if __name__ == "__main__":
    for what, number in measure(Path(sys.argv[1] if len(sys.argv) > 1 else ".")).items():
        print(f"{number:>8}  {what}")
