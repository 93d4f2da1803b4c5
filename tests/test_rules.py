"Interception: the same map however a ReLU is called, or an error where it cannot be seen."

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from roar_nb.attribution import attribute
from roar_nb.core import AttributionError
from roar_nb.models import ResNet8
from roar_nb.randomness import seeded
from roar_nb.rules import CLAMPS, GATES, OTHERS, RELUS, Rules, functions, plain

RELU_METHODS = ["guided_backprop", "deconvolution"]
METHODS = [*RELU_METHODS, "deeplift", "lrp"]


@pytest.fixture
def noise():
    return torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.fixture
def separate():
    "Every ReLU a module of its own that works on a copy"
    with seeded(0):
        return nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 6, 3),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, 5),
        ).eval()


class Written(nn.Module):
    "A network whose ReLUs are called in another way"

    def __init__(self, net, relu):
        super().__init__()
        self.net, self.relu = net, relu

    def forward(self, x):
        for layer in self.net:
            x = self.relu(x) if isinstance(layer, nn.ReLU) else layer(x)
        return x


def statement(x):
    x.relu_()
    return x


WAYS = {
    "one module twice, in place": nn.ReLU(inplace=True),
    "function": F.relu,
    "of torch": torch.relu,
    "by keyword": lambda x: F.relu(input=x),
    "tensor's method": lambda x: x.relu(),
    "in-place function": lambda x: F.relu_(x),
    "in-place statement": statement,
    "in place by position": lambda x: F.relu(x, True),
}
CLAMPED = {
    "clamp": lambda x: x.clamp(min=0),
    "clamp by position": lambda x: torch.clamp(x, 0),
    "clamp in place": lambda x: x.clamp_(min=0),
    "clamp_min": lambda x: x.clamp_min(0),
    "threshold": nn.Threshold(0, 0),
    "threshold in place": nn.Threshold(0, 0, inplace=True),
    "hardtanh": nn.Hardtanh(0, 1e9),
}


def assert_same(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("way", WAYS)
def test_the_same_map_however_a_relu_is_called(way, method, separate, noise):
    written = Written(separate, WAYS[way]).eval()
    assert_same(
        attribute(written, noise, method=method, reduction="none"),
        attribute(separate, noise, method=method, reduction="none"),
    )


@pytest.mark.parametrize("method", RELU_METHODS)
@pytest.mark.parametrize("way", CLAMPED)
def test_a_clamp_from_0_is_a_relu(way, method, separate, noise):
    written = Written(separate, CLAMPED[way]).eval()
    assert_same(attribute(written, noise, method=method), attribute(separate, noise, method=method))


@pytest.mark.parametrize("other", [nn.SiLU(), nn.Hardtanh(), nn.Threshold(0, -1), nn.Identity()])
@pytest.mark.parametrize("method", RELU_METHODS)
def test_networks_without_relus_are_refused(other, method, noise):
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 5), other).eval()
    with pytest.raises(AttributionError, match="no ReLU ran in Sequential"):
        attribute(model, noise, method=method)


class Reused(nn.Module):
    "What the ReLU changed is used again, as in residual networks that activate first"

    def __init__(self, inplace):
        super().__init__()
        self.inplace = inplace
        self.a, self.b, self.fc = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Linear(3, 5)

    def forward(self, x):
        a = self.a(x)
        y = F.relu(a, inplace=self.inplace)
        return self.fc((self.b(y) + (a if self.inplace else y)).mean((2, 3)))


@pytest.mark.parametrize("method", [*METHODS, "neuron_mct", "gradient"])
def test_in_place_changes_are_seen_by_later_readers(method, noise):
    with seeded(3):
        reused = Reused(True).eval()
    copied = Reused(False).eval()
    copied.load_state_dict(reused.state_dict())
    assert_same(
        attribute(reused, noise, method=method, reduction="none"),
        attribute(copied, noise, method=method, reduction="none"),
    )


class OwnReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return z.relu()

    @staticmethod
    def backward(ctx, g):
        return g * (ctx.saved_tensors[0] > 0)


class HalfHidden(nn.Module):
    def __init__(self, relu):
        super().__init__()
        self.seen, self.relu, self.fc = nn.Conv2d(3, 3, 3), relu, nn.Linear(3, 5)

    def forward(self, x):
        return self.fc(self.relu(F.relu(self.seen(x)).mean((2, 3)) - 0.1))


@pytest.mark.parametrize("method", [*RELU_METHODS, "lrp", "neuron_mct"])
def test_a_backward_pass_of_its_own_is_refused(method, noise):
    with pytest.raises(AttributionError, match="runs OwnReLU, .*cannot be intercepted"):
        attribute(HalfHidden(OwnReLU.apply).eval(), noise, method=method)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("method", [*RELU_METHODS, "lrp", "neuron_mct"])
def test_a_scripted_module_is_refused(method, noise):
    scripted = torch.jit.script(nn.ReLU())
    with pytest.raises(AttributionError, match=r"runs relu \(scripted\)"):
        attribute(HalfHidden(scripted).eval(), noise, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_a_compiled_model_gives_its_map_or_an_error(method, separate, noise):
    "Which of the two depends on the version of torch"
    expected = attribute(separate, noise, method=method)
    compiled = torch.compile(separate, backend="eager")
    try:
        assert_same(attribute(compiled, noise, method=method), expected)
    except AttributionError as e:
        assert "compiled" in str(e) or "no rule" in str(e)


def test_a_compiled_model_with_batch_norm_is_refused_by_lrp(noise):
    compiled = torch.compile(ResNet8(width=4).eval(), backend="eager")
    with pytest.raises(AttributionError, match="cannot be merged.*OptimizedModule"):
        attribute(compiled, noise, method="lrp")


def test_tables_know_their_functions():
    zero = torch.zeros(1)
    for f in (*RELUS, *OTHERS):
        assert float(f(zero.clone())) == 0, f
    for f in GATES:
        assert float(f(zero.clone())) > 0, f
    assert F.hardtanh in CLAMPS and torch.clamp_min_ in CLAMPS
    assert functions("relu_") and not functions("no_such_function")


def test_rules_close_and_count():
    def negative(func, x, *args, **kwargs):
        return -plain(func, x, args, kwargs)

    x = torch.tensor([-1.0, 2.0])
    with Rules({torch.relu: negative}) as rules:
        assert torch.relu(x).tolist() == [0, -2]
        assert torch.tanh(x).equal(x.tanh())
    assert rules.calls == 1
    assert torch.relu(x).tolist() == [0, 2]


def test_a_rule_may_leave_a_call_to_torch():
    with Rules({torch.relu: lambda *args, **kwargs: NotImplemented}) as rules:
        assert torch.relu(torch.tensor(2.0)) == 2
    assert rules.calls == 0


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
