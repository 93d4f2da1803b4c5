"""Make README.md and CONTRIBUTING.md from their notebooks, and nbs/llms.txt from the package.

python tools/texts.py            writes what is stale
python tools/texts.py --check    writes nothing; exit 1 if something is stale
"""

import argparse
import configparser
import importlib
import inspect
import math
import pkgutil
import posixpath
import re
import sys
from pathlib import Path

from fastcore.nbio import read_nb

import roar_nb
from pages import signature_text

ROOT = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "nbs/index.ipynb", "CONTRIBUTING.md": "nbs/extend.ipynb"}
IMAGES = (".png", ".jpg", ".svg")
FENCED = re.compile(r"(^```.*?^```[ \t]*$)", re.M | re.S)
TARGET = re.compile(r"""(\]\(\s*<?|(?:src|href)=["'])([^\s)>"']+)""")
NUMBER = re.compile(r"^\d+_")
LONG = 200


def settings():
    "What settings.ini says"
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser.defaults()


def page_address(path):
    "Where the documentation shows a notebook, given by its path below nbs/"
    folder, name = posixpath.split(path)
    page = NUMBER.sub("", name).removesuffix(".ipynb") + ".html"
    return posixpath.join(settings()["doc_url"], folder, page)


def absolute(target):
    "A target relative to nbs/ as a public address: pages in the documentation, files in the source"
    if re.match(r"[a-z][a-z0-9+.-]*:|[#/]", target, re.I):
        return target
    path, mark, anchor = target.partition("#")
    if path.endswith(".ipynb"):
        return page_address(path) + mark + anchor
    kind = "raw" if path.endswith(IMAGES) else "blob"
    path = posixpath.normpath(posixpath.join("nbs", path))
    return f"{settings()['git_url']}/{kind}/main/{path}{mark}{anchor}"


def rewrite_links(text):
    "`text` with public addresses for its relative links and images, code blocks left alone"
    parts = FENCED.split(text)
    parts[::2] = [TARGET.sub(lambda m: m[1] + absolute(m[2]), part) for part in parts[::2]]
    return "".join(parts)


def title(source):
    "The title cell: `# name`, then its `> blurb` as a paragraph"
    return re.sub(r"^> ?", "", source, flags=re.M)


def fenced(text, language=""):
    "`text` as a code block whose fence is longer than any fence inside"
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def output_md(output):
    "One output as markdown"
    data = output.get("data", {"text/plain": output.get("text", "")})
    if "text/markdown" in data:
        return rewrite_links("".join(data["text/markdown"]))
    text = "".join(data.get("text/plain", "")).rstrip()
    return fenced(text) if text else ""


def code_md(cell):
    "A code cell and its outputs, as far as its directives show them"
    directives = cell.directives
    if "hide" in directives or directives.get("include") == "false":
        return []
    source = "".join(cell._partition()[1]).strip()
    shown = source and directives.get("echo") != "false"
    outputs = cell.outputs if directives.get("output") != "false" else []
    return [*([fenced(source, "python")] if shown else []), *map(output_md, outputs)]


def as_markdown(notebook):
    "A notebook as a page of the repository"
    blocks = []
    for cell in read_nb(ROOT / notebook).cells:
        if cell.cell_type == "markdown":
            source = re.sub(r"^#\| .*\n", "", cell.source)
            source = title(source) if not blocks else source
            blocks.append(rewrite_links(source).strip())
        elif cell.cell_type == "code":
            blocks += code_md(cell)
    note = f"<!-- Made from {notebook} by tools/texts.py: edit that notebook, not this file. -->"
    return "\n\n".join([note, *filter(None, blocks)]) + "\n"


def heading(path):
    "Title and blurb of a notebook"
    first = read_nb(path).cells[0].source
    return re.search(r"^# (.+)", first, re.M)[1], re.search(r"^> (.+)", first, re.M)[1]


def front_door():
    "What the landing page says of the most used functions"
    cells = read_nb(ROOT / PAGES["README.md"]).cells
    return next(o.source.partition("\n")[2] for o in cells if o.source.startswith("#| export\n"))


def page_lines(pattern):
    "A line for each page of the documentation"
    for path in sorted((ROOT / "nbs").glob(pattern)):
        name, blurb = heading(path)
        address = page_address(path.relative_to(ROOT / "nbs").as_posix())
        yield f"- [{name}]({address}): {rewrite_links(blurb)}"


def documented(thing):
    "Is it a function or class, which says what it is?"
    return inspect.isfunction(thing) or inspect.isclass(thing)


def call(thing, name):
    "How it is called, in one line; of what cannot be called, or has very many arguments, its name"
    text = signature_text(thing, name, width=math.inf) if documented(thing) else name
    return text if len(text) < LONG else f"{name}(…)"


def summary(thing):
    "The first sentence of what `help` says; of a collection, what it holds"
    return inspect.getdoc(thing).split("\n")[0] if documented(thing) else ", ".join(thing)


def api_line(thing, name):
    "One line of llms.txt"
    return f"- `{call(thing, name)}`: {summary(thing)}"


def methods_of(cls):
    "The public methods that a class itself defines, by name"
    own = {name: fn for name, fn in vars(cls).items() if inspect.isfunction(fn)}
    return {name: fn for name, fn in own.items() if name[0] != "_" and fn.__doc__}


def api_lines():
    "A line for each public name, and for the methods of what is a class"
    for found in sorted(pkgutil.iter_modules(roar_nb.__path__), key=lambda m: m.name):
        module = f"roar_nb.{found.name}"
        public = vars(importlib.import_module(module))
        for name in public.get("__all__", ()) if found.name != "__main__" else ():
            thing = public[name]
            yield api_line(thing, f"{module}.{name}")
            for method, fn in methods_of(thing).items() if inspect.isclass(thing) else ():
                yield api_line(fn, f"{module}.{name}.{method}")


def llms():
    "The package in one page for language models, by the convention of llmstxt.org"
    cfg = settings()
    parts = [f"# {cfg['lib_name']}", f"> {cfg['description']}", front_door()]
    parts += ["## Tutorials", "\n".join(page_lines("tutorials/*.ipynb"))]
    parts += ["## Pages", "\n".join(page_lines("*.ipynb"))]
    parts += ["## Public names", "\n".join(api_lines())]
    return "\n\n".join(parts) + "\n"


def wanted():
    "{path: text} of every file that is made here"
    pages = {path: as_markdown(notebook) for path, notebook in PAGES.items()}
    return {**pages, "nbs/llms.txt": llms()}


def stale():
    "{path: text} of the files that are not as they should be"
    found = {}
    for path, text in wanted().items():
        there = ROOT / path
        if not there.exists() or there.read_text(encoding="utf-8") != text:
            found[path] = text
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if stale")
    check, files = parser.parse_args().check, stale()
    for path, text in files.items():
        if not check:
            (ROOT / path).write_text(text, encoding="utf-8")
        print(f"{path}: {'stale' if check else 'written'}")
    return int(check and bool(files))


if __name__ == "__main__":
    sys.exit(main())
