"Images are read as torchvision reads them, layouts are checked, and hashes see what changed."

import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from repo import ROOT
from roar_nb.core import DataError
from roar_nb.images import FileSet, ImageSet, Reading, in_memory, read_image, split

DATA = Path(os.environ.get("ROAR_NB_DATA", ROOT.parent / "shared/data"))
SIZES = [(1, 1), (5, 300), (300, 5), (224, 224), (225, 225), (256, 256), (257, 383), (499, 375)]
SIZES += [tuple(wh) for wh in np.random.default_rng(0).integers(20, 700, (60, 2)).tolist()]


def torchvision_s(image_size):
    "The preprocessing that torchvision's models were made for"
    short = round(image_size * 8 / 7)
    return v2.Compose([v2.Resize(short), v2.CenterCrop(image_size), v2.PILToTensor()])


def noise(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@pytest.fixture
def two_files(tmp_path):
    "Two images of 40×30 pixels"
    for k in range(2):
        noise(40, 30, k).save(tmp_path / f"{k}.png")
    return [tmp_path / "0.png", tmp_path / "1.png"]


@pytest.mark.parametrize("image_size", [224, 97, 32])
def test_crop_is_torchvision_s_bit_for_bit(tmp_path, image_size):
    path, expected = tmp_path / "x.png", torchvision_s(image_size)
    for k, size in enumerate(SIZES):
        noise(*size, seed=k).save(path, compress_level=1)
        assert torch.equal(read_image(path, image_size), expected(Image.open(path))), size


def test_crop_is_torchvision_s_on_photographs(tmp_path):
    archive = DATA / "imagenet200.tar"
    if not archive.is_file():
        pytest.skip(f"needs imagenet200.tar in {DATA} (ROAR_NB_DATA names another folder)")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    paths, expected = sorted(tmp_path.rglob("*.JPEG")), torchvision_s(224)
    paths = paths or sorted(tmp_path.rglob("*.jp*g"))
    assert len(paths) == 200
    different = [
        path.name
        for path in paths
        if not torch.equal(read_image(path, 224), expected(Image.open(path).convert("RGB")))
    ]
    assert different == []


def test_squash_keeps_all_of_the_image(two_files):
    expected = v2.Compose([v2.Resize((24, 24)), v2.PILToTensor()])(Image.open(two_files[0]))
    assert torch.equal(read_image(two_files[0], 24, "squash"), expected)
    with pytest.raises(DataError, match="data.resize: unknown value 'crp'; did you mean 'crop'"):
        Reading(resize="crp")


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_becomes_rgb(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    if mode == "I;16":
        Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000).save(path)
    else:
        noise(8, 8).convert(mode).save(path)
    px = read_image(path)
    assert px.shape == (3, 8, 8) and px.dtype == torch.uint8 and px.float().std() > 20


def test_broken_files_are_named(two_files):
    whole = two_files[0].read_bytes()
    for broken in (
        b"no image",
        b"",
        whole[: len(whole) // 2],
        whole[:60] + b"x" * 40 + whole[100:],
    ):
        two_files[0].write_bytes(broken)
        with pytest.raises(DataError, match="0.png: not a readable image"):
            read_image(two_files[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_an_odd_size_is_named(two_files, workers):
    noise(41, 30).save(two_files[1])
    ds = FileSet(two_files, [0, 1], "ab", reading=Reading(num_workers=workers))
    message = "1.png: 30×41 pixels, but the first image has 30×40; set data.image_size"
    with pytest.raises(DataError, match=message):
        list(ds.batches(1))
    with pytest.raises(DataError, match=message):
        in_memory(ds)


PX = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8)


@pytest.mark.parametrize(
    "given",
    [PX, PX.numpy(), list(PX), list(PX.numpy())],
    ids=["tensor", "array", "tensors", "arrays"],
)
def test_pixels_are_accepted(given):
    assert torch.equal(ImageSet(given, np.array([0, 1, 0, 1]), "ab").images, PX)


@pytest.mark.parametrize(
    "given, advice",
    [
        (PX / 255, "round().to(torch.uint8)"),
        ((PX / 255).numpy().astype(np.float64), "round().to(torch.uint8)"),
        (PX.permute(0, 2, 3, 1), "permute(0, 3, 1, 2)"),
        (PX.permute(0, 2, 3, 1).numpy(), "permute(0, 3, 1, 2)"),
        ([Image.fromarray(o.numpy()) for o in PX.permute(0, 2, 3, 1)], "permute(0, 3, 1, 2)"),
        ([PX[0], PX[1, :, :4]], "images must be of one size"),
        (PX[0], "(N,C,H,W)"),
        (PX.long(), "uint8"),
    ],
    ids=["floats", "doubles", "nhwc", "nhwc array", "pictures", "sizes", "one image", "int64"],
)
def test_other_layouts_are_refused_with_advice(given, advice):
    with pytest.raises(DataError) as error:
        ImageSet(given, torch.zeros(len(given)), "a", name="mine")
    assert advice in str(error.value) and str(error.value).startswith("mine: ")


def test_given_statistics_may_be_arrays():
    means = [[0.1, 0.2, 0.3], np.array([0.1, 0.2, 0.3]), torch.tensor([0.1, 0.2, 0.3])]
    sets = [ImageSet(PX, [0] * 4, "a", mean=m, std=m) for m in means]
    assert [[round(v, 6) for v in ds.mean] for ds in sets] == [[0.1, 0.2, 0.3]] * 3


def test_an_impossible_batch_size_is_refused(two_files):
    sets = [ImageSet(PX, [0] * 4, "a"), FileSet(two_files, [0, 1], "ab")]
    for ds in [*sets, sets[0].resident()]:
        with pytest.raises(DataError, match="batch_size: 0 is impossible"):
            list(ds.batches(0))


def test_hash_and_statistics_are_computed_once(two_files, monkeypatch):
    ds = FileSet(two_files, [0, 1], "ab", reading=Reading(num_workers=0))
    first, mean = ds.fingerprint(), ds.mean
    monkeypatch.setattr("os.stat", None)
    monkeypatch.setattr("roar_nb.images.read_image", None)
    assert (ds.fingerprint(), ds.mean) == (first, mean)


def test_hash_sees_names_sizes_times_and_reading(two_files, tmp_path):
    def hashed(paths=two_files, labels=(0, 1), **reading):
        how = Reading(**dict(num_workers=0) | reading)
        return FileSet(paths, labels, "ab", [0.5] * 3, [0.2] * 3, reading=how).fingerprint()

    hashes = [hashed(), hashed(image_size=16), hashed(image_size=16, resize="squash")]
    hashes.append(hashed(labels=(1, 0)))
    assert hashed(num_workers=2) == hashes[0]
    os.utime(two_files[0], (1, 1))
    hashes.append(hashed())
    two_files[0].rename(tmp_path / "2.png")
    hashes.append(hashed([tmp_path / "2.png", two_files[1]]))
    assert len(set(hashes)) == 6


def test_a_changed_copy_forgets_what_was_computed():
    ds = ImageSet(PX, [0, 1, 0, 1], "ab")
    before = ds.fingerprint(), ds.mean
    other = ds.changed(images=255 - PX)
    assert other.fingerprint() != before[0] and other.mean != before[1]
    assert (ds.fingerprint(), ds.mean) == before


def test_a_split_shares_the_training_statistics():
    ds = ImageSet(torch.randint(0, 256, (40, 3, 4, 4), dtype=torch.uint8), [0] * 40, "a")
    train, validation = split(ds)
    assert validation.mean == train.mean == ImageSet(train.images, train.labels, "a").mean


def test_a_boolean_choice_of_files_takes_the_right_ones(two_files):
    ds = FileSet(two_files, [0, 1], "ab", reading=Reading(num_workers=0))
    some = ds.subset(ds.labels == 1)
    assert (some.paths, some.labels.tolist()) == ([str(two_files[1])], [1])
    assert (len(ds.subset([])), ds.subset(slice(1)).paths) == (0, [str(two_files[0])])
    with pytest.raises(DataError, match=r"Booleans for 2 images"):
        ds.subset(torch.tensor([True]))


PIXELS = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    "labels, more, message",
    [
        ([0, 5], {}, "label 5 has no class; expected labels from 0 to 1"),
        ([0, -1], {}, "label -1 has no class"),
        ([0.5, 1.0], {}, "whole numbers"),
        (["cat", "dog"], {}, r"labels: expected class numbers from 0, not \['cat', 'dog'\]"),
        ([0, 1], dict(mean=[0.5]), "expected 3 numbers, one a channel, not 1"),
        ([0, 1], dict(relevance=torch.zeros(2, 4, 4)), r"relevance: expected \(N,H,W\)"),
    ],
)
def test_what_does_not_fit_the_images_is_refused(labels, more, message):
    with pytest.raises(DataError, match=message):
        ImageSet(PIXELS, labels, "ab", **more)
