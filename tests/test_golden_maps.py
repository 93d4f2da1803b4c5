"""The numbers of every method on a small network, kept with the method's revision.

A method whose maps change must raise its `revision`, or stored maps of an earlier version would be
taken for its own. `python tests/test_golden_maps.py` writes the numbers of methods that are new or
whose revision was raised; it refuses where numbers changed under the same revision.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from roar_nb.attribution import METHODS, attribute

FILE = Path(__file__).parent / "golden_maps.json"
TOLERANCE = 1e-4  # relative to the largest of a method's numbers
QUICK = dict(
    integrated_gradients=dict(n_steps=6, baseline="black"),
    gradient_shap=dict(n_samples=4),
    occlusion=dict(window=6),
    feature_ablation=dict(cells=4),
    rise=dict(n_masks=40),
    smoothgrad=dict(n_samples=3),
    smoothgrad_sq=dict(n_samples=3),
    vargrad=dict(n_samples=3),
    neuron_intgrad=dict(n_steps=3),
    pathway_grad=dict(n_steps=3),
)


def waves(*shape, shift=0.0):
    "Numbers in [-1,1] by a formula, the same with every version of torch"
    n = torch.Size(shape).numel()
    return torch.sin(torch.arange(n, dtype=torch.float64) ** 1.5 + shift).view(shape)


class Tiny(nn.Module):
    "Convolutions, batch norm, ReLUs, a skip connection, pooling and two linear layers"

    def __init__(self):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6)
        self.relu1, self.relu2, self.relu3 = nn.ReLU(), nn.ReLU(), nn.ReLU()
        self.pool, self.fc1, self.fc2 = nn.MaxPool2d(2), nn.Linear(96, 12), nn.Linear(12, 4)

    def forward(self, x):
        x = self.pool(self.relu1(self.bn1(self.conv1(x))))
        x = self.relu2(self.bn2(self.conv2(x)) + x)
        x = F.adaptive_avg_pool2d(x, 4).flatten(1)
        return self.fc2(self.relu3(self.fc1(x)))


def network():
    "In float64, so that machines agree"
    model = Tiny().double().eval()
    for k, (name, value) in enumerate(model.state_dict().items()):
        if value.is_floating_point():
            new = waves(*value.shape, shift=k) / max(1, value[0].numel()) ** 0.5
            value.copy_(1 + new / 2 if name.endswith("var") or "bn" in name else new)
    return model


def numbers(method):
    "Means of the maps over a 4×2 grid, of two images"
    images, relevance = waves(2, 3, 16, 16, shift=0.5), waves(2, 16, 16) > 0
    facts = dict(mean=[0.4, 0.5, 0.6], std=[0.2, 0.25, 0.3], relevance=relevance, seed=1)
    maps = attribute(network(), images, [3, 2], method, **facts, **QUICK.get(method, {}))
    means = F.adaptive_avg_pool2d(maps.double(), (4, 2)).flatten()
    return [float(f"{value:.6g}") for value in means]


def agree(a, b):
    "Do two lists of numbers agree?"
    largest = max(map(abs, [*a, *b]))
    return all(abs(x - y) <= TOLERANCE * largest for x, y in zip(a, b, strict=True))


def golden():
    return json.loads(FILE.read_text(encoding="utf-8")) if FILE.exists() else {}


@pytest.mark.parametrize("method", METHODS)
def test_numbers_change_with_the_revision_only(method):
    kept, advice = golden().get(method), "run python tests/test_golden_maps.py"
    revision = METHODS.find(method).revision
    assert kept, f"{method} has no numbers yet: {advice}"
    assert kept["revision"] == revision, f"{method} has revision {revision}: {advice}"
    assert agree(kept["numbers"], numbers(method)), (
        f"the maps of {method} changed: raise its revision where it is registered, then {advice}"
    )


def test_only_what_is_registered_is_kept():
    assert sorted(golden()) == sorted(METHODS)


def test_the_numbers_tell_methods_apart():
    "None is empty, and no two are the same, but for the two that share their rule here"
    kept = {name: tuple(entry["numbers"]) for name, entry in golden().items()}
    assert all(any(values) for values in kept.values())
    assert len(set(kept.values())) >= len(kept) - 1


@pytest.mark.parametrize("method", ["gradient", "sobel"])
def test_a_change_is_found(method, monkeypatch):
    entry = METHODS.find(method)
    changed = replace(entry, fn=lambda *args, **kwargs: 1.001 * entry.fn(*args, **kwargs))
    monkeypatch.setitem(METHODS._entries, method, changed)
    with pytest.raises(AssertionError, match="changed: raise its revision"):
        test_numbers_change_with_the_revision_only(method)
    monkeypatch.setitem(METHODS._entries, method, replace(entry, revision=99))
    with pytest.raises(AssertionError, match="has revision 99: run python"):
        test_numbers_change_with_the_revision_only(method)


def write():
    "Write the numbers; exit with an error where they changed under the same revision"
    old, new, wrong = golden(), {}, []
    for method in METHODS:
        entry = dict(revision=METHODS.find(method).revision, numbers=numbers(method))
        kept = old.get(method, {"revision": None})
        if kept["revision"] != entry["revision"]:
            print(f"{method}: revision {kept['revision']} -> {entry['revision']}")
        elif not agree(kept["numbers"], entry["numbers"]):
            wrong.append(method)
        else:
            entry = kept
        new[method] = entry
    if wrong:
        sys.exit(f"raise the revision of {', '.join(wrong)}: their maps changed; nothing written")
    lines = [f" {json.dumps(name)}: {json.dumps(entry)}" for name, entry in new.items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    write()
