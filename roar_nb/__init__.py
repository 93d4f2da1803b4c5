"""Evaluate attribution methods by removing what they call relevant and retraining (ROAR and KAR)"""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("roar_nb")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"
