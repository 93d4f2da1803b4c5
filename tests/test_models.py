"Networks: their sizes, their weights on disk, and what makes two of them the same."

import types
import warnings
from unittest.mock import patch
from urllib.error import URLError

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from roar_nb import models
from roar_nb.core import ConfigError, ModelError
from roar_nb.models import (
    ResNet8,
    ResNet10,
    append_linear_layer_transform,
    build_model,
    evaluating,
    in_precision,
    load_weights,
    loads_weights,
    memory_format,
    model_checksum,
    model_identity,
    num_outputs,
    read_weights,
    replace_linear_layer_transform,
    save_weights,
)

FAMILY = dict(
    ResNet8=("basic", [1, 1, 1]),
    ResNet8v2=("basic", [1, 1, 1]),
    ResNet10=("basic", [1, 1, 1, 1]),
    ResNet18=("basic", [2, 2, 2, 2]),
    ResNet34=("basic", [3, 4, 6, 3]),
    ResNet50=("bottleneck", [3, 4, 6, 3]),
    ResNet101=("bottleneck", [3, 4, 23, 3]),
    ResNet152=("bottleneck", [3, 8, 36, 3]),
)


def conv_bn(cin, cout, kernel):
    "Parameters of a convolution without bias and its batch norm"
    return kernel * kernel * cin * cout + 2 * cout


def block_size(kind, cin, planes):
    if kind == "basic":
        return conv_bn(cin, planes, 3) + conv_bn(planes, planes, 3)
    narrow = conv_bn(cin, planes, 1) + conv_bn(planes, planes, 3)
    return narrow + conv_bn(planes, 4 * planes, 1)


def by_hand(kind, depths, width=64, classes=10):
    total, cin = conv_bn(3, width, 3), width
    for k, depth in enumerate(depths):
        planes = width * 2**k
        out = planes if kind == "basic" else 4 * planes
        for i in range(depth):
            total += block_size(kind, cin, planes)
            if i == 0 and (k or cin != out):
                total += conv_bn(cin, out, 1)
            cin = out
    return total + (cin + 1) * classes


def count(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", FAMILY)
def test_number_of_parameters(name):
    with torch.device("meta"):
        assert count(getattr(models, name)()) == by_hand(*FAMILY[name])
        assert count(getattr(models, name)(100, width=16)) == by_hand(*FAMILY[name], 16, 100)


@pytest.mark.parametrize("name", FAMILY)
def test_no_module_is_used_twice_or_in_place(name):
    model, calls = getattr(models, name)(width=4).eval(), {}
    for at, m in model.named_modules():
        assert not getattr(m, "inplace", False)
        m.register_forward_hook(lambda *_, at=at: calls.update({at: calls.get(at, 0) + 1}))
    assert model(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    assert set(calls.values()) == {1}


def test_transforms():
    assert replace_linear_layer_transform(nn.Linear(4, 1000), 7).out_features == 7
    model = append_linear_layer_transform(ResNet8(1000, width=4), 7)
    assert model(torch.zeros(1, 3, 32, 32)).shape == (1, 7)
    assert count(model) == count(ResNet8(1000, width=4)) + 1001 * 7
    with pytest.raises(ModelError, match="no nn.Linear layer"):
        replace_linear_layer_transform(nn.Conv2d(3, 3, 3), 7)


def test_build_model():
    a, b, c = (build_model("roar_nb.models.ResNet8", dict(width=4), 10, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.fc.weight, b.fc.weight)
    assert not torch.equal(a.fc.weight, c.fc.weight)


@pytest.mark.parametrize(
    "error, message, args",
    [
        (ModelError, "gives 1000 logits, .* has 10 classes", ("torchvision.models.resnet18", {}, 10)),
        (ModelError, "did you mean 'width'", ("roar_nb.models.ResNet8", dict(widht=4))),
        (ModelError, "failed", ("roar_nb.models.ResNet8", dict(width="wide"))),
        (ModelError, "made a dict, not", ("builtins.dict",)),
        (ModelError, "cannot take images of 3×32×32", ("torch.nn.Conv2d", dict(in_channels=1, out_channels=1, kernel_size=1))),
        (ModelError, "must return logits", ("torch.nn.ReLU",)),
        (ConfigError, "did you mean 'ResNet8", ("roar_nb.models.ResNet88",)),
        (ConfigError, "did you mean", ("roar_nb.models.ResNet8", {}, 10, "roar_nb.models.replace_linear")),
    ],
)  # fmt: skip
def test_build_model_refuses(error, message, args):
    with pytest.raises(error, match=message):
        build_model(*args)


@pytest.mark.parametrize("asked", [dict(weights="IMAGENET1K_V1"), dict(pretrained=True)])
def test_without_a_network_the_file_is_named(asked):
    load = "torchvision.models._api.load_state_dict_from_url"
    wanted = "download https://download.pytorch.org/models/resnet50-0676ba61.pth and place it as"
    with patch(load, side_effect=URLError("no network")), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ModelError, match=wanted):
            build_model("torchvision.models.resnet50", asked, size=(64, 64))


def test_modes_of_all_modules_are_kept():
    model = ResNet8(width=4)
    model.layer1.eval()
    num_outputs(model)
    assert model.training and not model.layer1.training and model.layer2.training
    with pytest.raises(ZeroDivisionError), evaluating(model):
        assert not any(m.training for m in model.modules())
        1 / 0
    assert model.training and not model.layer1.training


# Constructors that load weights


def with_default(pretrained=True):
    "A constructor of a library that loads weights unless told not to"


def class_weights(weights=(1.0, 2.0)):
    "A constructor whose weights are numbers"


@pytest.mark.parametrize(
    "arch, args, found",
    [
        ("roar_nb.models.ResNet8", dict(width=4), None),
        ("torchvision.models.resnet18", {}, None),
        ("torchvision.models.resnet18", dict(weights=None), None),
        ("torchvision.models.resnet18", dict(weights="DEFAULT"), "weights"),
        ("torchvision.models.resnet18", dict(pretrained=True), "pretrained"),
        ("torchvision.models.resnet18", dict(pretrained=False), None),
        ("torchvision.models.segmentation.fcn_resnet50", {}, "weights_backbone"),
        ("torchvision.models.segmentation.fcn_resnet50", dict(weights_backbone=None), None),
        ("timm.create_model", dict(model_name="resnet18"), None),
        ("timm.create_model", dict(model_name="resnet18", pretrained=True), "pretrained"),
        ("timm.create_model", dict(model_name="resnet18", checkpoint_path="a.pth"), "checkpoint_path"),
        (f"{__name__}.with_default", {}, "pretrained"),
        (f"{__name__}.with_default", dict(pretrained=False), None),
        (f"{__name__}.class_weights", {}, None),
    ],
)  # fmt: skip
def test_loads_weights(arch, args, found):
    if arch.startswith("timm"):
        pytest.importorskip("timm")
    assert loads_weights(arch, args) == found


def test_a_weights_enum_counts():
    from torchvision.models import ResNet18_Weights

    given_args = dict(weights=ResNet18_Weights.DEFAULT)
    assert loads_weights("torchvision.models.resnet18", given_args) == "weights"


# Weights on disk


class Evil:
    def __reduce__(self):
        return print, ("code ran!",)


def test_weights_come_back(tmp_path):
    model = ResNet8(width=4)
    save_weights(tmp_path / "m.safetensors", model.state_dict(), dict(epochs=3))
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "m.pth")
    wrapped = {f"module.{k}": v for k, v in model.state_dict().items()}
    torch.save(wrapped, tmp_path / "parallel.pth")
    for file in ("m.safetensors", "m.pth", "parallel.pth"):
        other = ResNet8(width=4)
        assert model_checksum(other) != model_checksum(model)
        assert model_checksum(load_weights(other, tmp_path / file)) == model_checksum(model)


def test_weights_that_do_not_fit_are_refused(tmp_path, capsys):
    torch.save(ResNet8(width=4).state_dict(), tmp_path / "m.pth")
    torch.save(Evil(), tmp_path / "evil.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    (tmp_path / "broken.safetensors").write_bytes(b"no")
    with pytest.raises(ModelError, match=r"fc.weight \(10, 16\) for \(5, 16\)"):
        load_weights(ResNet8(5, width=4), tmp_path / "m.pth")
    with pytest.raises(ModelError, match="not in the file: layer4"):
        load_weights(ResNet10(width=4), tmp_path / "m.pth")
    for file, message in {
        "evil.pth": "could run code",
        "list.pth": "expected a dict of tensors",
        "broken.safetensors": "not a readable weights file",
        "none.pth": "no such weights file",
    }.items():
        with pytest.raises(ModelError, match=message):
            read_weights(tmp_path / file)
    assert "code ran" not in capsys.readouterr().out


# Identity


class Powers(nn.Module):
    "A network with an attribute that changes its answers"

    def __init__(self):
        super().__init__()
        self.body = build_model("roar_nb.models.ResNet8", dict(width=8), 10)
        self.power = 1.0

    def forward(self, x):
        return self.body(x.sign() * x.abs() ** self.power)


def negated(net):
    original = net.body.forward  # a closure over the original method
    net.body.forward = lambda x: -original(x)


CHANGES = {
    "forward": negated,
    "method": lambda net: setattr(
        net.body, "forward", types.MethodType(lambda body, x: 2 * models.ResNet.forward(body, x), net.body)
    ),
    "hook": lambda net: net.body.layer2.register_forward_hook(lambda m, i, o: 1.2 * o),
    "pre-hook": lambda net: net.body.fc.register_forward_pre_hook(lambda m, args: (args[0] + 0.5,)),
    "attribute": lambda net: setattr(net, "power", 1.2),
    "eps": lambda net: setattr(net.body.bn1, "eps", 0.1),
}  # fmt: skip


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_maps_changes_identity(change):
    "A12: the weights and the printed structure are the same, the answers are not"
    plain, changed = Powers(), Powers()
    CHANGES[change](changed)
    assert model_checksum(plain) == model_checksum(changed)
    assert model_identity(plain, (32, 32))["logits"] != model_identity(changed, (32, 32))["logits"]


def test_what_does_not_change_maps_keeps_identity():
    plain = model_identity(Powers(), (32, 32))
    looked_at = Powers()
    looked_at.body.layer2.register_forward_hook(lambda m, i, o: None)
    trained = Powers().train()
    trained.body.layer1.eval()
    laid_out = Powers().to(memory_format=torch.channels_last)
    frozen = Powers().requires_grad_(False)
    compiled = torch.compile(Powers())
    for same in (looked_at, trained, laid_out, frozen, compiled):
        assert model_identity(same, (32, 32)) == plain
    assert trained.training and not trained.body.layer1.training and trained.body.training


def test_identity_leaves_no_trace():
    model, before = Powers(), torch.get_rng_state()
    state = {k: v.clone() for k, v in model.state_dict().items()}
    model_identity(model, (32, 32))
    assert torch.equal(torch.get_rng_state(), before)
    for k, v in model.state_dict().items():
        assert v.dtype == state[k].dtype and torch.equal(v, state[k])


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32))
def test_identity_does_not_see_rounding(seed):
    "Sums in another order, here by permuted channels, do not flip a digit"
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 256), nn.ReLU(), nn.Linear(256, 1000))
    other = nn.Sequential(nn.Flatten(), nn.Linear(192, 256), nn.ReLU(), nn.Linear(256, 1000))
    order = torch.randperm(256)
    other.load_state_dict(model.state_dict())
    other[1].weight.data, other[1].bias.data = model[1].weight[order], model[1].bias[order]
    other[3].weight.data = model[3].weight[:, order]
    x = torch.randn(4, 3, 8, 8)
    assert not torch.equal(model(x), other(x))  # float32 sees the order of the sums
    assert model_identity(model, (8, 8))["logits"] == model_identity(other, (8, 8))["logits"]


class OnlyFloat32(nn.Module):
    "Goes on in float32 inside, so it cannot be computed in float64"

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(192, 10)

    def forward(self, x):
        return self.fc(x.flatten(1).float())


def test_a_model_that_insists_on_its_precision():
    torch.manual_seed(0)
    model = OnlyFloat32()
    found = model_identity(model, (8, 8))
    assert found == model_identity(model, (8, 8))
    model.fc.register_forward_hook(lambda m, i, o: -o)
    assert found["logits"] != model_identity(model, (8, 8))["logits"]


def test_identity_of_what_gives_no_logits():
    with pytest.raises(ModelError, match="must return logits"):
        model_identity(nn.Conv2d(3, 4, 1), (8, 8))


# Precision and layout


def test_the_last_linear_layer_is_exact():
    torch.manual_seed(0)
    head = nn.Sequential(nn.Flatten(), nn.Linear(48, 10)).requires_grad_(False)
    x = torch.randn(8, 3, 4, 4)
    exact = head(x)
    with in_precision(head, "cpu", torch.bfloat16):
        assert torch.equal(head(x), exact)
        assert nn.Linear(48, 4)(x.flatten(1)).dtype == torch.bfloat16  # any other layer


def test_memory_format():
    assert memory_format(ResNet8(width=16), "cpu") == torch.channels_last
    assert memory_format(ResNet8(width=8), "cpu") == torch.contiguous_format
    assert memory_format(ResNet8(width=8), "cuda") == torch.channels_last
