"Datasets are found and split the same way every time, and decode no more than they use."

import json

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from roar_nb.core import ConfigError, DataError
from roar_nb.datasets import DATASETS, Splits, as_imagenet, dataset_keys, imagenet_ids, load_data
from roar_nb.images import FileSet, ImageSet
from roar_nb.shapes import shapes


def save(pixels, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)


def make_tree(root, **parts):
    "Class folders of drawn images, three classes of different sizes; part '_' is `root` itself"
    for part, n in parts.items():
        for k, image in enumerate(shapes(n, seed=n).images):
            folder = root if part == "_" else root / part
            save(image, folder / f"class{k * k % 7 % 3}" / f"{k:03}.png")
    return root


def photo(path, height, width, value=0):
    save(torch.full((3, height, width), value, dtype=torch.uint8), path)


def lengths(splits):
    return {part: len(ds) for part, ds in splits.items()}


def hashes(splits):
    return [ds.fingerprint() for _, ds in splits.items()]


# the same seeds give the images, splits and choices that earlier releases gave
FORMER = {
    "shapes": ["5bae189bec7ab096", "c9185602337a758e", "01cf1fa7f271b198"],
    "two parts": ["1419c79acfb7bdf9", "c145a9adbc80aaf3", "eab8e34b70b77b0e"],
    "limited": ["f386aa308c87d45c", "8907f8fee4363247", "86cfa4bc301d1648"],
    "three parts": ["ae3b5ba05b48d243", "01c7e7a997207041", "05e3e61f34ce3d17"],
}


def test_splits_are_those_of_earlier_releases(tmp_path):
    limit = dict(train=33, test=7)
    sizes = dict(n_train=80, n_validation=20, n_test=30)
    found = {"shapes": hashes(load_data("Shapes", limit=limit, seed=3, **sizes))}
    root = str(make_tree(tmp_path, train=90, test=40))
    found["two parts"] = hashes(load_data("ImageFolder", root, seed=2))
    found["limited"] = hashes(load_data("ImageFolder", root, 0.7, limit=21, seed=5))
    make_tree(tmp_path, val=33)
    settings = dict(limit=dict(validation=10), mean=[0.5] * 3, std=[0.2] * 3)
    found["three parts"] = hashes(load_data("ImageFolder", root, **settings))
    assert found == FORMER


def test_only_chosen_images_are_decoded(tmp_path, monkeypatch):
    from roar_nb import images

    read, read_image = [], images.read_image

    def counted(path, *args, **kwargs):
        read.append(path)
        return read_image(path, *args, **kwargs)

    monkeypatch.setattr(images, "read_image", counted)
    make_tree(tmp_path, train=90, test=40)
    splits = load_data("ImageFolder", str(tmp_path), limit=dict(train=12, validation=3, test=5))
    assert lengths(splits) == dict(train=12, validation=3, test=5)
    assert len(read) == len(set(read)) == 20
    assert all(isinstance(ds, ImageSet) for _, ds in splits.items())


def test_the_hash_of_files_sees_their_times_and_is_computed_once(tmp_path, monkeypatch):
    import os

    for k in range(4):
        photo(tmp_path / "test" / f"class{k % 2}" / f"{k}.png", 200, 130, 60 * k)

    def loaded():
        return load_data("ImageFolder", str(tmp_path), num_workers=0).test

    before = loaded().fingerprint()
    assert before == loaded().fingerprint()
    os.utime(tmp_path / "test/class0/0.png", (5, 5))
    ds = loaded()
    after = ds.fingerprint()
    assert after != before
    monkeypatch.setattr("roar_nb.images.os", None)
    assert ds.fingerprint() == after


def test_statistics_of_files_are_computed_once(tmp_path, monkeypatch):
    from roar_nb import images

    for part in ("train", "validation", "test"):
        for k in range(2):
            photo(tmp_path / part / f"class{k}" / f"{k}.png", 200, 130, 90 * k)
    splits = load_data("ImageFolder", str(tmp_path), num_workers=0)
    monkeypatch.setattr(images, "channel_statistics", None)
    some = [splits.train, splits.validation, splits.test, splits.test.subset([1])]
    assert len({str((ds.mean, ds.std)) for ds in some}) == 1


def test_class_folders_alone_are_split(tmp_path):
    make_tree(tmp_path, _=96)
    splits = load_data("ImageFolder", str(tmp_path), seed=1)
    assert lengths(splits) == dict(train=74, validation=10, test=12)
    everything = torch.cat([ds.images for _, ds in splits.items()]).flatten(1)
    assert len(everything.unique(dim=0)) == 96
    shares = [ds.labels.bincount(minlength=3) / len(ds) for _, ds in splits.items()]
    assert (torch.stack(shares) - shares[0]).abs().max() < 0.1
    assert hashes(splits) == hashes(load_data("ImageFolder", str(tmp_path), seed=1))
    assert hashes(splits) != hashes(load_data("ImageFolder", str(tmp_path), seed=2))
    other = lengths(load_data("ImageFolder", str(tmp_path), split_ratio=0.5))
    assert other == dict(train=42, validation=42, test=12)


@pytest.mark.parametrize(
    "parts, expected",
    [
        (dict(train=32), dict(train=24, validation=4, test=4)),
        (dict(train=32, val=8), dict(train=28, validation=4, test=8)),
        (dict(train=32, validation=9, test=8), dict(train=32, validation=9, test=8)),
        (dict(test=8), dict(test=8)),
        (dict(val=8), dict(test=8)),
    ],
    ids=lambda o: " ".join(o),
)
def test_folders_and_parts(tmp_path, parts, expected):
    assert lengths(load_data("ImageFolder", str(make_tree(tmp_path, **parts)))) == expected


def test_trees_that_cannot_be_used(tmp_path):
    def refused(message, *args, **kwargs):
        with pytest.raises(DataError, match=message):
            load_data("ImageFolder", str(tmp_path), *args, **kwargs)

    refused("expected train/<class>/… and test/<class>/…")
    make_tree(tmp_path / "dataset", train=8, test=8)
    refused("or <class>/… of two classes or more")
    make_tree(tmp_path, train=2, test=2)
    refused("cannot be split at data.split_ratio 0.875")
    (tmp_path / "train/class9").mkdir()
    refused("class folder 'class9' holds no images")
    (tmp_path / "train/class9").rmdir()
    make_tree(tmp_path, train=30)
    photo(tmp_path / "test/class8/x.png", 32, 32)
    refused("class folder 'class8' has no counterpart")
    with pytest.raises(DataError, match="data.dataset_dir: no such folder"):
        load_data("ImageFolder", str(tmp_path / "nowhere"))


def test_damaged_and_odd_files_are_named(tmp_path):
    make_tree(tmp_path, train=32, test=8)
    photo(tmp_path / "train/class0/999.png", 32, 33)
    with pytest.raises(DataError, match="999.png: 32×33 pixels.*set data.image_size"):
        load_data("ImageFolder", str(tmp_path), seed=3, split_ratio=0.96)
    (tmp_path / "train/class0/999.png").write_bytes(b"no image")
    with pytest.raises(DataError, match="999.png: not a readable image"):
        load_data("ImageFolder", str(tmp_path), seed=3, split_ratio=0.96)


def test_images_of_one_size_keep_it_and_others_are_cut(tmp_path):
    def size(**settings):
        return load_data("ImageFolder", str(tmp_path), num_workers=0, **settings).test.size

    for k in range(6):
        photo(tmp_path / "test" / f"class{k % 2}" / f"{k}.png", 128, 120)
    assert size() == (128, 120)
    assert size(image_size=64) == (64, 64) == size(image_size=64, resize="squash")
    photo(tmp_path / "test/class1/9.png", 128, 121)
    assert size() == (224, 224) == size(limit=2)  # whatever the choice


def test_squash(tmp_path):
    for k in range(4):
        path = tmp_path / "test" / f"class{k % 2}" / f"{k}.png"
        photo(path, 20, 60, 50)
        pixels = np.array(Image.open(path))
        pixels[:, 30:] = 200
        Image.fromarray(pixels).save(path)
    cut, squashed = (
        load_data("ImageFolder", str(tmp_path), image_size=20, resize=resize).test.images
        for resize in ("crop", "squash")
    )
    assert cut.shape == squashed.shape == (4, 3, 20, 20)
    assert squashed[0, 0, 0, 0] == 50 and squashed[0, 0, 0, -1] == 200
    with pytest.raises(DataError, match="data.resize: unknown value 'squish'"):
        load_data("ImageFolder", str(tmp_path), resize="squish")


def test_every_dataset_says_what_it_takes():
    assert len(DATASETS) == 9
    assert dataset_keys("CIFAR10") == dict(
        dataset_dir="data", download=True, split_ratio=0.875, mean=None, std=None
    )
    assert {"cue", "n_train", "image_size"} <= dataset_keys("Shapes").keys()
    assert {"resize", "image_size", "num_workers"} <= dataset_keys("ImageFolder").keys()
    assert all("seed" not in dataset_keys(name) for name in DATASETS)
    assert {name for name in DATASETS if DATASETS[name].downloads} == {
        "CIFAR10", "CIFAR100", "FashionMNIST", "Food101", "SVHN"
    }  # fmt: skip


def test_unknown_datasets_and_settings():
    with pytest.raises(ConfigError, match="data.dataset: unknown dataset.*did you mean 'CIFAR10'"):
        load_data("CIFAR-10")
    with pytest.raises(DataError, match="data.image_size: CIFAR10 has no such setting"):
        load_data("CIFAR10", image_size=64)
    with pytest.raises(DataError, match="data.queue: Shapes has no such.*did you mean 'cue'"):
        load_data("Shapes", queue="texture")
    few = dict(n_train=16, n_validation=4, n_test=4)
    load_data("Shapes", num_workers=0, download=False, dataset_dir="x", image_size=None, **few)


OWN = """
import torch
from roar_nb.datasets import Splits
from roar_nb.images import ImageSet

def dots(dataset_dir, colour="red", seed=0):
    pixels = torch.randint(0, 256, (40, 3, 16, 16), generator=torch.Generator().manual_seed(seed))
    whole = ImageSet(pixels.byte(), torch.arange(40)%2, ["a", colour])
    return Splits(train=whole.subset(range(32)), test=whole.subset(range(32, 40)))

def tests(): return Splits(test=dots("x").test)
def nothing(): return Splits()
def wrong(): return dots("x").test
def images(): return Splits(test=dots("x").test.images)
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    import sys

    sys.modules.pop("own_data", None)


def test_a_function_of_one_s_own(own):
    splits = load_data("own_data.dots", "somewhere", colour="blue", limit=dict(test=4), seed=3)
    assert lengths(splits) == dict(train=28, validation=4, test=4)
    assert splits.test.classes == ["a", "blue"] and splits.test.name == "own_data.dots"
    assert splits.test.mean == splits.train.mean
    assert dataset_keys("own_data.dots")["dataset_dir"] is ...
    assert lengths(load_data("own_data.tests")) == dict(test=8)


@pytest.mark.parametrize(
    "name, message",
    [
        ("dots", "data.dataset_dir: own_data.dots needs it"),
        ("nothing", "own_data.nothing has no images"),
        ("wrong", "own_data.wrong returned ImageSet, expected Splits"),
        ("images", "test of own_data.images is Tensor, expected ImageSet or FileSet"),
    ],
)
def test_functions_that_cannot_be_used(own, name, message):
    with pytest.raises(DataError, match=message):
        load_data(f"own_data.{name}")


def test_a_registered_dataset_of_one_s_own_is_found_by_name():
    @DATASETS.register("Mine", mean=[0.1] * 3, std=[0.2] * 3)
    def mine():
        return Splits(test=shapes(10))

    try:
        assert load_data("Mine").test.mean == [0.1] * 3
        assert load_data(mine, mean=[0.3] * 3).test.mean == [0.3] * 3
    finally:
        del DATASETS._entries["Mine"]


def test_sets_that_a_function_hands_out_twice_are_not_changed():
    kept = shapes(10)
    before = kept.fingerprint()
    load_data(lambda: Splits(test=kept), mean=[0.3] * 3, std=[0.2] * 3)
    assert kept.fingerprint() == before and kept.mean != [0.3] * 3


def test_imagenet(tmp_path):
    ids = imagenet_ids()
    for k in (7, 4):
        photo(tmp_path / "val" / ids[k] / "x.JPEG", 100, 140, k)
    splits = load_data("ImageNet", str(tmp_path), num_workers=0)
    assert lengths(splits) == dict(test=2)
    assert splits.test.labels.tolist() == [4, 7] and splits.test.size == (224, 224)
    assert splits.test.mean == [0.485, 0.456, 0.406]
    with pytest.raises(DataError, match="ImageNet needs .*val/<WordNet id>"):
        load_data("ImageNet", str(tmp_path / "nowhere"))


def test_labels_of_imagenet_change_the_hash():
    ds = ImageSet(shapes(2).images, [0, 1], imagenet_ids()[3:5])
    before = ds.fingerprint()
    assert as_imagenet(ds).fingerprint() != before == ds.fingerprint()


def test_food101(tmp_path):
    (tmp_path / "food-101/meta").mkdir(parents=True)
    for part, n in dict(train=16, test=4).items():
        tree = {name: [f"{name}/{part}{k}" for k in range(n)] for name in ("waffles", "apple_pie")}
        (tmp_path / f"food-101/meta/{part}.json").write_text(json.dumps(tree))
        for path in sum(tree.values(), []):
            photo(tmp_path / f"food-101/images/{path}.jpg", 100, 100 + len(path))
    settings = dict(download=False, num_workers=0)
    splits = load_data("Food101", str(tmp_path), **settings)
    assert lengths(splits) == dict(train=28, validation=4, test=8)
    assert splits.test.classes == ["apple_pie", "waffles"] and isinstance(splits.test, FileSet)
    assert torchvision.datasets.Food101(tmp_path, "test").classes == splits.test.classes


def test_arrays_of_torchvision(monkeypatch):
    class Fake:
        data, labels = np.zeros((16, 3, 32, 32), np.uint8), np.arange(16) % 2

        def __init__(self, root, split, download):
            assert (root, split in ("train", "test"), download) == ("r", True, False)

    monkeypatch.setattr(torchvision.datasets, "SVHN", Fake)
    splits = load_data("SVHN", "r", download=False)
    assert lengths(splits) == dict(train=14, validation=2, test=16)
    assert splits.train.classes == list("0123456789") and splits.train.name == "SVHN"
    with pytest.raises(DataError, match="place torchvision's files there by hand"):
        load_data("CIFAR10", "/nonexistent", download=False)


@pytest.mark.parametrize("limit", [0, -5, dict(tset=3), dict(train=-1)])
def test_an_impossible_limit_is_refused(limit):
    with pytest.raises(DataError, match=r"limit\.(train|tset): "):
        load_data("Shapes", limit=limit, n_train=20, n_validation=10, n_test=10)
