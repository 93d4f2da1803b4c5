"The front door of attribution: what it accepts, what it refuses and in which words."

import copy
import functools
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from roar_nb.attribution import (
    METHODS,
    Context,
    attribute,
    frozen,
    make_attribution,
    method_table,
    predicted_labels,
)
from roar_nb.core import AttributionError, ConfigError, DataError, ModelError
from roar_nb.images import ImageSet
from roar_nb.models import ResNet8, model_checksum
from roar_nb.randomness import generator


def network():
    torch.manual_seed(0)
    return ResNet8(width=4).eval()


CNN = network()
X = torch.randn(5, 3, 32, 32, generator=generator(0))
SMALL = torch.randn(5, 3, 8, 8, generator=generator(1))


def own(model, image, label, power=1):
    return image[0].abs().pow(power).numpy()


def needs_power(model, image, label, power):
    return image[0] ** power


def nan_at_3(model, image, label, index):
    return image[0, 0] * (float("nan") if index == 3 else 1)


class Logits(nn.Module):
    "A network whose output is made by a function of its logits"

    def __init__(self, change):
        super().__init__()
        self.net, self.change = network(), change

    def forward(self, x):
        return self.change(self.net(x))


def holding(value, at=3):
    images = X.clone()
    images[at, 0, 2, 2] = value
    return images


def in_inference_mode():
    with torch.inference_mode():
        return network()


# -- what is refused ----------------------------------------------------------------------------

REFUSED = {
    "NHWC": (DataError, dict(images=X.permute(0, 2, 3, 1)), "images.permute(0, 3, 1, 2)"),
    "NHWC array": (DataError, dict(images=X.permute(0, 2, 3, 1).numpy()), "transpose(0, 3, 1, 2)"),
    "uint8": (DataError, dict(images=X.byte()), "not torch.uint8; of pixels 0…255 give (images"),
    "int64 array": (DataError, dict(images=X.long().numpy()), "not torch.int64"),
    "one image": (DataError, dict(images=X[0]), "a single image is images[None]"),
    "no image": (DataError, dict(images=X[:0]), "at least one image, not shape (0, 3, 32, 32)"),
    "a number": (DataError, dict(images=torch.tensor(1.0)), "expected (N,C,H,W)"),
    "a list": (DataError, dict(images=[[1.0]]), "expected a tensor or an array (N,C,H,W)"),
    "array of objects": (DataError, dict(images=np.array([None])), "of numbers, not a ndarray"),
    "NaN": (DataError, dict(images=holding(float("nan"))), "image 3 holds NaN or infinite"),
    "infinite": (DataError, dict(images=holding(float("inf"), 1)), "image 1 holds NaN or infinite"),
    "float images, double model": (
        DataError,
        dict(model=network().double()),
        "torch.float32, but the model's weights are torch.float64",
    ),
    "double images, float model": (
        DataError,
        dict(images=X.double()),
        "torch.float64, but the model's weights are torch.float32",
    ),
    "other channels": (ModelError, dict(images=X[:, :2]), "ResNet fails on images (5, 2, 32, 32)"),
    "3-D logits": (
        ModelError,
        dict(model=Logits(lambda z: z[:, None])),
        "must return logits (B,classes), not (5, 1, 10)",
    ),
    "a dict": (
        ModelError,
        dict(model=Logits(lambda z: dict(logits=z))),
        "must return logits (B,classes), not dict",
    ),
    "3-D logits, labels given": (
        ModelError,
        dict(model=Logits(lambda z: z[:, None]), labels=1),
        "must return logits (B,classes), not (1, 1, 10)",
    ),
    "a function as model": (ModelError, dict(model=lambda x: x), "expected a torch.nn.Module"),
    "weights of inference mode": (
        ModelError,
        dict(model=in_inference_mode()),
        "made under torch.inference_mode",
    ),
    "too few labels": (AttributionError, dict(labels=[1, 2]), "5 classes, one for each image"),
    "class that is not there": (AttributionError, dict(labels=10), "classes from 0 to 9"),
    "negative class": (AttributionError, dict(labels=-1), "class numbers from 0, not [-1"),
    "half a class": (AttributionError, dict(labels=[0.5] * 5), "class numbers from 0, not [0.5"),
    "true or false": (AttributionError, dict(labels=[True] * 5), "class numbers from 0, not [True"),
    "batch_size 0": (ConfigError, dict(batch_size=0), "batch_size: 0 is impossible"),
    "batch_size 2.5": (ConfigError, dict(batch_size=2.5), "batch_size: 2.5 is impossible"),
    "method": (ConfigError, dict(method="gardient"), "did you mean 'gradient'"),
    "method None": (ConfigError, dict(method=None), "method: None is not the name of a"),
    "argument": (ConfigError, dict(method=own, powr=2), "kwargs.powr: test_attribution.own has"),
    "argument of a built-in": (
        ConfigError,
        dict(method="rise", masks=2),
        "kwargs.masks: rise has no such argument; did you mean 'n_masks'",
    ),
    "missing argument": (ConfigError, dict(method=needs_power), "needs this argument"),
    "reduction": (ConfigError, dict(reduction="maxabs"), "reduction: unknown value 'maxabs'; did"),
    "precision": (ConfigError, dict(precision="bf32"), "did you mean 'fp32'"),
    "layer": (ModelError, dict(method="gradcam", layer="layr3"), "did you mean 'layer3'"),
    "another model's layer": (
        ModelError,
        dict(method="gradcam", layer=network().layer3),
        "kwargs.layer: the given Sequential is not a module of this ResNet",
    ),
    "base": (ConfigError, dict(method="vargrad", base="gradent"), "kwargs.base.method: unknown"),
    "base's argument": (
        ConfigError,
        dict(method="vargrad", base=dict(method="integrated_gradients", kwargs=dict(steps=1))),
        "kwargs.base.kwargs.steps: integrated_gradients has no such argument",
    ),
    "base's key": (
        ConfigError,
        dict(method="vargrad", base=dict(methd="gradient")),
        "kwargs.base: unknown value 'methd'; did you mean 'method'",
    ),
    "None as map": (
        AttributionError,
        dict(method=lambda m, i, l: None),
        "returned None instead of a map",
    ),
    "small map": (
        AttributionError,
        dict(method=lambda m, i, l: i[0, :, :4, :4]),
        "returned shape (3, 4, 4) for images of shape (1, 3, 32, 32)",
    ),
    "small maps": (
        AttributionError,
        dict(method=lambda m, i, l: i[:, 0, :, :4], batched=True),
        "returned shape (5, 32, 4) for images of shape (5, 3, 32, 32)",
    ),
    "NaN in a map": (AttributionError, dict(method=nan_at_3), "the map of sample 3 holds NaN"),
    "relevance": (
        DataError,
        dict(method="oracle", relevance=torch.rand(4, 32, 32)),
        "relevance: expected (N,H,W) = (5, 32, 32), not shape (4, 32, 32)",
    ),
    "no relevance": (AttributionError, dict(method="oracle"), "no ground-truth relevance"),
    "asks for relevance": (
        AttributionError,
        dict(method=lambda m, i, l, relevance: i),
        "asks for relevance, which is not given",
    ),
    "references": (
        AttributionError,
        dict(method="gradient_shap", references=torch.zeros(2, 3, 8, 8)),
        "references: expected (K,C,H,W) of the images' size (3, 32, 32)",
    ),
    "a single logit": (
        AttributionError,
        dict(model=Logits(lambda z: z[:, :1]), method="rise", n_masks=3),
        "the softmax of a single logit is 1",
    ),
}
IMPOSSIBLE = [
    ("integrated_gradients", "n_steps", 0),
    ("gradient_shap", "n_samples", 0),
    ("smoothgrad", "noise", -1),
    ("smoothgrad", "n_samples", 0),
    ("vargrad", "n_samples", 1),
    ("centre", "width", 0),
    ("rise", "n_masks", 0),
    ("rise", "cells", 0),
    ("rise", "keep", 2),
    ("feature_ablation", "cells", 0),
    ("feature_ablation", "superpixels", 0),
    ("occlusion", "window", 4.5),
    ("occlusion", "window", 0),
    ("occlusion", "stride", 0),
]


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    error, given, words = REFUSED[case]
    with pytest.raises(error, match=re.escape(words)):
        attribute(**{**dict(model=CNN, images=X, method="gradient"), **given})


@pytest.mark.parametrize("method, argument, value", IMPOSSIBLE)
def test_impossible_arguments(method, argument, value):
    with pytest.raises(ConfigError, match=f"kwargs.{argument}: {value} is impossible"):
        attribute(CNN, X, method=method, **{argument: value})


@pytest.mark.parametrize(
    "option, value, words",
    [
        ("target", "labels", "target: unknown value 'labels'; did you mean 'label'"),
        ("dtype", "float8", "dtype: unknown value 'float8'"),
        ("precision", "auto", "precision: unknown value 'auto'"),
    ],
)
def test_options_of_an_attribution(option, value, words):
    with pytest.raises(ConfigError, match=words):
        make_attribution("gradient", **{option: value})


@pytest.mark.parametrize("method", ["gradcam", "gradcam_pp", "guided_backprop", "neuron_mct"])
def test_what_a_method_cannot_see_inside_a_compiled_model(method):
    "Either the right map or an error with a reason"
    compiled = torch.compile(network(), backend="eager")
    try:
        maps = attribute(compiled, X, method=method)
    except AttributionError as e:
        assert "compiled model" in str(e)
    else:
        torch.testing.assert_close(maps, attribute(CNN, X, method=method))


def test_gradients_of_a_compiled_model():
    compiled = torch.compile(network(), backend="eager")
    torch.testing.assert_close(
        attribute(compiled, X, 1, "gradient"), attribute(CNN, X, 1, "gradient")
    )


# -- what is accepted ---------------------------------------------------------------------------


def inference(images):
    with torch.inference_mode():
        return images.clone()


READONLY = X.numpy().copy()
READONLY.flags.writeable = False


@pytest.mark.parametrize(
    "images", [X.numpy(), X.numpy()[::-1][::-1], READONLY, inference(X), X.clone().requires_grad_()]
)
@pytest.mark.parametrize("method", ["gradient", "integrated_gradients", "smoothgrad", "gradcam"])
def test_images_however_they_come(images, method):
    assert torch.equal(attribute(CNN, images, method=method), attribute(CNN, X, method=method))


@pytest.mark.parametrize("labels", [2, np.int64(2), torch.tensor(2), [2] * 5, np.full(5, 2)])
def test_one_class_for_all(labels):
    assert torch.equal(
        attribute(CNN, X, labels, "gradient"), attribute(CNN, X, [2] * 5, "gradient")
    )


@pytest.mark.parametrize("method", ["gradient", "gradcam", "gradient_shap", "rise"])
def test_inside_inference_mode(method):
    with torch.inference_mode():
        maps = attribute(CNN, X.clone(), method=method, **QUICK.get(method, {}))
    assert torch.equal(maps, attribute(CNN, X, method=method, **QUICK.get(method, {})))


def test_a_module_as_layer_is_named():
    by_name = attribute(CNN, X, method="gradcam", layer="layer2")
    assert torch.equal(attribute(CNN, X, method="gradcam", layer=CNN.layer2), by_name)
    spec = make_attribution("gradcam", dict(layer=CNN.layer2), model=CNN).spec
    assert spec == make_attribution("gradcam", dict(layer="layer2")).spec
    base = dict(method="gradcam", kwargs=dict(layer=CNN.layer2))
    made = make_attribution("vargrad", dict(base=base), model=CNN)
    assert made.spec["base"]["kwargs"]["layer"] == "layer2"
    with pytest.raises(ConfigError, match="kwargs.layer: give the layer's name here"):
        make_attribution("gradcam", dict(layer=CNN.layer2))


def test_networks_of_other_types():
    "In double and bfloat16 throughout, the map is nearly that in float32"
    for method in ("rise", "gradient_shap", "smoothgrad", "vargrad", "integrated_gradients"):
        kwargs = QUICK.get(method, {})
        exact = attribute(CNN, X, 1, method, **kwargs)
        for of, tolerance in ((torch.float64, 1e-3), (torch.bfloat16, 0.5)):
            got = attribute(copy.deepcopy(CNN).to(of), X.to(of), 1, method, **kwargs)
            assert (got - exact).norm() < tolerance * exact.norm(), (method, of)


# -- no trace, no batch -------------------------------------------------------------------------

QUICK = dict(
    integrated_gradients=dict(n_steps=8),
    neuron_intgrad=dict(n_steps=2),
    pathway_grad=dict(contribution="mct"),
    rise=dict(n_masks=20),
    occlusion=dict(window=16),
    feature_ablation=dict(cells=2),
)
SEEN = dict(mean=[0.5] * 3, std=[0.25] * 3, relevance=torch.rand(5, 32, 32) > 0.5)


@pytest.mark.parametrize("method", METHODS)
def test_the_model_is_left_as_it_was(method):
    model = network().train()
    model.layer1.eval()
    before = model_checksum(model)
    attribute(model, X, method=method, **SEEN, **QUICK.get(method, {}))
    assert model_checksum(model) == before
    assert [model.training, model.layer1.training] == [True, False]
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    hooks = [m._forward_hooks or m._backward_hooks for m in model.modules()]
    assert not any(hooks)


@pytest.mark.parametrize("method", METHODS)
def test_maps_do_not_depend_on_the_batch(method):
    kwargs = {**SEEN, **QUICK.get(method, {})}
    maps = attribute(CNN, X, 1, method, **kwargs)
    torch.testing.assert_close(
        attribute(CNN, X, 1, method, batch_size=2, **kwargs),
        maps,
        rtol=1e-3,
        atol=1e-4 * float(maps.abs().max()),
    )


def test_what_a_method_does_to_the_model_ends_with_it():
    def training(model, image, label):
        model.train()
        return image[0]

    attribute(CNN, X, method=training)
    assert not CNN.training


def test_frozen_restores_after_an_error():
    model = network()
    with pytest.raises(ZeroDivisionError), frozen(model):
        model.train()(X)
        1 / 0
    assert model_checksum(model) == model_checksum(CNN)


# -- the value ----------------------------------------------------------------------------------


def test_a_specification_says_all():
    assert make_attribution("vargrad", seed=3, precision="bf16", target="label").spec == dict(
        method="vargrad",
        revision=METHODS.find("vargrad").revision,
        source=None,
        base=dict(method="gradient", revision=1, source=None, kwargs={}),
        kwargs=dict(n_samples=15, noise=0.15),
        reduction="sum",
        abs=False,
        target="label",
        dtype="float32",
        precision="bf16",
        seed=3,
    )


def test_a_revision_is_a_difference():
    a = make_attribution("gradient")
    b = replace(a, method=replace(a.method, revision=a.method.revision + 1))
    assert a.spec != b.spec


def test_an_own_functions_file_is_a_difference():
    assert make_attribution(own).spec["source"]
    made = make_attribution("smoothgrad", dict(base=own))
    assert made.spec["base"]["source"] == make_attribution(own).spec["source"]


def test_the_flat_form_of_a_base():
    flat = dict(base="integrated_gradients", base_kwargs=dict(n_steps=3), base_batched=None)
    nested = dict(base=dict(method="integrated_gradients", kwargs=dict(n_steps=3)))
    assert make_attribution("vargrad", flat).spec == make_attribution("vargrad", nested).spec


def test_arguments_given_in_advance():
    "A partial of a registered method is that method"
    partial = functools.partial(METHODS.find("smoothgrad").fn, n_samples=2)
    assert METHODS.find(partial).reduction == "max_abs" and METHODS.find(partial).fn is partial
    assert torch.equal(
        attribute(CNN, X, method=partial), attribute(CNN, X, method="smoothgrad", n_samples=2)
    )
    other = functools.partial(METHODS.find("smoothgrad").fn, n_samples=3)
    assert make_attribution(partial).spec != make_attribution(other).spec


def test_a_function_as_base():
    def cube(model, images, labels):
        return images**3

    base = dict(method=cube, batched=True)
    maps = attribute(CNN, X, method="smoothgrad", base=base, noise=0)
    torch.testing.assert_close(maps, (X**3).abs().amax(1))


def test_float16_maps_are_scaled():
    a, c = make_attribution("gradient"), Context(torch.arange(5))
    half = make_attribution("gradient", dtype="float16").maps(CNN, X, torch.arange(5), c)
    full = a.maps(CNN, X, torch.arange(5), c)
    assert half.dtype == torch.float16
    assert half.flatten(1).abs().amax(1).tolist() == [1] * 5
    scaled = full / full.flatten(1).amax(1).view(-1, 1, 1)
    torch.testing.assert_close(half.float(), scaled, rtol=1e-3, atol=1e-3)


def test_maps_check_what_comes_from_a_set():
    a, c = make_attribution("gradient"), Context(torch.arange(40, 45))
    with pytest.raises(DataError, match="image 43 holds NaN"):
        a.maps(CNN, holding(float("nan")), torch.arange(5), c)


def test_the_seed_is_the_values():
    c = Context(torch.arange(5), seed=9)
    maps = make_attribution("random", seed=4).maps(CNN, X, torch.arange(5), c)
    assert torch.equal(maps, attribute(CNN, X, method="random", seed=4))


def test_predicted_labels_are_those_that_attribute_explains():
    pixels = (torch.rand(40, 3, 32, 32, generator=generator(4)) * 255).byte()
    ds = ImageSet(pixels, torch.zeros(40).long(), ["a"])
    labels = predicted_labels(CNN, ds, batch_size=16)
    images = torch.cat([b.images for b in ds.batches(16)])
    assert labels.dtype == torch.int64 and labels.shape == (40,)
    assert torch.equal(
        attribute(CNN, images, labels, "gradient"), attribute(CNN, images, None, "gradient")
    )


def test_memory_that_runs_out_halves_the_rows():
    sizes = []

    def hungry(model, images, labels, rows):
        sizes.append((len(images), rows))
        if len(images) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return images

    x = SMALL.repeat(4, 1, 1, 1)
    maps = attribute(CNN, x, 0, hungry, batched=True, batch_size=10, reduction="none")
    assert torch.equal(maps, x)
    assert sizes[:3] == [(10, 10), (5, 5), (3, 3)]
    assert max(n for n, _ in sizes[3:]) == 3


def test_memory_for_one_image():
    def greedy(model, images, labels):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(AttributionError, match="out of memory with one image at a time"):
        attribute(CNN, SMALL, 0, greedy, batched=True)


def test_other_errors_pass():
    def broken(model, images, labels):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        attribute(CNN, SMALL, 0, broken, batched=True)


# -- what is registered -------------------------------------------------------------------------


def test_the_table_lists_all():
    table = method_table()
    assert list(table.index) == sorted(METHODS)
    assert list(table.columns) == ["passes", "reduction", "needs", "paper"]
    assert (table != "").all(axis=None)


def test_a_method_is_one_decorated_function():
    @METHODS.register("louder", reduction="max", paper="Ours")
    def loud(model, images, labels, by=2):
        return by * images

    try:
        assert torch.equal(attribute(CNN, X, method="louder", by=3), 3 * X.amax(1))
        assert "louder" in method_table().index
    finally:
        METHODS._entries.pop("louder")
