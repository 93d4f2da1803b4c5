"""Evaluate attribution methods by removing what they call relevant: ROAR, KAR, LeRF/MoRF, ROAD and more

What most people want stands at the front door:

- `roar_nb.attribute(model, images, labels, method=…)`: attribution maps of a batch;
- `roar_nb.evaluate(model, images, labels, methods, protocols, mean=…, std=…)`: a table over methods and protocols, in memory;
- `roar_nb.roar(make_model, splits, methods, folder=…)`: remove pixels and retrain;
- `roar_nb.show_maps(images, maps)`: look at maps;
- `roar_nb.load(folder)`: the results of a run, to plot, compare and join with others;
- `roar-nb`, a command driven by one YAML file: whole experiments that go on where they stopped.

Modules:

- `roar_nb.configs.own_method`: A template of your own attribution method."""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from pkgutil import iter_modules

try:
    __version__ = version("roar_nb")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0+unknown"

# What most people want, each with the module that it is loaded from when it is first used
_FRONT_DOOR = {
    "attribute": "attribution",
    "evaluate": "evaluation",
    "roar": "evaluation",
    "show_maps": "gallery",
    "load": "steps",
    "Scores": "results",
    "RoarError": "core",
}
_MODULES = sorted(m.name for m in iter_modules(__path__) if not m.name.startswith("_"))

__all__ = [*_FRONT_DOOR, "__version__"]


def __getattr__(name):
    if name in _FRONT_DOOR:
        # tables, figures and the report are methods of Scores, whatever was used first
        import_module("roar_nb.report")
        found = getattr(import_module(f"roar_nb.{_FRONT_DOOR[name]}"), name)
        globals()[name] = found
        return found
    if name in _MODULES:
        return import_module(f"roar_nb.{name}")
    raise AttributeError(f"module 'roar_nb' has no attribute {name!r}")


def __dir__():
    return sorted([*__all__, *_MODULES])
