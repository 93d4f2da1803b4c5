"What noisy linear imputation promises, against a dense solution of the same system."
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from roar_nb.imputation import IMPUTATIONS, get_imputation, linear, noisy_linear

settings.register_profile("steady", deadline=None, derandomize=True, max_examples=60)
settings.load_profile("steady")

MEAN, STD = [0.4, 0.5, 0.6], [0.2, 0.25, 0.3]


def dense(image, mask):
    "The weighted means, by a full matrix; an image without known pixels becomes its mean"
    c, h, w = image.shape
    if mask.all():
        return np.broadcast_to(image.mean((1, 2), keepdims=True), image.shape)
    system, right = np.eye(h * w), image.reshape(c, -1).T.astype(float)
    for i in range(h * w):
        if not mask.flat[i]:
            continue
        y, x = divmod(i, w)
        near = [(v * w + u, 2 - (v != y and u != x)) for v in range(max(0, y - 1), min(h, y + 2))
                for u in range(max(0, x - 1), min(w, x + 2)) if (v, u) != (y, x)]
        right[i] = 0
        for j, weight in near:
            system[i, j] = -weight / sum(k for _, k in near)
    return np.linalg.solve(system, right).T.reshape(image.shape)


@given(st.integers(1, 8), st.integers(1, 8), st.sampled_from([1, 3]), st.floats(0, 1), st.integers(0, 2**16))
def test_linear_solves_the_system(h, w, channels, density, seed):
    rng = np.random.default_rng(seed)
    images, masks = rng.random((3, channels, h, w), dtype=np.float32), rng.random((3, h, w)) < density
    masks[1] = rng.integers(2)  # one image with everything removed, or nothing
    x, m = torch.tensor(images), torch.tensor(masks)
    got = linear(x, m)
    assert torch.equal(got.movedim(1, -1)[~m], x.movedim(1, -1)[~m])
    assert np.abs(got.numpy() - np.stack([dense(i, k) for i, k in zip(images, masks)])).max() < 1e-4
    assert (linear(x[2:], m[2:]) - got[2:]).abs().max() < 1e-5


@pytest.mark.parametrize("size", [(224, 60), (1, 50), (100, 100)])
def test_large_holes(size):
    x, m = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)), torch.ones(2, *size, dtype=torch.bool)
    m[0, size[0] // 2, size[1] // 3] = False  # all but one pixel: everything takes its colour
    m[1, :, -1] = False
    x[1, :, :, -1] = 0.25  # a constant border: so is the inside
    got = linear(x, m)
    assert (got[0] - x[0, :, size[0] // 2, size[1] // 3][:, None, None]).abs().max() < 1e-4
    assert (got[1] - 0.25).abs().max() < 1e-4


def test_noise_is_that_of_the_seed_and_the_image():
    x, m = torch.rand(4, 3, 16, 16), torch.rand(4, 16, 16) < 0.5
    assert torch.equal(noisy_linear(x, m, seed=3), noisy_linear(x, m, seed=3))
    assert not torch.equal(noisy_linear(x, m, seed=3), noisy_linear(x, m, seed=4))
    assert (noisy_linear(x[1:], m[1:], seed=3, index=[1, 2, 3]) - noisy_linear(x, m, seed=3)[1:]).abs().max() < 1e-5


@pytest.mark.parametrize("name", IMPUTATIONS)
@pytest.mark.parametrize("density", [0, 0.3, 1])
@pytest.mark.parametrize("per_channel", [False, True])
def test_only_removed_pixels_change(name, density, per_channel):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(3, 3, 12, 9, generator=g)
    m = torch.rand(3, *([3] if per_channel else []), 12, 9, generator=g) < density
    out = get_imputation(name)(x, m, MEAN, STD, seed=5)
    wide = (m if per_channel else m[:, None]).expand_as(x)
    assert out.isfinite().all() and out.shape == x.shape
    expected = (~wide).float() if name == "mask_only" else x
    assert torch.equal(out[~wide], expected[~wide])
