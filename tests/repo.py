"What the tests about the repository share: where things are, and readers for notebooks and settings."

import configparser
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from fastcore.nbio import read_nb

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT / "nbs"
LIB = ROOT / "roar_nb"
HIDDEN = re.compile(r"^[_.]")
NUMBERED = re.compile(r"^\d\d_\w+\.ipynb$")


def find_notebooks():
    "Every notebook of the project, hidden files and folders aside"
    paths = NBS.rglob("*.ipynb")
    return sorted(
        p for p in paths if not any(HIDDEN.match(part) for part in p.relative_to(NBS).parts)
    )


NOTEBOOKS = find_notebooks()
REFERENCE = [p for p in NOTEBOOKS if p.parent == NBS and NUMBERED.match(p.name)]


def name(path):
    "A notebook's path below nbs/"
    return path.relative_to(NBS).as_posix()


def code_cells(path):
    return [cell for cell in read_nb(path).cells if cell.cell_type == "code"]


def is_exported(cell):
    "Does the cell go into the module?"
    return any(cell.has_directive(d) for d in ("export", "exports", "exporti"))


def module_of(path):
    "The module that a notebook exports to, or None"
    return next(
        (
            cell.directive("default_exp")
            for cell in code_cells(path)
            if cell.has_directive("default_exp")
        ),
        None,
    )


def settings():
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(ROOT / "settings.ini", encoding="utf-8")
    return parser.defaults()


def setting_lines(key):
    return [line.strip() for line in settings()[key].splitlines() if line.strip()]


def run(*args, cwd=ROOT, **env):
    "A command's result, its output as text; an `env` value of None removes the variable"
    # an nbdev command does nothing under IN_TEST, and reads defaults from the user's config folder
    env = {"IN_TEST": None, "XDG_CONFIG_HOME": str(cwd), **env}
    env = {key: value for key, value in {**os.environ, **env}.items() if value is not None}
    return subprocess.run([str(a) for a in args], cwd=cwd, env=env, capture_output=True, text=True)


def nbdev(command, cwd=ROOT, **options):
    "Run an nbdev command, named `module.function`, with this interpreter"
    module, function = command.split(".")
    code = f"from nbdev.{module} import {function}; {function}(**{options!r})"
    return run(sys.executable, "-c", code, cwd=cwd)


def scratch_copy(dest, *names):
    "Copy files and folders of the repository into `dest`, caches aside"
    skip = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints", "*.egg-info")
    for each in names:
        source = ROOT / each
        if source.is_dir():
            shutil.copytree(source, dest / each, symlinks=True, ignore=skip)
        else:
            shutil.copy(source, dest / each)
    return dest
