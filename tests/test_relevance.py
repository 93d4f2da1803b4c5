"DeepLIFT and LRP: against zennit and captum, what they refuse, and the copy without batch norm."

import gc
import weakref

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import nn

from roar_nb import relevance
from roar_nb.attribution import METHODS, attribute, predict
from roar_nb.core import AttributionError, ConfigError
from roar_nb.models import ResNet8, in_precision
from roar_nb.randomness import seeded
from roar_nb.relevance import LRP_RULES, gamma_rule, linear_rule, without_batch_norm
from roar_nb.rules import Rules
from zennit_reference import zennit_lrp


def network(name, size):
    "Untrained, but with the statistics of batch norm that some images give"
    torch.manual_seed(0)
    if name == "ResNet8":
        model = ResNet8(width=16)
    else:
        model = getattr(torchvision.models, name)(weights=None)
    with torch.no_grad():
        for _ in range(3):
            model.train()(1.5 * torch.randn(8, 3, size, size) + 0.2)
    return model.eval().double(), torch.randn(2, 3, size, size).double()


# ---- LRP against zennit


@pytest.mark.parametrize("rule", LRP_RULES)
@pytest.mark.parametrize("name", ["ResNet8", "resnet18", "vgg11_bn", "mobilenet_v2"])
def test_lrp_equals_zennit(name, rule):
    model, x = network(name, 32 if name == "ResNet8" else 48)
    c = predict(model, x)
    expected = zennit_lrp(model, x, c, rule, eps=1e-6)
    # our epsilon rule lets batch norm be; zennit merges it always
    explained = without_batch_norm(model, x[:1]) if rule == "epsilon" else model
    maps = attribute(explained, x, c, "lrp", rule=rule, eps=1e-6, reduction="none")
    both = torch.stack([maps.flatten().double(), expected.flatten()])
    assert both.corrcoef()[0, 1] > 0.9999
    # zennit keeps the batch norms as divisions by √(1 + 1e-5): hence not nearer
    limit = 2e-2 if rule == "epsilon" else 5e-4
    assert (both[0] - both[1]).abs().max() < limit * both[1].abs().max()


# ---- the gamma rule


@pytest.mark.parametrize("bias", [0.5, -0.5])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_gamma_favours_what_has_the_sign_of_the_output(sign, bias):
    x = torch.tensor([[1.0, -2.0, 3.0]], requires_grad=True)
    w, b, gamma = sign * torch.tensor([[2.0, 1.0, 1.0]]), torch.tensor([bias]), 0.25
    with Rules({F.linear: linear_rule(gamma_rule(gamma), 1e-12)}):
        z = F.linear(x, w, b)
    assert z.sign() == sign
    parts, more = (x * w).detach(), 1 + gamma
    favoured = torch.where(parts * sign > 0, more * parts, parts)
    total = favoured.sum() + (more * b if bias * sign > 0 else b)
    ours = x * torch.autograd.grad(z, x)[0]
    torch.testing.assert_close(ours, favoured / total * z.detach())


def test_epsilon_equals_captum(noise):
    "On modules for which captum has rules"
    with seeded(0):
        net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(6, 5, 15))
    flat = nn.Sequential(net, nn.Flatten()).eval()
    target = [(int(k), 0, 0) for k in predict(flat, noise)]
    expected = captum.attr.LRP(net).attribute(noise, target=target)
    ours = attribute(flat, noise, method="lrp", rule="epsilon", eps=1e-9, reduction="none")
    torch.testing.assert_close(ours, expected.detach().float(), rtol=0, atol=1e-5)


def test_gamma_of_0_is_epsilon():
    model, x = network("ResNet8", 32)
    maps = attribute(model, x, method="lrp", rule="gamma", gamma=0)
    merged = without_batch_norm(model, x[:1])
    expected = attribute(merged, x, method="lrp", rule="epsilon")
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "regnet_x_400mf"])
def test_gamma_creates_no_relevance(name):
    model, x = network(name, 64)
    with torch.no_grad():
        largest = model(x).abs().amax(1)
    total = attribute(model, x, method="lrp", rule="gamma", reduction="none").abs().sum((1, 2, 3))
    assert (total < 10 * largest).all()


def test_the_revision_says_that_maps_changed():
    assert METHODS.find("lrp").revision == 2


# ---- what LRP refuses


def test_relevance_that_is_not_conserved_is_refused():
    "A bias that all but cancels the contributions"
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 5)).eval()
    nn.init.constant_(model[1].weight, 1 / 192)
    nn.init.constant_(model[1].bias, -0.999)
    x = torch.ones(2, 3, 8, 8)
    for rule in ("epsilon", "epsilon_plus"):
        with pytest.raises(AttributionError, match="does not conserve relevance in Sequential"):
            attribute(model, x, method="lrp", rule=rule)
    assert attribute(model, x, method="lrp", rule="gamma").sum((1, 2)).abs().max() < 0.01


class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.fc = nn.Conv2d(3, 3, 1), nn.Linear(3, 5)

    def forward(self, x):
        return self.fc((x * self.gate(x).sigmoid()).mean((2, 3)))


class Quotient(nn.Module):
    def forward(self, x):
        return 1 / (3 + torch.mul(x, other=2.0).mean((2, 3)).relu())


class Last(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x).flatten(1)


UNKNOWN = dict(
    exp=torch.exp,
    clamp=lambda o: o.clamp(min=0),
    log_softmax=lambda o: F.log_softmax(o, 1),
    amax=lambda o: o.amax((2, 3)),
    einsum=lambda o: torch.einsum("bchw,bchw->bchw", o, o),
    pow=lambda o: o**2,
)


@pytest.mark.parametrize("function", UNKNOWN)
def test_lrp_refuses_what_is_not_known_to_be_linear(function, noise):
    with pytest.raises(AttributionError, match="which has no rule"):
        attribute(Last(UNKNOWN[function]), noise, method="lrp")


@pytest.mark.parametrize("method", ["deeplift", "lrp"])
@pytest.mark.parametrize("model", [Gated, Quotient])
def test_products_and_quotients_are_refused(method, model, noise):
    with pytest.raises(AttributionError, match="has no rule"):
        attribute(model().eval(), noise, method=method)


def test_impossible_arguments(noise):
    model = ResNet8(width=4).eval()
    for kwargs in (dict(rule="gama"), dict(eps=0), dict(gamma=-1)):
        with pytest.raises(ConfigError, match=next(iter(kwargs))):
            attribute(model, noise, method="lrp", **kwargs)


def test_a_dead_layer_has_no_relevance(noise):
    dead = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.ReLU(), nn.Flatten())
    dead.append(nn.Linear(3600, 5))
    nn.init.zeros_(dead[0].weight)
    for rule in LRP_RULES:
        assert not attribute(dead.eval(), noise, method="lrp", rule=rule).any()


# ---- the copy without batch norm


@pytest.fixture
def noise():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def small():
    with seeded(0):
        return ResNet8(width=4).eval()


@pytest.fixture
def merges(monkeypatch):
    "How often a copy was made"
    calls, merge = [], relevance._merge
    monkeypatch.setattr(relevance, "_merge", lambda model: calls.append(1) or merge(model))
    return calls


def test_batch_norm_is_merged_once(small, noise, merges):
    for _ in range(3):
        attribute(small, noise, method="lrp", batch_size=2)
    assert len(merges) == 1


def step(model):
    optimiser = torch.optim.SGD(model.parameters(), 1e-3)
    model(torch.randn(2, 3, 32, 32)).square().sum().backward()
    optimiser.step()


def behind_autograd(model):
    "No version counter sees this"
    model.layer2[0].conv1.weight.data.mul_(1.001)


def statistics(model):
    model.layer3[0].bn2.running_mean.add_(1e-4)


def new_head(model):
    model.fc = nn.Linear(model.fc.in_features, 10)


def other_epsilon(model):
    model.bn1.eps = 0.5


def other_stages(model):
    model.layer2[0].shortcut = nn.Sequential(model.layer2[0].shortcut, nn.ReLU())


CHANGES = [step, behind_autograd, statistics, new_head, other_epsilon, other_stages]


@pytest.mark.parametrize("change", CHANGES, ids=lambda f: f.__name__)
def test_a_changed_model_is_merged_again(change, small, noise):
    attribute(small, noise, method="lrp")
    change(small)
    maps = attribute(small, noise, method="lrp")
    relevance._MERGED.clear()
    assert torch.equal(maps, attribute(small, noise, method="lrp"))


def test_a_patched_forward_is_not_explained_by_the_old_copy(small, noise):
    attribute(small, noise, method="lrp")
    forward = small.forward
    small.forward = lambda x: forward(x.flip(3)) * 2
    with pytest.raises(AttributionError, match="cannot be merged.*answers change"):
        attribute(small, noise, method="lrp")


def test_the_copy_follows_to_another_dtype(small, noise):
    maps = attribute(small, noise, method="lrp")
    small.double()
    again = attribute(small, noise.double(), method="lrp")
    torch.testing.assert_close(again, maps, rtol=1e-3, atol=1e-5 * float(maps.abs().max()))


def test_the_copy_keeps_no_model_alive(small, noise):
    small = ResNet8(width=4).eval()
    attribute(small, noise, method="lrp")
    assert len(relevance._MERGED) == 1
    gone = weakref.ref(small)
    del small
    gc.collect()
    assert gone() is None and not relevance._MERGED


def test_one_copy_at_a_time(noise):
    models = [ResNet8(width=4).eval() for _ in range(3)]
    for model in models:
        attribute(model, noise, method="lrp")
    assert list(relevance._MERGED) == [models[-1]]


def test_the_copy_shares_what_is_not_merged(small, noise):
    merged = without_batch_norm(small, noise[:1])
    assert merged.fc.weight is small.fc.weight and merged.fc.bias is small.fc.bias
    assert merged.conv1.weight is not small.conv1.weight
    assert not any(isinstance(m, nn.BatchNorm2d) for m in merged.modules())


def test_the_copy_has_the_exact_head_in_bfloat16(small, noise):
    merged = without_batch_norm(small, noise[:1])
    with torch.no_grad(), in_precision(small, "cpu", torch.bfloat16):
        assert merged(noise).dtype == torch.float32
    for rule in LRP_RULES:
        rough = attribute(small, noise, method="lrp", rule=rule, precision="bf16")
        exact = attribute(small, noise, method="lrp", rule=rule)
        assert torch.stack([rough.flatten(), exact.flatten()]).corrcoef()[0, 1] > 0.98


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 5)
        self.bn = nn.BatchNorm2d(3)
        self.bn.running_var.fill_(0.2)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.conv(F.relu(self.bn(self.conv(x)))))).mean((2, 3)))


class Branching(Twice):
    def forward(self, x):
        return self.fc(self.bn(self.conv(x if x.sum() > 0 else -x)).mean((2, 3)))


def test_what_cannot_be_merged_is_refused(noise):
    with pytest.raises(AttributionError, match="used twice.*epsilon"):
        attribute(Twice().eval(), noise, method="lrp")
    with pytest.raises(AttributionError, match="tracing it failed"):
        attribute(Branching().eval(), noise, method="lrp")
    assert attribute(Twice().eval(), noise, method="lrp", rule="epsilon").isfinite().all()


# ---- DeepLIFT


def pooled(pool):
    with seeded(2):
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            pool(3, 2),
            nn.Conv2d(6, 6, 3),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(1014, 5),
        ).eval()


def test_deeplift_adds_up_where_windows_overlap(noise):
    model = pooled(nn.MaxPool2d)
    c = predict(model, noise)
    with torch.no_grad():
        change = (model(noise) - model(torch.zeros_like(noise))).gather(1, c[:, None])[:, 0]
    total = attribute(model, noise, method="deeplift").sum((1, 2))
    torch.testing.assert_close(total, change, rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore")
def test_deeplift_equals_captum_without_max_pooling(noise):
    model = pooled(nn.AvgPool2d)
    refs = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    c = predict(model, noise)
    ours = attribute(model, noise, method="deeplift", reduction="none")
    torch.testing.assert_close(ours, captum.attr.DeepLift(model).attribute(noise, target=c).data)
    ours = attribute(model, noise, method="deeplift_shap", references=refs, reduction="none")
    theirs = captum.attr.DeepLiftShap(model).attribute(noise, refs, target=c)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-3, atol=1e-5)


class Clamped(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = pooled(nn.MaxPool2d)

    def forward(self, x):
        return self.net(x.clamp(min=0.5))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("model", [Last(lambda x: x[:, 0, 0, :5].square()), Clamped()])
def test_deeplift_refuses_what_does_not_add_up(model, precision, noise):
    with pytest.raises(AttributionError, match="do not add up"):
        attribute(model.eval(), noise + 1, method="deeplift", precision=precision)


class Quarters(nn.Module):
    "Four parts of each image as images of their own"

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 5))

    def forward(self, x):
        parts = x.unfold(2, 16, 16).unfold(3, 16, 16).permute(0, 2, 3, 1, 4, 5).flatten(0, 2)
        return self.net(parts).view(len(x), 4, -1).sum(1)


def test_deeplift_refuses_another_first_axis(noise):
    with pytest.raises(AttributionError, match="first axis must be that of the images"):
        attribute(Quarters().eval(), noise, method="deeplift")


class Scaled(nn.Module):
    "A gate that is a parameter: a function of a constant has no part in the explanation"

    def __init__(self, net):
        super().__init__()
        self.gate, self.net = nn.Parameter(torch.zeros(())), net

    def forward(self, x):
        return self.net(x) * torch.sigmoid(self.gate)


def test_functions_of_constants_need_no_rule(small, noise):
    half = attribute(Scaled(small).eval(), noise, method="deeplift")
    torch.testing.assert_close(half, attribute(small, noise, method="deeplift") / 2)


def test_deeplift_in_bfloat16_keeps_the_order(small, noise):
    for model in (small, pooled(nn.MaxPool2d)):
        rough = attribute(model, noise, method="deeplift", precision="bf16").flatten()
        exact = attribute(model, noise, method="deeplift").flatten()
        assert torch.stack([rough, exact]).corrcoef()[0, 1] > 0.98
