"Filters against scipy, perimeters against a loop, facts about maps against counting."

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import ndimage

from roar_nb.core import DataError
from roar_nb.filters import (
    FILTERS,
    filtered,
    map_facts,
    missing_facts,
    note_facts,
    perimeter,
    read_facts,
)
from roar_nb.randomness import generator
from roar_nb.removal import rank, removal_mask

settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

SIZES = [(32, 32), (7, 13), (1, 9), (1, 1), (224, 50)]
numbers = st.floats(width=32, allow_nan=False, allow_infinity=False)
few = st.sampled_from([0.0, -0.0, 1.0, -1.0, 2.5])
shape = st.tuples(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
maps = shape.flatmap(lambda s: hnp.arrays(np.float32, s, elements=st.one_of(numbers, few)))
masks = shape.flatmap(lambda s: hnp.arrays(bool, s))


def noise(*size, seed=0):
    return torch.randn(*size, generator=generator(seed))


@pytest.mark.parametrize("size", SIZES)
def test_the_maximum_is_scipys(size):
    m = noise(*size)
    expected = ndimage.maximum_filter(m.numpy(), size=3)
    assert (FILTERS["maximum3"](m[None])[0].numpy() == expected).all()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [1, 2])
def test_the_gaussian_is_scipys_with_the_weights_in_the_image(size, sigma):
    m, how = noise(*size), dict(sigma=sigma, mode="constant", truncate=4)
    expected = ndimage.gaussian_filter(m.double().numpy(), **how)
    expected /= ndimage.gaussian_filter(np.ones(size), **how)
    found = FILTERS[f"gaussian{sigma}"](m[None])[0]
    assert np.allclose(found, expected, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_blocks_are_the_means_of_labels(size):
    m, (h, w) = noise(*size), size
    squares = np.add.outer(np.arange(h) // 4 * 1000, np.arange(w) // 4)
    means = ndimage.mean(m.double().numpy(), squares, np.unique(squares))
    expected = means[np.searchsorted(np.unique(squares), squares)]
    found = FILTERS["block4"](m[None])[0].numpy()
    assert np.allclose(found, expected, atol=1e-6)
    assert len(np.unique(found)) == len(means)


@pytest.mark.parametrize("name", FILTERS)
def test_each_channel_is_filtered_by_itself(name):
    m = noise(2, 3, 9, 6)
    found = FILTERS[name](m)
    for c in range(3):
        assert torch.equal(found[:, c], FILTERS[name](m[:, c]))
    assert found.dtype == torch.float32 and found.shape == m.shape
    half = FILTERS[name](m.half().numpy())
    assert half.dtype == torch.float32 and torch.allclose(half, found, atol=1e-2)
    with pytest.raises(DataError, match="N,C,H,W"):
        FILTERS[name](m[0, 0])


@given(maps, st.sampled_from(sorted(FILTERS)))
def test_values_stay_between_the_extremes(m, name):
    found, size = FILTERS[name](m).numpy(), m.shape
    low, high = (m.reshape(len(m), -1).astype(float).min(1), m.reshape(len(m), -1).max(1))
    assert found.shape == size
    assert (found >= low[:, None, None] - 1e-6 * abs(low).max()).all()
    assert (found <= high[:, None, None] + 1e-6 * abs(high.astype(float)).max()).all()
    if name == "maximum3":
        assert (found >= m).all()


@given(numbers, shape, st.sampled_from(sorted(FILTERS)))
def test_a_constant_map_stays_constant(value, size, name):
    m = torch.full(size, value)
    assert torch.equal(FILTERS[name](m), m)


@given(maps, st.sampled_from(["", *FILTERS]))
def test_a_copy_does_not_depend_on_the_batch(m, name):
    whole = filtered(torch.as_tensor(m), name)
    for i in range(len(m)):
        assert torch.equal(filtered(torch.as_tensor(m[i : i + 1]), name)[0], whole[i])


def borders(mask):
    "Unequal neighbours and all pairs, counted"
    h, w = mask.shape
    pairs = [(i, j, i + 1, j) for i in range(h - 1) for j in range(w)]
    pairs += [(i, j, i, j + 1) for i in range(h) for j in range(w - 1)]
    return sum(mask[a, b] != mask[c, d] for a, b, c, d in pairs), len(pairs)


@given(masks)
def test_the_perimeter_is_counted(mask):
    for found, one in zip(perimeter(mask).tolist(), mask):
        unequal, pairs = borders(one)
        assert found == pytest.approx(unequal / max(pairs, 1), abs=1e-6)
    assert torch.equal(perimeter(mask), perimeter(~mask))


def test_perimeters_of_channels_are_pooled():
    mask = torch.rand(2, 3, 5, 4, generator=generator(0)) < 0.5
    assert torch.allclose(perimeter(mask), torch.stack([perimeter(m).mean() for m in mask]))
    chessboard = (torch.arange(6)[:, None] + torch.arange(8)) % 2 == 0
    assert perimeter(chessboard[None]).item() == 1


@given(maps)
def test_facts_are_counted(m):
    facts = map_facts(m, [20, 50], seed=3)
    assert (facts.images == len(m)).all() and list(facts.order) == ["morf"] * 2 + ["lerf"] * 2
    flat = m.reshape(len(m), -1) + np.float32(0)
    assert np.allclose(facts.constant, np.mean([len(set(f)) == 1 for f in flat]))
    tied = np.mean([[list(f).count(v) > 1 for v in f] for f in flat])
    assert np.allclose(facts.tied, tied)
    for row in facts.itertuples():
        gone = removal_mask(rank(m, 3), row.percentile, row.order)
        assert row.perimeter == pytest.approx(perimeter(gone).mean().item(), abs=1e-5)


def test_facts_are_those_of_the_positions():
    "Ties are broken by the position in the dataset, whatever part of it is looked at"
    m = torch.zeros(150, 6, 6)
    whole = perimeter(removal_mask(rank(m, 1), 50))
    facts = map_facts(m[100:], [50], seed=1, index=torch.arange(100, 150))
    assert facts.perimeter[0] == pytest.approx(whole[100:].mean().item(), abs=1e-6)
    with pytest.raises(DataError, match="image 7 holds NaN"):
        map_facts(m[:1] / 0 * 0, [50], index=[7])


def test_the_file_keeps_what_is_not_looked_at_again(tmp_path):
    path, facts = tmp_path / "maps.csv", map_facts(noise(4, 5, 5), [10, 50])
    assert missing_facts(path, "a", "v1", [10], ["block4"]) == ["", "block4"]
    note_facts(path, "a", "v1", {"": facts, "block4": facts})
    note_facts(path, "nan", "v1", {"": facts})
    assert missing_facts(path, "nan", "v1", [10, 50]) == []
    assert missing_facts(path, "a", "v1", [50], ["block4"]) == []
    assert missing_facts(path, "a", "v1", [50, 60], ["block4"]) == ["", "block4"]
    note_facts(path, "a", "v1", {"gaussian1": facts[:1]})
    counts = read_facts(path).groupby(["method", "filter"]).size().to_dict()
    assert counts == {("a", ""): 4, ("a", "block4"): 4, ("a", "gaussian1"): 1, ("nan", ""): 4}
    note_facts(path, "a", "v2", {"": facts})  # other maps: nothing of the old ones stays
    counts = read_facts(path).groupby(["method", "filter"]).size().to_dict()
    assert counts == {("a", ""): 4, ("nan", ""): 4}
    kept = read_facts(path).query("method == 'a'").drop(columns=["method", "filter", "maps"])
    pd.testing.assert_frame_equal(kept.reset_index(drop=True), facts, check_dtype=False, rtol=1e-5)


@pytest.mark.parametrize("content", ["", "nonsense", "a,b\n1\n1,2,3\n"])
def test_a_file_that_cannot_be_read_is_made_again(tmp_path, content):
    path = tmp_path / "maps.csv"
    path.write_text(content)
    assert missing_facts(path, "a", "v1", [10]) == [""]
    note_facts(path, "a", "v1", {"": map_facts(noise(4, 5, 5), [10])})
    assert missing_facts(path, "a", "v1", [10]) == []
