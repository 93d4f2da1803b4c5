"A store of maps survives being killed, notices damage, and touches nothing but its own files."

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from repo import ROOT
from roar_nb.attribution import attribute, make_attribution, predicted_labels
from roar_nb.claims import owner_of
from roar_nb.core import AttributionError, ConfigError, RoarError, StoreError
from roar_nb.models import ResNet8, model_identity
from roar_nb.shapes import shapes
from roar_nb.store import MapsOf, chunk_images, dump, open_maps, store_facts, store_spec

MODEL, DS = ResNet8(width=4).eval(), shapes(40)
BATCH = dict(batch_size=8)


def plain(model, images, labels, index):
    "A map that differs from image to image"
    return images.abs().sum(1) + index.view(-1, 1, 1)


def large(model, images, labels, index):
    "The same, with the channels: a chunk holds fewer of them"
    return images.abs() + index.view(-1, 1, 1, 1)


PLAIN = make_attribution(plain, batched=True)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    "Chunks of 16 maps, so that small stores have several"
    monkeypatch.setattr("roar_nb.store.chunk_images", lambda shape, batch_size: 16)


def files(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


# A12: what a store depends on


def test_a_hook_or_another_forward_is_another_model(tmp_path):
    model = ResNet8(width=4).eval()
    dump(PLAIN, model, DS, tmp_path / "a.zarr")
    handle = model.layer2.register_forward_hook(lambda m, i, o: -o)
    with pytest.raises(StoreError, match=r"model\.logits"):
        dump(PLAIN, model, DS, tmp_path / "a.zarr")
    handle.remove()
    dump(PLAIN, model, DS, tmp_path / "a.zarr")
    forward = model.forward
    model.forward = lambda x: forward(x.flip(3)) * 2
    with pytest.raises(StoreError, match=r"model\.logits"):
        dump(PLAIN, model, DS, tmp_path / "a.zarr")


def test_a_new_revision_of_a_method_is_another_one(tmp_path):
    newer = replace(PLAIN, method=replace(PLAIN.method, revision=2))
    dump(PLAIN, MODEL, DS, tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="revision: 1 → 2"):
        dump(newer, MODEL, DS, tmp_path / "a.zarr")


def test_what_differs_is_said(tmp_path):
    ig = make_attribution("integrated_gradients", dict(n_steps=2))
    more = make_attribution("integrated_gradients", dict(n_steps=3))
    dump(ig, MODEL, DS, tmp_path / "a.zarr")
    for other, ds, message in (
        (more, DS, r"attribution\.kwargs\.n_steps: 2 → 3"),
        (replace(ig, seed=1), DS, r"attribution\.seed: 0 → 1"),
        (replace(ig, target="label"), DS, r"attribution\.target: predicted → label"),
        (ig, shapes(40, seed=1), "dataset: "),
    ):
        with pytest.raises(StoreError, match=message):
            dump(other, MODEL, ds, tmp_path / "a.zarr")
    replaced = dump(more, MODEL, DS, tmp_path / "a.zarr", overwrite=True)
    assert replaced.attrs["spec"] == store_facts(tmp_path / "a.zarr")["spec"]
    assert replaced.attrs["spec"]["attribution"]["kwargs"]["n_steps"] == 3


def test_a_known_identity_is_used(tmp_path):
    identity = model_identity(MODEL, DS.size)
    dump(PLAIN, MODEL, DS, tmp_path / "a.zarr", identity=identity)
    spec = store_spec(PLAIN, identity, DS)
    assert store_facts(tmp_path / "a.zarr")["spec"] == spec == json.loads(json.dumps(spec))
    dump(PLAIN, MODEL, DS, tmp_path / "a.zarr")


# What is explained


def test_the_store_holds_what_attribute_gives(tmp_path):
    a = make_attribution("gradient")
    (batch,) = DS.batches(40)
    maps = dump(a, MODEL, DS, tmp_path / "a.zarr", **BATCH)
    direct = attribute(MODEL, batch.images, method="gradient", batch_size=8)
    np.testing.assert_allclose(maps[:], direct, rtol=1e-5, atol=1e-8)
    on_the_way = MapsOf(a, MODEL, DS, batch_size=40)(batch)
    np.testing.assert_allclose(maps[:], on_the_way, rtol=1e-5, atol=1e-8)


def echo(model, images, labels):
    "The class that is explained, everywhere"
    return labels.view(-1, 1, 1).float().expand(-1, *images.shape[2:]) + 1


def test_the_classes_that_are_explained(tmp_path):
    predicted = make_attribution(echo, batched=True)
    label = make_attribution(echo, batched=True, target="label")
    seen = lambda maps: torch.as_tensor(maps[:, 0, 0]) - 1
    classes = predicted_labels(MODEL, DS)
    assert torch.equal(seen(dump(predicted, MODEL, DS, tmp_path / "p.zarr")), classes.float())
    assert torch.equal(seen(dump(label, MODEL, DS, tmp_path / "l.zarr")), DS.labels.float())
    given_labels = dump(predicted, MODEL, DS, tmp_path / "g.zarr", (classes + 1) % 10)
    assert torch.equal(seen(given_labels), ((classes + 1) % 10).float())


def test_maps_of_other_classes_are_not_handed_out(tmp_path):
    a, path, ones = make_attribution(echo, batched=True), tmp_path / "a.zarr", torch.ones(40)
    first = dump(a, MODEL, DS, path, ones.long())[:]
    np.testing.assert_array_equal(dump(a, MODEL, DS, path, ones.int().tolist())[:], first)
    with pytest.raises(StoreError, match="labels: "):
        dump(a, MODEL, DS, path, 0 * ones.long())
    assert (dump(a, MODEL, DS, path, 0 * ones.long(), overwrite=True)[:] == 1).all()


def test_the_rest_of_a_store_explains_the_same_classes(tmp_path):
    def fails_at_37(model, images, labels, index):
        return images[:, 0] / (0 if 37 in index else 1)

    fragile, labels = make_attribution(fails_at_37, batched=True), torch.full((40,), 3)
    with pytest.raises(AttributionError, match="sample 3"):
        dump(fragile, MODEL, DS, tmp_path / "a.zarr", labels, **BATCH)
    with pytest.raises(StoreError, match="32 maps that are there explain other classes"):
        dump(fragile, MODEL, DS, tmp_path / "a.zarr", **BATCH)


def test_ground_truth_that_was_put_right_makes_other_maps(tmp_path):
    oracle, path = make_attribution("oracle"), tmp_path / "a.zarr"
    dump(oracle, MODEL, DS, path)
    with pytest.raises(StoreError, match="relevance"):
        dump(oracle, MODEL, DS.changed(relevance=~DS.relevance), path)


class Constant:
    "A method with a setting"

    def __init__(self, value):
        self.value = value

    def __call__(self, model, image, label):
        return torch.full_like(image[0, 0], self.value)


def test_a_method_with_other_settings_makes_other_maps(tmp_path):
    dump(make_attribution(Constant(1)), MODEL, DS, tmp_path / "a.zarr")
    dump(make_attribution(Constant(1)), MODEL, DS, tmp_path / "a.zarr")
    with pytest.raises(StoreError, match="source"):
        dump(make_attribution(Constant(2)), MODEL, DS, tmp_path / "a.zarr")


def test_a_traced_model_has_an_identity(tmp_path):
    traced = torch.jit.trace(MODEL, torch.zeros(2, 3, 32, 32))
    logits = model_identity(MODEL, DS.size)["logits"]
    assert model_identity(traced, DS.size)["logits"] == pytest.approx(logits, abs=0.01)


def test_given_classes_are_not_predicted_again(tmp_path):
    model, runs = ResNet8(width=4).eval(), []
    identity = model_identity(model, DS.size)
    model.register_forward_hook(lambda *_: runs.append(1))
    dump(PLAIN, model, DS, tmp_path / "a.zarr", DS.labels, identity=identity)
    assert not runs


def test_wrong_classes_and_batches_are_refused(tmp_path):
    label = make_attribution(plain, batched=True, target="label")
    for a, labels, message in (
        (PLAIN, [1, 2], "expected 40 classes"),
        (PLAIN, [1.5] * 40, "expected class numbers from 0"),
        (label, (DS.labels + 1) % 10, "must be the labels of the dataset"),
    ):
        with pytest.raises(RoarError, match=message):
            dump(a, MODEL, DS, tmp_path / "a.zarr", labels)
    with pytest.raises(ConfigError, match="batch_size: 0 is impossible"):
        dump(PLAIN, MODEL, DS, tmp_path / "b.zarr", batch_size=0)


def test_float16_keeps_the_order(tmp_path):
    half = replace(PLAIN, dtype="float16")
    a, b = (dump(o, MODEL, DS, tmp_path / o.dtype) for o in (PLAIN, half))
    assert b.dtype == np.float16
    scale = np.abs(a[:]).max((1, 2), keepdims=True)
    np.testing.assert_allclose(b[:], a[:] / scale, atol=1e-3)


def test_a_map_that_cannot_be_used_stops_the_method(tmp_path):
    def nan_at_37(model, images, labels, index):
        return torch.where(index.view(-1, 1, 1) == 37, float("nan"), images[:, 0])

    with pytest.raises(AttributionError, match="the map of sample 37 holds NaN"):
        dump(make_attribution(nan_at_37, batched=True), MODEL, DS, tmp_path / "a.zarr", **BATCH)
    with pytest.raises(StoreError, match="32 of 40 maps are there"):
        open_maps(tmp_path / "a.zarr")


# A13: maps that say nothing


def timid(model, images, labels, index):
    maps = images.sum(1)
    maps[index % 10 == 0] = 0
    maps[index == 7] = 3
    return maps


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_empty_maps_are_counted_and_said_once(tmp_path, capsys, dtype):
    a = make_attribution(timid, batched=True, dtype=dtype)
    for _ in range(2):
        dump(a, MODEL, DS, tmp_path / "a.zarr", desc="timid, test", **BATCH)
    out = capsys.readouterr().out
    assert out.count("timid, test: 4 of 40 maps are all zero") == 1
    assert out.count("timid, test: 1 of 40 maps is constant") == 1
    facts = store_facts(tmp_path / "a.zarr")
    assert (facts["zero_maps"], facts["constant_maps"]) == (4, 1)


def test_ordinary_maps_are_not_mentioned(tmp_path, capsys):
    dump(PLAIN, MODEL, DS, tmp_path / "a.zarr")
    assert capsys.readouterr().out == ""


# Facts that a method tells


def test_what_a_method_tells_is_kept(tmp_path):
    tell = lambda model, images, kwargs: dict(layer="layer3", images=len(images))
    a = replace(PLAIN, method=replace(PLAIN.method, describe=tell))
    dump(a, MODEL, DS, tmp_path / "a.zarr", **BATCH)
    facts = store_facts(tmp_path / "a.zarr")
    assert facts["layer"] == "layer3" and facts["images"] == 8
    assert facts["versions"]["torch"]


@pytest.mark.parametrize("base", [False, True])
def test_the_layer_that_gradcam_chose_is_kept(tmp_path, base):
    "A10: it is chosen by the model, so the specification cannot say which"
    a = make_attribution("gradcam")
    if base:
        a = make_attribution("smoothgrad", dict(base="gradcam", n_samples=1))
    dump(a, MODEL, DS, tmp_path / "a.zarr")
    assert MODEL.get_submodule(store_facts(tmp_path / "a.zarr")["layer"])


# A15: nothing is removed that is not ours


def foreign(folder, kind):
    folder.mkdir()
    (folder / "c").mkdir()
    (folder / "c/notes.txt").write_text("mine")
    (folder / "thesis.txt").write_text("mine")
    if kind == "progress":
        (folder / "progress.json").write_text('{"done": 3}')
    if kind == "zarr":
        (folder / "zarr.json").write_text(
            '{"zarr_format": 3, "node_type": "group", "attributes": {}}'
        )
    if kind == "list":
        (folder / "progress.json").write_text("[1, 2]")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("kind", ["plain", "progress", "zarr", "list"])
def test_a_folder_with_anything_else_is_left_alone(tmp_path, kind, overwrite):
    folder = tmp_path / "results"
    foreign(folder, kind)
    before = files(folder)
    with pytest.raises(StoreError, match=r"results is a folder with other files \(c, "):
        dump(PLAIN, MODEL, DS, folder, overwrite=overwrite)
    assert files(folder) == before


def test_a_file_is_left_alone(tmp_path):
    (tmp_path / "a.zarr").write_text("mine")
    with pytest.raises(StoreError, match="is a file"):
        dump(PLAIN, MODEL, DS, tmp_path / "a.zarr", overwrite=True)
    assert (tmp_path / "a.zarr").read_text() == "mine"


def test_of_a_store_only_its_own_files_are_removed(tmp_path):
    dump(PLAIN, MODEL, DS, tmp_path / "a.zarr")
    (tmp_path / "a.zarr/notes.txt").write_text("mine")
    other = replace(PLAIN, seed=1)
    dump(other, MODEL, DS, tmp_path / "a.zarr", overwrite=True)
    assert (tmp_path / "a.zarr/notes.txt").read_text() == "mine"


def test_an_empty_folder_will_do(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    assert dump(PLAIN, MODEL, DS, tmp_path / "a.zarr").shape == (40, 32, 32)


def test_a_store_without_its_progress_file_is_made_again(tmp_path):
    dump(PLAIN, MODEL, DS, tmp_path / "a.zarr")
    (tmp_path / "a.zarr/progress.json").unlink()
    with pytest.raises(StoreError, match="no attribution maps here"):
        open_maps(tmp_path / "a.zarr")
    assert np.isfinite(dump(PLAIN, MODEL, DS, tmp_path / "a.zarr")[:]).all()


# A16: damage


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    "A finished store, and its maps"
    folder = tmp_path_factory.mktemp("sound")
    with pytest.MonkeyPatch.context() as m:
        m.setattr("roar_nb.store.chunk_images", lambda shape, batch_size: 16)
        maps = dump(PLAIN, MODEL, DS, folder / "a.zarr")
    return folder / "a.zarr", maps[:]


@pytest.fixture
def store(sound, tmp_path):
    return shutil.copytree(sound[0], tmp_path / "copy.zarr")


def test_a_missing_chunk_is_named(store, sound):
    file = store / "c/1/0/0"
    file.unlink()
    for use in (open_maps, lambda path: dump(PLAIN, MODEL, DS, path)):
        with pytest.raises(StoreError, match=f"{file} is missing.*--overwrite"):
            use(store)
    np.testing.assert_array_equal(dump(PLAIN, MODEL, DS, store, overwrite=True)[:], sound[1])


READS = {
    "slice": lambda maps: maps[:],
    "one": lambda maps: maps[20],
    "oindex": lambda maps: maps.oindex[np.array([3, 20])],
    "list": lambda maps: maps[[3, 20]],
    "array": np.asarray,
}


@pytest.mark.parametrize("read", READS)
def test_a_damaged_chunk_is_named_however_it_is_read(store, read):
    file = store / "c/1/0/0"
    content = bytearray(file.read_bytes())
    content[100] ^= 4
    file.write_bytes(content)
    maps = open_maps(store)
    assert np.isfinite(maps[:16]).all() and np.isfinite(maps[32:]).all()
    with pytest.raises(StoreError, match=f"{file} is damaged.*--overwrite"):
        READS[read](maps)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_any_flipped_bit_or_cut_is_noticed(sound, data):
    with tempfile.TemporaryDirectory() as d:
        store = shutil.copytree(sound[0], Path(d, "copy.zarr"))
        file = store / "c/2/0/0"
        content = bytearray(file.read_bytes())
        at, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
        if data.draw(st.booleans()):
            content[at] ^= 1 << bit
        else:
            content = content[:at]
        file.write_bytes(content)
        with pytest.raises(StoreError, match="c/2/0/0 is damaged"):
            open_maps(store)[:]


def test_only_the_damaged_store_is_made_again(store, sound):
    seen, written = [], (sound[0] / "zarr.json").stat().st_mtime_ns
    hook = MODEL.register_forward_hook(lambda *_: seen.append(1))
    identity = store_facts(store)["spec"]["model"]
    dump(PLAIN, MODEL, DS, sound[0], overwrite=True, identity=identity)  # sound: left as it is
    hook.remove()
    assert not seen and (sound[0] / "zarr.json").stat().st_mtime_ns == written
    (store / "c/0/0/0").write_bytes(b"")
    np.testing.assert_array_equal(dump(PLAIN, MODEL, DS, store, overwrite=True)[:], sound[1])


def test_a_damaged_description_is_named(store, sound):
    (store / "zarr.json").write_text("{")
    with pytest.raises(StoreError, match="zarr.json is missing or damaged"):
        open_maps(store)
    np.testing.assert_array_equal(dump(PLAIN, MODEL, DS, store, overwrite=True)[:], sound[1])


def test_a_wrong_index_is_no_damage(store):
    with pytest.raises(IndexError):
        open_maps(store)[100]


# Interruption


class Stop(Exception):
    "Raised by a method at an image"


LIMIT, SEEN = [1000], []


def fragile(model, images, labels, index):
    if (index >= LIMIT[0]).any():
        raise Stop
    SEEN.extend(index.tolist())
    return images.abs().sum(1) + index.view(-1, 1, 1)


FRAGILE = make_attribution(fragile, batched=True)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(stops=st.lists(st.integers(0, 41), max_size=3), batch=st.sampled_from([4, 8, 16, 32]))
def test_interrupted_anywhere_the_maps_are_those_of_an_undisturbed_dump(sound, stops, batch):
    with tempfile.TemporaryDirectory() as d:
        path = Path(d, "a.zarr")
        for LIMIT[0] in stops:
            try:
                dump(FRAGILE, MODEL, DS, path, batch_size=batch)
            except Stop:
                with pytest.raises(StoreError):
                    open_maps(path)
        LIMIT[0] = 1000
        done = json.loads((path / "progress.json").read_text())["done"] if path.exists() else 0
        SEEN.clear()
        maps = dump(FRAGILE, MODEL, DS, path, batch_size=batch)
        np.testing.assert_array_equal(maps[:], sound[1])
        assert SEEN == list(range(done, 40))  # nothing is computed twice


def test_chunks_beyond_the_count_are_not_trusted(tmp_path, sound):
    path = tmp_path / "a.zarr"
    LIMIT[0] = 20
    with pytest.raises(Stop):
        dump(FRAGILE, MODEL, DS, path, **BATCH)
    LIMIT[0] = 1000
    shutil.copy(sound[0] / "c/0/0/0", path / "c/1")  # in the way of a chunk folder
    (path / "c/1").unlink()
    (path / "c/1/0").mkdir(parents=True)
    (path / "c/1/0/0").write_bytes(b"half a chunk")
    np.testing.assert_array_equal(dump(FRAGILE, MODEL, DS, path, **BATCH)[:], sound[1])


def test_a_lost_chunk_of_an_unfinished_store_is_named(tmp_path):
    path = tmp_path / "a.zarr"
    LIMIT[0] = 36
    with pytest.raises(Stop):
        dump(FRAGILE, MODEL, DS, path, **BATCH)
    LIMIT[0] = 1000
    (path / "c/0/0/0").unlink()
    with pytest.raises(StoreError, match="c/0/0/0 is missing"):
        dump(FRAGILE, MODEL, DS, path, **BATCH)
    assert np.isfinite(dump(FRAGILE, MODEL, DS, path, overwrite=True, **BATCH)[:]).all()


def test_killed_before_the_first_map(tmp_path):
    path = tmp_path / "a.zarr"
    path.mkdir()
    (path / ".progress.json.x1y2.json").write_text("")
    assert dump(PLAIN, MODEL, DS, path).shape == (40, 32, 32)


# A16: one writer at a time

WRITER = """
import sys, time, torch
from pathlib import Path
from roar_nb.attribution import make_attribution
from roar_nb.models import ResNet8
from roar_nb.shapes import shapes
from roar_nb.store import dump
torch.manual_seed(0)
def slow(model, images, labels, index):
    if Path(sys.argv[2]).exists(): time.sleep(60)
    return images.sum(1) + index.view(-1, 1, 1)
dump(make_attribution(slow, batched=True), ResNet8(width=4).eval(), shapes(40), sys.argv[1], batch_size=8)
"""


def writer(tmp_path):
    script = tmp_path / "writer.py"
    script.write_text(WRITER)
    command = [sys.executable, script, tmp_path / "a.zarr", tmp_path / "wait"]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


def test_two_writers_and_a_kill(tmp_path):
    "The second waits for the first; when that is killed, it goes on at once"
    (tmp_path / "wait").touch()
    first, claim, end = writer(tmp_path), tmp_path / "a.zarr.claim", time.monotonic() + 120
    while not owner_of(claim) and time.monotonic() < end:
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.02)
    assert owner_of(claim)["process"] == first.pid
    second = writer(tmp_path)
    time.sleep(8)
    assert second.poll() is None and owner_of(claim)["process"] == first.pid
    (tmp_path / "wait").unlink()  # the second need not sleep as the first does
    first.send_signal(signal.SIGKILL)
    first.communicate()
    _, err = second.communicate(timeout=120)
    assert second.returncode == 0, err
    assert np.isfinite(open_maps(tmp_path / "a.zarr")[:]).all() and not claim.exists()


# Chunks


@settings(deadline=None)
@given(st.tuples(st.integers(1, 400), st.integers(1, 400)), st.integers(1, 300))
def test_chunks_and_batches_fit(shape, batch):
    n, values = chunk_images(shape, batch), shape[0] * shape[1]
    assert n % batch == 0 or batch % n == 0
    assert n == 1 or n * values <= 2**18


def test_maps_with_channels(tmp_path):
    a = make_attribution(large, batched=True, reduction="none")
    assert dump(a, MODEL, DS, tmp_path / "a.zarr", **BATCH).shape == (40, 3, 32, 32)


def test_other_maps_are_safe_even_without_their_progress_file(tmp_path):
    maps, path = dump(PLAIN, MODEL, DS, tmp_path / "a.zarr")[:], tmp_path / "a.zarr"
    progress = (path / "progress.json").read_text()
    (path / "progress.json").unlink()
    with pytest.raises(StoreError, match="holds other maps"):
        dump(replace(PLAIN, seed=1), MODEL, DS, path)
    (path / "progress.json").write_text(progress)
    np.testing.assert_array_equal(open_maps(path)[:], maps)
