"""What nbdev does besides its own steps when it makes the documentation's pages.

pyproject.toml names these processors and the renderer; `PYTHONPATH=. nbdev-docs` finds them.
"""

import ast
import inspect
import re
from dataclasses import MISSING, fields, is_dataclass
from textwrap import dedent, indent

from nbdev.showdoc import BasicMarkdownRenderer

DIRECTIVE = re.compile(r"^#\|.*\n", re.M)
NESTED = re.compile(r"\[\[(`[^`\]]+`)\]\([^)\s]*\)\]\(([^)\s]+)\)")
WIDTH = 88
SECTION = re.compile(r"^(\w+)\n-{3,}\n", re.M)
ENTRY = re.compile(r"^(\S.*)\n((?:(?:[ ]+.*)?\n?)*)", re.M)
NAMED = ("Parameters", "Attributes")
TABLES = (*NAMED, "Returns", "Yields", "Raises")


def drop_execution(cell):
    "Remove the times of execution: Quarto would wrap the cell in a box of its own"
    cell.get("metadata", {}).pop("execution", None)


def drop_directives(cell):
    "Remove what only nbdev should read of a text cell"
    if cell.cell_type == "markdown":
        cell.source = DIRECTIVE.sub("", cell.source)


def unnest_links(cell):
    "A link whose text is code keeps its own target, not that of the code"
    if cell.cell_type == "markdown":
        cell.source = NESTED.sub(r"[\1](\2)", cell.source)


def is_import(node):
    "Is the statement an import?"
    return isinstance(node, (ast.Import, ast.ImportFrom))


def is_check(node):
    "Is the statement an assertion, or a block that ends in one?"
    if isinstance(node, ast.Assert):
        return True
    if isinstance(node, (ast.For, ast.With)):
        return "expect_fail" in ast.unparse(node) or is_check(node.body[-1])
    call = node.value if isinstance(node, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func).startswith("test_")


def statements(source):
    "The statements of a cell, none where it is not Python"
    try:
        return ast.parse(source).body
    except SyntaxError:
        return []


def fold(cell):
    "Fold what is no lesson: imports, and checks that show nothing"
    if cell.cell_type != "code" or "code-fold" in cell.source:
        return
    body = statements(cell.source)
    if body and all(map(is_import, body)):
        summary = "Imports"
    elif body and any(map(is_check, body)) and not cell.get("outputs"):
        summary = "Check"
    else:
        return
    cell.source = f'#| code-fold: true\n#| code-summary: "{summary}"\n{cell.source}'


def default_of(sym, parameter):
    "The default value of a parameter as source code"
    if is_dataclass(sym):
        facts = {f.name: f for f in fields(sym)}.get(parameter.name)
        if facts and facts.default_factory is not MISSING:
            return repr(facts.default_factory())
    return getattr(parameter.default, "__name__", None) or repr(parameter.default)


def parameter_text(sym, parameter):
    "One parameter of a signature, without its type"
    stars = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}
    text = stars.get(parameter.kind, "") + parameter.name
    if parameter.default is parameter.empty:
        return text
    return f"{text}={default_of(sym, parameter)}"


def parameters_of(sym):
    "The parameters of a signature as texts, `*` and `/` where they stand"
    found, previous = [], None
    for parameter in inspect.signature(sym).parameters.values():
        if parameter.name == "self":
            continue
        if previous == parameter.POSITIONAL_ONLY != parameter.kind:
            found.append("/")
        stars = (parameter.VAR_POSITIONAL, parameter.KEYWORD_ONLY)
        if parameter.kind == parameter.KEYWORD_ONLY and previous not in stars:
            found.append("*")
        found.append(parameter_text(sym, parameter))
        previous = parameter.kind
    return found + ["/"] * (previous == inspect.Parameter.POSITIONAL_ONLY)


def call_text(name, parameters, width):
    "`name(parameters)`, over several lines where it is long"
    line = f"{name}({', '.join(parameters)})"
    if len(line) <= width:
        return line
    inner = ",\n".join(parameters)
    return f"{name}(\n{indent(inner, '    ')},\n)"


def signature_text(sym, name, width=WIDTH):
    "How the symbol is called"
    try:
        return call_text(name, parameters_of(sym), width)
    except (TypeError, ValueError):
        return name


def sections(text):
    "The summary of a docstring in numpy's style, and {title: text} of its sections"
    summary, *rest = SECTION.split(text)
    return summary.strip(), dict(zip(rest[::2], rest[1::2]))


def code(name):
    "A name as code that nbdev does not take for that of a function"
    return f"<code>{name}</code>"


def entry_cells(title, head, lines):
    "One entry of a section as cells: name where it has one, type, description"
    name, colon, kind = head.partition(" : ")
    about = dedent(lines)
    if title in NAMED:
        return code(name), kind, about
    return (code(name), kind, about) if colon else (head, about)


def row(cells):
    "One row of a table in markdown"
    texts = [" ".join(cell.split()).replace("|", r"\|") for cell in cells]
    return "| " + " | ".join(texts) + " |"


def table(title, text):
    "A section of parameters, results or errors as a table"
    rows = [entry_cells(title, *entry) for entry in ENTRY.findall(text)]
    head = [title, *[""] * (len(rows[0]) - 1)]
    return "\n".join([row(head), "|---" * len(head) + "|", *map(row, rows)])


def section(title, text):
    "A section of a docstring as markdown"
    if title in TABLES:
        return table(title, text)
    if title == "Examples":
        text = f"```python\n{text.strip()}\n```"
    return f"**{title}**\n\n{text.strip()}"


def docstring_text(text):
    "A docstring in numpy's style as markdown"
    summary, rest = sections(text)
    return "\n\n".join([summary, *(section(*o) for o in rest.items())])


class ApiRenderer(BasicMarkdownRenderer):
    "A symbol as the documentation shows it: name, call, and the sections of its docstring"

    def _repr_markdown_(self):
        before = super()._repr_markdown_().partition("```python")[0]
        call = signature_text(self.sym, self.nm)
        text = docstring_text(inspect.getdoc(self.sym) or "")
        return f"{before}```python\n{call}\n```\n\n{text}"
