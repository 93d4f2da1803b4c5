"Options and environment of the whole test run."

import os

os.environ.setdefault("MPLBACKEND", "Agg")

import pytest

FLAGS = ("slow", "cuda", "network")


def pytest_addoption(parser):
    parser.addoption(
        "--flags",
        default="",
        help=f"run what is skipped otherwise, of {' '.join(FLAGS)} (notebook cells too)",
    )


def pytest_configure(config):
    "The cores, shared out among the workers, which inherit the environment"
    workers = getattr(config.option, "numprocesses", None) or 1
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, min(4, (os.cpu_count() or 1) // workers))))


def pytest_collection_modifyitems(config, items):
    "Skip what carries a marker that `--flags` does not name; a file's tests share a worker and its fixtures, but for the notebooks"
    skipped = set(FLAGS) - set(config.getoption("--flags").split())
    for item in items:
        if item.path.stem != "test_notebooks":
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
        for flag in sorted(skipped & set(item.keywords)):
            item.add_marker(pytest.mark.skip(reason=f"needs --flags {flag}"))


@pytest.fixture(scope="session")
def flags(request):
    "The flags given on the command line, separated by spaces"
    return request.config.getoption("--flags")
