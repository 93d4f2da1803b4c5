"Methods on torchvision's networks: the right map, or an error with a reason."

import pytest
import torch
import torchvision
from torch.overrides import TorchFunctionMode

from roar_nb.attribution import attribute
from roar_nb.core import AttributionError
from roar_nb.rules import input_gradient, on_relus, plain

NETWORKS = [
    "alexnet",
    "vgg11_bn",
    "resnet18",
    "resnext50_32x4d",
    "densenet121",
    "googlenet",
    "squeezenet1_1",
    "mobilenet_v2",
    "mnasnet0_5",
    "shufflenet_v2_x0_5",
    "regnet_x_400mf",
]
GATED = [
    "mobilenet_v3_small",
    "efficientnet_b0",
    "regnet_y_400mf",
    "vit_b_16",
]  # products of activations
NORMED = ["convnext_tiny", "swin_t"]


def made(name):
    torch.manual_seed(0)
    extra = dict(init_weights=False, aux_logits=False) if name == "googlenet" else {}
    size = 224 if name.startswith("vit") else 64
    return getattr(torchvision.models, name)(weights=None, **extra).eval(), torch.randn(
        2, 3, size, size
    )


class CountReLUs(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.n = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.n += func.__name__ in ("relu", "relu_", "relu6", "hardtanh")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_rule_runs_and_leaves_the_model(name):
    model, x = made(name)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with torch.no_grad():
        y = model(x)
    for method in (
        "guided_backprop",
        "deconvolution",
        "gradcam",
        "gradcam_pp",
        "lrp",
        "neuron_mct",
    ):
        maps = attribute(model, x, method=method)
        assert maps.shape == (2, 64, 64) and maps.isfinite().all()
    with torch.no_grad():
        assert torch.equal(model(x), y)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not any(
        m._forward_hooks or m._backward_hooks or m._forward_pre_hooks for m in model.modules()
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_deeplift_adds_up(name):
    model, x = made(name)
    model, x = model.double(), x.double()
    with torch.no_grad():
        f = model(x)
        c = f.argmax(1)
        gap = (f - model(torch.zeros_like(x))).gather(1, c[:, None])[:, 0]
    total = attribute(model, x, c, "deeplift").sum((1, 2))
    torch.testing.assert_close(total.double(), gap, rtol=1e-3, atol=1e-5 * float(f.abs().max()))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_relu_is_intercepted(name):
    "A rule that changes nothing is called for every ReLU, and gives the gradient back"
    model, x = made(name)
    c = torch.tensor([1, 2])
    calls = []

    def unchanged(func, z, *args, **kwargs):
        calls.append(func)
        return plain(func, z, args, kwargs)

    for p in model.parameters():
        p.requires_grad_(False)
    ours = input_gradient(model, x, c, on_relus(unchanged), "test")
    z = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad(model(z).gather(1, c[:, None]).sum(), z)
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    with CountReLUs() as count, torch.no_grad():
        model(x)
    assert len(calls) == count.n > 0


@pytest.mark.parametrize("name", GATED + NORMED)
@pytest.mark.parametrize("method", ["deeplift", "lrp"])
def test_what_has_no_rule_is_refused(name, method):
    model, x = made(name)
    with pytest.raises(AttributionError, match="has no rule|cannot be merged"):
        attribute(model, x, method=method)


@pytest.mark.parametrize("name", ["convnext_tiny", "efficientnet_b0", "vit_b_16"])
def test_networks_without_relus_are_refused(name):
    model, x = made(name)
    for method in ("guided_backprop", "neuron_mct"):
        with pytest.raises(AttributionError, match="no ReLU ran"):
            attribute(model, x, method=method)
