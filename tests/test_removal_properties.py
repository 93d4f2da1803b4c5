"What ranks, masks and splits promise, tried on many inputs."
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from roar_nb.data import stratified
from roar_nb.removal import rank, removal_mask, removed_count

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
