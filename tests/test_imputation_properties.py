"What imputations promise: exact solutions, nothing of what was removed, known pixels untouched."

import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from scipy.signal import convolve2d

from roar_nb.core import ConfigError, DataError, source_hash
from roar_nb.imputation import IMPUTATIONS, get_imputation, noisy_linear
from roar_nb.linear_solver import _solve_listed, _solve_on_grids, _width, linear

settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("steady")

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]
BUILT_IN = ("blur", "channel_mean", "image_mean", "noisy_linear", "uniform", "zero")
TELLS_NOTHING = [*(n for n in BUILT_IN if n != "blur"), (1, 0.5, 0)]


def random(*shape, seed=1):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def neighbours(i, h, w):
    "The places around place `i`, and 12 times their weights"
    y, x = divmod(i, w)
    for v in range(max(0, y - 1), min(h, y + 2)):
        for u in range(max(0, x - 1), min(w, x + 2)):
            if (v, u) != (y, x):
                yield v * w + u, 1 if v != y and u != x else 2


def dense(image, mask, fallback=0.5):
    "The weighted means, by a full matrix; an image without known pixels becomes the fallback"
    c, h, w = image.shape
    if mask.all():
        return np.full_like(image, fallback)
    system, right = np.eye(h * w), image.reshape(c, -1).T.astype(float)
    for i in np.flatnonzero(mask):
        near = list(neighbours(i, h, w))
        right[i] = 0
        for j, weight in near:
            system[i, j] = -weight / sum(k for _, k in near)
    return np.linalg.solve(system, right).T.reshape(image.shape)


@given(
    st.integers(1, 8),
    st.integers(1, 8),
    st.sampled_from([1, 3]),
    st.floats(0, 1),
    st.integers(0, 2**16),
)
def test_linear_solves_the_system(h, w, channels, density, seed):
    rng = np.random.default_rng(seed)
    images, masks = rng.random((3, channels, h, w), np.float32), rng.random((3, h, w)) < density
    masks[1] = rng.integers(2)  # one image with everything removed, or nothing
    x, m = torch.tensor(images), torch.tensor(masks)
    got = linear(x, m)
    assert torch.equal(got.movedim(1, -1)[~m], x.movedim(1, -1)[~m])
    exact = np.stack([dense(i, k) for i, k in zip(images, masks)])
    assert np.abs(got.numpy() - exact).max() < 1e-4
    assert (linear(x[2:], m[2:]) - got[2:]).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(224, 60), (1, 50), (100, 100)])
def test_large_holes(size):
    x, m = random(2, 3, *size), torch.ones(2, *size, dtype=torch.bool)
    m[0, size[0] // 2, size[1] // 3] = False  # all but one pixel: everything takes its colour
    m[1, :, -1] = False
    x[1, :, :, -1] = 0.25  # a constant border: so is the inside
    got = linear(x, m)
    only = x[0, :, size[0] // 2, size[1] // 3]
    assert (got[0] - only[:, None, None]).abs().max() < 1e-4
    assert (got[1] - 0.25).abs().max() < 1e-4


def test_holes_of_many_widths_by_each_solver():
    images, masks = random(4, 1, 40, 33), torch.zeros(4, 40, 33, dtype=torch.bool)
    for i in (0, 1, 3):  # a hole of another size in each image, none in one
        masks[i, 5 * i :, 20 : 23 + i] = masks[i, 2:12, : 3 * i] = True
    memory = torch.zeros(6, 4 * 3 * 42 * 35)
    listed = [partial(_solve_listed, wide=wide) for wide in (False, True)]
    for solve in (*listed, partial(_solve_on_grids, memory=memory)):
        got = images.clone()
        solve(images, masks[:, None], got)
        for out, image, mask in zip(got, images, masks):
            assert np.abs(out.numpy() - dense(image.numpy(), mask.numpy())).max() < 5e-5


def test_width_of_holes():
    assert _width(torch.ones(2, 1, 4, 9) > 0) == 4
    assert _width(torch.ones(2, 1, 9, 4) > 0) == 4


def test_a_solver_that_does_not_arrive_says_so():
    images, half, memory = random(3, 3, 20, 17), random(3, 1, 20, 17) < 0.5, torch.zeros(6, 3762)
    grids, listed = partial(_solve_on_grids, memory=memory), partial(_solve_listed, wide=False)
    for solve in (grids, listed):
        with pytest.warns(UserWarning, match="after 1 steps"):
            solve(images, half, out=images.clone(), most=1)
    with pytest.warns(UserWarning, match="infinite"):
        linear(torch.full((1, 1, 20, 17), float("inf")), random(1, 20, 17) < 0.1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        linear(images, half[:, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes_keep_known_pixels(dtype):
    x, m = random(2, 3, 9, 9).to(dtype), random(2, 9, 9) < 0.5
    for mask in (m, m[:, None].expand_as(x)):
        got = linear(x, mask)
        removed = m[:, None].expand_as(x)
        assert got.dtype == dtype and torch.equal(got[~removed], x[~removed])


def test_channels_by_themselves():
    x, m = random(2, 3, 9, 8), random(2, 3, 9, 8) < 0.6
    m[0, 1] = True  # nothing is known of a channel, others are
    got = linear(x, m, fallback=[0.1, 0.2, 0.3])
    for i in range(2):
        for c in range(3):
            exact = dense(x[i, c : c + 1].numpy(), m[i, c].numpy(), [[[0.2]]])
            assert np.abs(got[i, c].numpy() - exact).max() < 1e-4
    assert torch.equal(got[0, 1], torch.full((9, 8), 0.2))


def test_noise_is_that_of_the_seed_and_the_image():
    x, m = random(4, 3, 16, 16), random(4, 16, 16) < 0.5
    noisy = noisy_linear(x, m, seed=3)
    assert torch.equal(noisy_linear(x, m, seed=3), noisy)
    assert not torch.equal(noisy_linear(x, m, seed=4), noisy)
    assert (noisy_linear(x[1:], m[1:], seed=3, index=[1, 2, 3]) - noisy[1:]).abs().max() < 1e-5
    assert (noisy_linear(x, m[:, None].expand_as(x), seed=3) - noisy).abs().max() < 1e-4


@pytest.mark.parametrize("per_channel", [False, True])
def test_nothing_known_gives_the_fallback_and_noise(per_channel):
    x = random(64, 3, 32, 32)
    mask = torch.ones(64, *([3] if per_channel else []), 32, 32, dtype=torch.bool)
    assert (noisy_linear(x, mask, noise=0) == 0.5).all()  # never the image's own mean
    got = noisy_linear(x, mask, fallback=MEAN) - torch.tensor(MEAN)[:, None, None]
    assert got.mean().abs() < 1e-3 and abs(got.std() - 0.01) < 1e-3


@pytest.mark.parametrize("spec", TELLS_NOTHING, ids=str)
@pytest.mark.parametrize("channels", [None, 1, 3])
@pytest.mark.parametrize("density", [0.02, 0.5, 0.97, 1])
def test_what_is_removed_leaves_no_trace(spec, channels, density):
    "Images that differ at removed pixels alone become equal; with everything removed, all do"
    mask = random(4, *([channels] if channels else []), 12, 9, seed=2) < density
    mask[0] = True
    if channels == 3:
        mask[1, 1] = True  # nothing is known of one channel
    wide = mask[:, None] if channels is None else mask
    x, other = random(4, 3, 12, 9), random(4, 3, 12, 9, seed=3) * 2 - 1
    imputation = get_imputation(spec)
    assert not imputation.keeps
    out = imputation(x, mask, MEAN, STD, seed=5)
    assert torch.equal(imputation(torch.where(wide, other, x), mask, MEAN, STD, seed=5), out)
    assert torch.equal(imputation(other, mask, MEAN, STD, seed=5)[0], out[0])
    if density == 1:
        assert torch.equal(imputation(other, mask, MEAN, STD, seed=5), out)


@pytest.mark.parametrize("channels", [None, 3])
def test_where_nothing_is_known_the_training_mean_is_taken(channels):
    x = random(4, 3, 12, 9) + 2
    mask = torch.ones(4, *([channels] if channels else []), 12, 9, dtype=torch.bool)
    assert (get_imputation("channel_mean")(x, mask) == 0).all()
    assert (get_imputation("image_mean")(x, mask) == 0).all()
    noise = get_imputation("noisy_linear")(x, mask, MEAN, STD) * torch.tensor(STD)[:, None, None]
    assert noise.abs().max() < 0.05 and abs(noise.std() - 0.01) < 2e-3


def test_blur_is_marked_as_keeping_what_is_removed():
    x, other = random(2, 3, 12, 9), random(2, 3, 12, 9, seed=3)
    everything = torch.ones(2, 12, 9, dtype=torch.bool)
    blur = get_imputation("blur")
    assert blur.keeps and not torch.equal(blur(x, everything), blur(other, everything))
    assert [name for name in BUILT_IN if get_imputation(name).keeps] == ["blur"]


@pytest.mark.parametrize("size", [(30, 20), (5, 7), (1, 1)])
def test_blur_is_that_of_petsiuk(size):
    "11×11, sigma 5, reflected within the kernel by scipy; zeros around the normalised image"
    one = np.zeros((11, 11))
    one[5, 5] = 1
    kernel = gaussian_filter(one, 5)
    x = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    theirs = np.stack([[convolve2d(c, kernel, "same") for c in i] for i in x.double().numpy()])
    ours = get_imputation("blur")(x, torch.ones(2, *size, dtype=torch.bool))
    assert np.abs(ours.numpy() - theirs).max() < 1e-6


@pytest.mark.parametrize("name", BUILT_IN)
@pytest.mark.parametrize("density", [0, 0.3, 1])
@pytest.mark.parametrize("per_channel", [False, True])
def test_only_removed_pixels_change(name, density, per_channel):
    x = random(3, 3, 12, 9) * 2 - 1
    mask = random(3, *([3] if per_channel else []), 12, 9, seed=2) < density
    before = x.clone()
    out = get_imputation(name)(x, mask, MEAN, STD, seed=5)
    wide = (mask if per_channel else mask[:, None]).expand_as(x)
    assert out.isfinite().all() and out.shape == x.shape and torch.equal(x, before)
    assert torch.equal(out[~wide], x[~wide])


@pytest.mark.parametrize("name", BUILT_IN)
def test_facts_are_true(name):
    imputation = get_imputation(name)
    x, mask = random(3, 3, 12, 9), random(3, 12, 9, seed=2) < 0.5
    everything = torch.ones_like(mask)
    out = imputation(x, mask, MEAN, STD, seed=5)
    assert imputation.random != torch.equal(out, imputation(x, mask, MEAN, STD, seed=6))
    whole = torch.where(mask[:, None], imputation(x, everything, MEAN, STD, seed=5), x)
    assert imputation.needs_mask or torch.equal(out, whole)
    if imputation.needs_std:
        with pytest.raises(ConfigError, match="mean and std"):
            imputation(x, mask)
    else:
        assert torch.equal(imputation(x, mask, seed=5), out)
    assert source_hash(imputation.source) is None and imputation.fn.__doc__


def test_the_registry_lists_each_once():
    assert set(BUILT_IN) <= set(IMPUTATIONS) and "mask_only" not in IMPUTATIONS
    assert len(IMPUTATIONS) == len(list(IMPUTATIONS))


def warmer(image, mask):
    "Brighter"
    return image + 0.1


def test_own_functions():
    x, mask = random(2, 3, 5, 4) * 0.5, random(2, 5, 4, seed=2) < 0.5
    expected = torch.where(mask[:, None], x + 0.1, x)
    unit = dict(mean=[0.0] * 3, std=[1.0] * 3)
    dotted = f"{__name__}.warmer"
    for spec in (warmer, dotted):
        found = get_imputation(spec)
        assert found.name.endswith("warmer") and len(source_hash(found.source)) == 16
        assert (found(x, mask, **unit) - expected).abs().max() < 1e-6
    decorated = IMPUTATIONS.register("warm", random=False)(warmer)
    try:
        assert decorated is warmer
        for spec in ("warm", warmer, dotted, get_imputation("warm")):
            assert get_imputation(spec).name == "warm" and not get_imputation(spec).random
    finally:
        IMPUTATIONS._entries.pop("warm")
    batched = partial(warmer)
    batched.batched = True
    assert (get_imputation(batched)(x, mask, **unit) - expected).abs().max() < 1e-6
    with pytest.raises(ConfigError, match="mean and std"):
        get_imputation(warmer)(x, mask)


@pytest.mark.parametrize(
    "fn, message",
    [
        (lambda image, mask: image[:1], "returned"),
        (lambda image, mask: image * float("nan"), "NaN"),
        (lambda image, mask: image + nothing, "NameError"),  # noqa: F821
    ],
)
def test_own_functions_that_fail(fn, message):
    x, mask = random(2, 3, 5, 4), random(2, 5, 4) < 0.5
    with pytest.raises(DataError, match=message):
        get_imputation(fn)(x, mask, MEAN, STD)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("mask_only", "control.*retrain_cls.mask_only: true"),
        ("channel_maen", "did you mean 'channel_mean'"),
        ("nosuch.module", "no module"),
        ([0, 0, 2], "outside"),
        ([], "outside"),
        (["a", "b", "c"], "not a colour"),
        (np.array([0, 255, 0]), "outside"),
        (3, "not the name"),
        (None, "not the name"),
    ],
)
def test_what_is_no_imputation(spec, message):
    with pytest.raises(ConfigError, match=f"here: .*{message}"):
        get_imputation(spec, "here")


def test_images_and_masks_are_checked():
    x, mask = random(2, 3, 5, 4), random(2, 5, 4) < 0.5
    zero = get_imputation("zero")
    for images, masks in ((x, mask[:1]), (x, mask[:, None].expand(2, 2, 5, 4)), (x[0], mask)):
        with pytest.raises(DataError, match="must be"):
            zero(images, masks, MEAN, STD)
    for images, masks in ((x, mask.float()), ((255 * x).byte(), mask)):
        with pytest.raises(DataError, match="floating-point"):
            zero(images, masks, MEAN, STD)
    with pytest.raises(DataError, match="3 channels"):
        get_imputation([0.5])(x, mask, MEAN, STD)
    with pytest.raises(DataError, match="in image 1"):
        noisy_linear(x.index_fill(0, torch.tensor(1), float("inf")), mask)
    assert torch.equal(zero(x, mask[:, None], MEAN, STD), zero(x, mask, MEAN, STD))
