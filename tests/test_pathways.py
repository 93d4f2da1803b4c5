"Critical pathways: the same map in any batch, for networks of ReLUs only."

import copy

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from roar_nb.attribution import attribute
from roar_nb.core import AttributionError, ConfigError
from roar_nb.models import ResNet8
from roar_nb.pathways import in_double, marginal_contributions, pathway, pathway_grad


def images(n=4, size=64):
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(0))


def network(name, seed=0):
    "With running statistics of batch norm as of a batch"
    torch.manual_seed(seed)
    extra = dict(init_weights=False) if name.startswith("vgg") else {}
    model = getattr(torchvision.models, name)(weights=None, num_classes=10, **extra)
    if name.startswith("vgg"):  # a smaller head, for the time it takes
        head = [nn.Linear(512 * 49, 128), nn.ReLU(), nn.Dropout(), nn.Linear(128, 10)]
        model.classifier = nn.Sequential(*head)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(8, 3, 64, 64))
    return model.eval()


@pytest.mark.parametrize("name, seed", [("vgg11_bn", 0), ("densenet121", 4)])
def test_the_batch_does_not_matter(name, seed):
    "In float32 the maps of some of these images would differ by a third or more of their norm"
    model, x, c = network(name, seed), images(8), torch.arange(8)
    alone, whole = (
        attribute(model, x, c, "neuron_mct", reduction="none", batch_size=n) for n in (1, 4)
    )
    for a, b in zip(whole, alone):
        assert (a - b).norm() < 1e-6 * b.norm()


def test_the_batch_does_not_matter_for_integrals():
    model, x, c = ResNet8(width=8).eval(), images(2, 32), torch.tensor([1, 2])
    kwargs = dict(reduction="none", n_steps=3)
    whole = attribute(model, x, c, "neuron_intgrad", **kwargs)
    for n in (1, 5):
        other = attribute(model, x, c, "neuron_intgrad", batch_size=n, **kwargs)
        assert (whole - other).norm() < 1e-6 * whole.norm()


def test_computed_in_double():
    "The map is that of a copy of the network in float64"
    model, x, c = network("resnet18"), images(2), torch.tensor([1, 2])
    ours = attribute(model, x, c, "neuron_mct", reduction="none")
    double = copy.deepcopy(model).double().requires_grad_(False)
    theirs = pathway_grad(double, x.double(), c, "mct")
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)
    rough = attribute(model, x, c, "neuron_mct", reduction="none", precision="bf16")
    torch.testing.assert_close(ours, rough, rtol=1e-6, atol=0)


def test_the_model_stays_as_it_was():
    model = ResNet8(width=4)
    model.fc.weight = nn.Parameter(model.fc.weight.data)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    tensors = [*model.parameters(), *model.buffers()]
    where = [t.data_ptr() for t in tensors]
    attribute(model, images(2, 32), method="neuron_mct")
    with pytest.raises(ZeroDivisionError), in_double(model, "cpu"):
        assert model.fc.weight.dtype == torch.float64
        1 / 0
    assert [t.data_ptr() for t in tensors] == where and model.training
    for k, v in model.state_dict().items():
        assert v.dtype == state[k].dtype and torch.equal(v, state[k])
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    model(images(2, 32)).sum().backward()  # the gradients are float32 again
    assert model.fc.weight.grad.dtype == torch.float32


OTHERS = {
    "mobilenet_v3_small": "hardsigmoid, hardswish",
    "regnet_y_400mf": "sigmoid",
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_activations_are_refused(name):
    model = getattr(torchvision.models, name)(weights=None).eval()
    for method in ("neuron_mct", "neuron_intgrad"):
        with pytest.raises(AttributionError, match=f"computes with {OTHERS[name]} as well"):
            attribute(model, images(1), method=method)


class Then(nn.Module):
    "A ReLU, and something else"

    def __init__(self, other):
        super().__init__()
        self.first, self.last, self.other = nn.Conv2d(3, 4, 3), nn.Linear(4, 5), other

    def forward(self, x):
        return self.last(self.other(F.relu(self.first(x)) - 0.1).mean((2, 3)))


SPELLINGS = [
    (lambda x: x * (x > 0), "gt"),
    (lambda x: x * (0 <= x), "ge"),
    (lambda x: torch.where(x < 0, 0, x), "lt"),
    (lambda x: torch.maximum(x, torch.zeros_like(x)), "maximum"),
    (nn.PReLU(), "prelu"),
    (nn.LeakyReLU(), "leaky_relu"),
    (nn.SiLU(inplace=True), "silu"),
    (nn.Hardtanh(), "hardtanh"),
    (torch.sigmoid, "sigmoid"),
    (lambda x: x.tanh(), "tanh"),
]


@pytest.mark.parametrize("other, name", SPELLINGS, ids=[name for _, name in SPELLINGS])
def test_other_spellings_are_refused(other, name):
    with pytest.raises(AttributionError, match=f"Then computes with {name} as well"):
        attribute(Then(other), images(2, 8), method="neuron_mct")


@pytest.mark.parametrize("relu", [nn.ReLU(inplace=True), nn.ReLU6(), lambda x: x.clamp(min=0)])
def test_relus_are_taken(relu):
    assert attribute(Then(relu), images(2, 8), method="neuron_mct").any()


class Unconnected(nn.Module):
    "A ReLU of weights alone, one on the way to nothing, and a comparison of weights"

    def __init__(self):
        super().__init__()
        self.gate, self.conv = nn.Parameter(torch.ones(1)), nn.Conv2d(3, 4, 3)
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = F.relu(self.conv(x)) * F.relu(self.gate) * (self.gate > 0) * self.gate.sigmoid()
        F.relu(x)
        return self.fc(x.mean((2, 3)))


@pytest.mark.parametrize("method", ["neuron_mct", "neuron_intgrad"])
def test_activations_without_the_image(method):
    assert attribute(Unconnected(), images(2, 8), method=method, sparsity=0).shape == (2, 8, 8)


@pytest.mark.parametrize("bad", [101, -1, "75", True])
def test_impossible_sparsity(bad):
    with pytest.raises(ConfigError, match="sparsity"):
        attribute(ResNet8(width=4), images(1, 32), method="pathway_grad", sparsity=bad)


def test_unknown_contribution():
    with pytest.raises(ConfigError, match="did you mean 'intgrad'"):
        attribute(ResNet8(width=4), images(1, 32), method="pathway_grad", contribution="intgrat")


def test_how_many_units_are_kept():
    model = ResNet8(width=4).eval()
    found = marginal_contributions(model, images(2, 32), torch.tensor([1, 2]))
    total = sum(o[0].numel() for o in found)
    for sparsity in (0, 75, 90, 100):
        kept = [sum(int(o[i].sum()) for o in pathway(found, sparsity)) for i in range(2)]
        assert all(n <= total - int(sparsity / 100 * total) for n in kept)
