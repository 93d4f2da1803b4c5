"Every notebook runs from top to bottom: one test each, in a process of its own."

import pytest
from fastcore.ansi import strip_ansi

from repo import NOTEBOOKS, name, nbdev


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=name)
def test_notebook_runs(notebook, flags):
    result = nbdev("test.nbdev_test", path=str(notebook), n_workers=0, flags=flags)
    if result.returncode or "Success." not in result.stdout:
        pytest.fail(strip_ansi(result.stdout + result.stderr), pytrace=False)


def test_there_are_notebooks():
    assert NOTEBOOKS
