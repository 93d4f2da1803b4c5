"What is built from a checkout holds what a user needs, and says what settings.ini says."

import re
import sys
import tarfile
import zipfile
from email.parser import Parser

import pytest
import yaml
from nbdev.config import get_config

from repo import LIB, NOTEBOOKS, ROOT, run, scratch_copy, setting_lines, settings

SOURCES = (
    "pyproject.toml",
    "setup.py",
    "settings.ini",
    "MANIFEST.in",
    "README.md",
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "CITATION.cff",
    "Dockerfile",
    "Taskfile.yml",
    "_quarto.yml",
    "benchmarks",
    "configs",
    "nbs",
    "tests",
    "tools",
    "roar_nb",
)


@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    "A folder with the sdist, and the wheel made from it"
    source = scratch_copy(tmp_path_factory.mktemp("source"), *SOURCES)
    out = tmp_path_factory.mktemp("dist")
    result = run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, cwd=source)
    assert result.returncode == 0, result.stdout + result.stderr
    return out


@pytest.fixture(scope="module")
def wheel(dist):
    return next(dist.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    "A folder that holds the installed wheel and nothing else"
    target = tmp_path_factory.mktemp("installed")
    result = run(
        sys.executable, "-m", "pip", "install", "--no-deps", "--no-index", "--target", target, wheel
    )
    assert result.returncode == 0, result.stderr
    return target


@pytest.fixture(scope="module")
def metadata(wheel):
    with zipfile.ZipFile(wheel) as archive:
        path = next(n for n in archive.namelist() if n.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(path).decode())


def package_files():
    "What the wheel must hold of roar_nb/"
    patterns = ("*.py", "py.typed", "configs/*", "assets/*", "templates/*")
    return {
        p.relative_to(ROOT).as_posix()
        for pattern in patterns
        for p in LIB.glob(pattern)
        if p.is_file()
    }


def test_pyproject_says_what_settings_say():
    cfg, said = settings(), get_config(ROOT)
    assert (said.lib_name, said.description) == (cfg["lib_name"], cfg["description"])
    assert (said.git_url, said.doc_url) == (cfg["git_url"], cfg["doc_url"])


def test_metadata_comes_from_settings(metadata):
    cfg = settings()
    assert (metadata["Name"], metadata["Version"]) == (cfg["lib_name"], cfg["version"])
    assert (metadata["Summary"], metadata["Author"]) == (cfg["description"], cfg["author"])
    assert metadata["License-Expression"] == cfg["license"]
    assert metadata["Requires-Python"] == f">={cfg['min_python']}"
    assert metadata["Description-Content-Type"] == "text/markdown"


def test_metadata_requires_what_settings_require(metadata):
    plain = [r for r in metadata.get_all("Requires-Dist") if "extra ==" not in r]
    assert len(plain) == len(setting_lines("requirements"))
    extras = {k.removesuffix("_requirements") for k in settings() if k.endswith("_requirements")}
    assert set(metadata.get_all("Provides-Extra")) == extras


def test_wheel_holds_the_package(wheel):
    with zipfile.ZipFile(wheel) as archive:
        held = {n for n in archive.namelist() if ".dist-info/" not in n}
        entry = next(
            archive.read(n).decode() for n in archive.namelist() if n.endswith("entry_points.txt")
        )
    assert held == package_files()
    assert {"roar_nb/py.typed", "roar_nb/cli.py"} <= held
    assert any(n.startswith("roar_nb/configs/") for n in held)
    assert "roar-nb = roar_nb.cli:main" in entry and "roar_nb = roar_nb._modidx:d" in entry


def test_sdist_holds_what_setup_reads(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        held = {n.partition("/")[2] for n in archive.getnames()}
    assert {
        "setup.py",
        "settings.ini",
        "pyproject.toml",
        "README.md",
        "LICENSE",
    } | package_files() <= held


def test_sdist_holds_notebooks_and_tests(dist):
    with tarfile.open(next(dist.glob("*.tar.gz"))) as archive:
        held = {n.partition("/")[2] for n in archive.getnames()}
    expected = [*NOTEBOOKS, *(ROOT / "tests").glob("*.*"), *(ROOT / "tools").glob("*.py")]
    assert {p.relative_to(ROOT).as_posix() for p in expected} <= held
    assert not [n for n in held if "__pycache__" in n or n.endswith(".pyc")]


def test_version_is_that_of_the_installation(installed, tmp_path):
    code = "import roar_nb; print(roar_nb.__version__, roar_nb.__file__)"
    result = run(sys.executable, "-c", code, cwd=tmp_path, PYTHONPATH=str(installed))
    assert result.stdout.split() == [
        settings()["version"],
        str(installed / "roar_nb/__init__.py"),
    ], result.stderr


@pytest.mark.parametrize("command", [[], ["run"]], ids=["roar-nb", "run"])
def test_installed_command_helps(installed, tmp_path, command):
    result = run(
        sys.executable, "-m", "roar_nb", *command, "--help", cwd=tmp_path, PYTHONPATH=str(installed)
    )
    assert result.returncode == 0, result.stderr
    assert "usage" in result.stdout.lower()


def test_configs_at_the_top_are_the_packaged_ones():
    assert (ROOT / "configs").resolve() == LIB / "configs"
    assert list((ROOT / "configs").glob("*.yml"))


def test_ci_starts_at_the_oldest_python():
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text(encoding="utf-8"))
    versions = workflow["jobs"]["test"]["strategy"]["matrix"]["python-version"]
    assert versions[0] == settings()["min_python"]
    assert versions == sorted(versions, key=lambda v: int(re.sub(r"^3\.", "", v)))
