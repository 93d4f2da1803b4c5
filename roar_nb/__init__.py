"""Evaluate attribution methods by removing what they call relevant: ROAR, KAR, LeRF/MoRF, ROAD and more

Modules:

- `roar_nb.configs.own_method`: A template of your own attribution method."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("roar_nb")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
