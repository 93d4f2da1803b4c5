"What ranks, masks and splits promise, tried on many inputs."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roar_nb.core import ConfigError, DataError
from roar_nb.images import ImageSet, stratified
from roar_nb.removal import MaskedSet, rank, removal_mask, removed_count

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

values = st.floats(width=32, allow_nan=False, allow_infinity=False)
few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5])
shape = st.tuples(st.integers(1, 4), st.integers(1, 7), st.integers(1, 7))
maps = shape.flatmap(lambda s: hnp.arrays(np.float32, s, elements=st.one_of(values, few)))
percentile = st.one_of(st.sampled_from([0, 100, 50]), st.floats(0, 100))


@given(maps, st.integers(0, 2**31))
def test_ranks_are_a_permutation_in_the_order_of_the_values(m, seed):
    ranks = rank(m, seed).flatten(1).numpy()
    for r, v in zip(ranks, m.reshape(len(m), -1)):
        assert sorted(r) == list(range(len(v)))
        assert (np.diff(v[np.argsort(r)]) >= 0).all()


@given(maps, st.integers(0, 5))
def test_an_image_has_its_ranks_whatever_its_batch(m, seed):
    whole = rank(m, seed)
    for i in range(len(m)):
        assert torch.equal(rank(m[i : i + 1], seed, [i])[0], whole[i])


@given(maps, percentile)
def test_exactly_k_pixels_go_and_they_are_the_extreme_ones(m, p):
    ranks, n = rank(m), m[0].size
    k = int(np.floor(p * n / 100 + 0.5))
    assert removed_count(p, n) == k
    for order, sign in (("morf", 1), ("lerf", -1)):
        mask = removal_mask(ranks, p, order).numpy()
        assert (mask.reshape(len(m), -1).sum(1) == k).all()
        for image, gone in zip(sign * m, mask):
            if 0 < k < n:
                assert image[gone].min() >= image[~gone].max()


@given(maps, percentile, percentile)
def test_more_removed_means_a_larger_mask(m, p, q):
    ranks, (low, high) = rank(m), sorted((p, q))
    for order in ("morf", "lerf"):
        assert not (removal_mask(ranks, low, order) & ~removal_mask(ranks, high, order)).any()


@given(maps)
def test_the_orders_are_complements(m):
    ranks, n = rank(m), m[0].size
    for k in range(n + 1):
        morf, lerf = ranks >= n - k, ranks < n - k
        assert torch.equal(removal_mask(ranks, 100 * k / n, "morf"), morf)
        assert torch.equal(removal_mask(ranks, 100 * (n - k) / n, "lerf"), lerf)
        assert torch.equal(morf, ~lerf)


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.data())
def test_stratified_choice_keeps_proportions(labels, data):
    y = torch.tensor(labels)
    n = data.draw(st.integers(0, len(labels)))
    chosen = stratified(y, n)
    assert len(chosen) == n and len(chosen.unique()) == n
    share = y.bincount(minlength=5) * n / len(y)
    assert ((y[chosen].bincount(minlength=5) - share).abs() < 1 + 1e-9).all()


def fives(n=4):
    "Images whose pixels are all 255"
    images = torch.full((n, 3, 6, 5), 255, dtype=torch.uint8)
    return ImageSet(images, torch.arange(n) % 2, ["a", "b"], [0.5] * 3, [0.5] * 3, name="Fives")


@pytest.mark.parametrize("shape", [(6, 5), (1, 6, 5)])
@pytest.mark.parametrize("as_array", [False, True])
def test_maps_and_ranks_may_be_arrays_with_or_without_a_channel(shape, as_array):
    m = torch.rand(4, *shape, generator=torch.Generator().manual_seed(0))
    m = m.numpy() if as_array else m
    ranks = rank(m)
    assert ranks.shape == m.shape and ranks.dtype == torch.int32
    given = ranks.numpy() if as_array else ranks
    for imputation in ("channel_mean", "noisy_linear"):
        image, label, mask = MaskedSet(fives(), given, 40, imputation=imputation)[1]
        assert mask.shape == (6, 5) and mask.sum() == 12 and label == 1
        assert (image[:, ~mask] == 1).all()


def test_ranks_must_fit_the_images():
    ds, good = fives(), rank(torch.rand(4, 6, 5))
    for wrong in (good[:3], good[:, :5], good.flatten(1), rank(torch.rand(4, 5, 6)), good[None]):
        with pytest.raises(DataError, match="maps .*for .*images of Fives"):
            MaskedSet(ds, wrong, 10)
        later = MaskedSet(ds, lambda index: wrong, 10)
        with pytest.raises(DataError, match="maps .*for .*images of Fives"):
            next(later.batches(4))


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(percentile=101), "101 is impossible"),
        (dict(percentile=10, order="mrof"), "did you mean 'morf'"),
        (dict(percentile=10, imputation="blurr"), "did you mean 'blur'"),
    ],
)
def test_a_masked_set_is_checked_when_it_is_made(wrong, message):
    with pytest.raises(ConfigError, match=message):
        MaskedSet(fives(), rank(torch.rand(4, 6, 5)), **wrong)


def test_maps_are_checked():
    with pytest.raises(DataError, match=r"\(N,H,W\) or \(N,C,H,W\), not \(4, 5\)"):
        rank(torch.rand(4, 5))
    with pytest.raises(DataError, match="image 8 holds NaN"):
        rank(torch.tensor([[[1.0]], [[float("nan")]]]), index=[7, 8])


@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize("channels", [None, 3])
def test_masks_alone(order, channels):
    m = torch.rand(4, *([channels] if channels else []), 6, 5)
    ds, ranks = fives(), rank(m)
    masked = MaskedSet(ds, ranks, 40, order, mask_only=True)
    (b,) = masked.batches(4, dtype=torch.bfloat16)
    mask = removal_mask(ranks, 40, order)
    kept = (~(mask if channels else mask[:, None])).expand(4, 3, 6, 5)
    assert b.images.dtype == torch.bfloat16 and torch.equal(b.images.float(), kept.float())
    assert torch.equal(masked.resident().images, kept.float())
    assert torch.equal(b.labels, ds.labels)


@pytest.mark.parametrize("imputation", ["channel_mean", "image_mean", "noisy_linear", "zero"])
@pytest.mark.parametrize("order", ["morf", "lerf"])
@pytest.mark.parametrize("channels", [None, 3])
def test_nothing_of_the_images_is_left_at_100_per_cent(imputation, order, channels):
    "So that a retrained network is at chance"
    g = torch.Generator().manual_seed(0)
    ranks = rank(torch.rand(8, *([channels] if channels else []), 6, 5, generator=g))
    seen = []
    for _ in range(2):
        images = torch.randint(256, (8, 3, 6, 5), generator=g).byte()
        ds = ImageSet(images, torch.arange(8), list("abcdefgh"), [0.5] * 3, [0.25] * 3)
        (b,) = MaskedSet(ds, ranks, 100, order, imputation).batches(8)
        seen.append(b.images)
    assert torch.equal(*seen)
