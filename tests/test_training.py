"Training and testing classifiers: exact accuracies, one way in bfloat16, recipes that are checked."

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from roar_nb.core import ConfigError, DataError, RoarError, has_bf16
from roar_nb.images import ImageSet, ResidentSet
from roar_nb.models import ResNet8, build_model, in_precision, model_checksum
from roar_nb.shapes import shapes
from roar_nb.training import Recipe, check_recipe, evaluate_classifier, fit, from_spec, log_to


class Fixed(nn.Module):
    "Answers with the logits that stand in the images"

    def forward(self, x):
        return x.flatten(1)


def resident(logits, labels):
    return ResidentSet(torch.as_tensor(logits).view(len(labels), -1, 1, 1).float(), labels)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 3000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_accuracy_is_the_exact_fraction(counts):
    "A8: 0.2 of five images is 0.2, not 0.20000000298"
    right, n = counts
    labels = torch.arange(n) >= right  # the first class is always answered
    e = evaluate_classifier(Fixed(), resident([[1.0, 0.0]] * n, labels), batch_size=1000)
    assert e.accuracy == right / n
    assert e.correct.tolist() == [not o for o in labels.tolist()]


def close_call():
    "Logits 10.00 and 10.02, which are the same number in bfloat16"
    model = nn.Sequential(nn.Flatten(), nn.Linear(3, 2, bias=False)).requires_grad_(False)
    model[1].weight.copy_(torch.tensor([[10.0, 0, 0], [10.02, 0, 0]]))
    ones = torch.zeros(4, 3, 1, 1)
    ones[:, 0] = 1
    return model, ones


def test_bfloat16_accuracy_is_computed_one_way():
    "A7: the head is exact, as where the same model's answers to altered images are watched"
    model, x = close_call()
    e = evaluate_classifier(model, ResidentSet(x, [1] * 4), dtype=torch.bfloat16)
    with in_precision(model, "cpu", torch.bfloat16):
        watched = model(x).argmax(1)
    assert torch.equal(e.correct, watched == 1)
    assert e.accuracy == 1.0


def test_validation_in_bfloat16_is_that_too():
    model, x = close_call()
    still = Recipe(1, 4, dict(name="SGD", lr=0.0), None, augment=dict(crop_padding=0, flip=False))
    ds = ImageSet((x * 255).byte(), [1] * 4, ["a", "b"], [0.0] * 3, [1.0] * 3)
    model[1].weight.requires_grad_()
    assert fit(model, ds, ds, still, precision="bf16").history[0]["val_accuracy"] == 1.0


def test_every_module_keeps_its_mode():
    model = ResNet8(width=4)
    model.layer1.eval()
    evaluate_classifier(model, shapes(20))
    assert model.training and not model.layer1.training and model.layer2.training


def test_an_empty_set_is_refused():
    with pytest.raises(DataError, match="no images"):
        evaluate_classifier(Fixed(), ResidentSet(torch.zeros(0, 2, 1, 1), []))


# Recipes


def test_every_field_of_a_recipe_says_what_it_is():
    for f in dataclasses.fields(Recipe):
        assert f.metadata["about"] and f.metadata["about"] in Recipe.__doc__
        assert set(f.metadata) <= {"about", "ge", "gt"}
    assert "precision" not in [f.name for f in dataclasses.fields(Recipe)]


def test_recipes_share_nothing():
    Recipe().optimizer["lr"] = 7
    assert Recipe().optimizer["lr"] == 0.001


@pytest.mark.parametrize(
    "message, wrong",
    [
        ("optimizer.name: .* did you mean 'AdamW'", dict(optimizer=dict(name="AdamWW"))),
        ("optimizer.lr_: Adam has no such argument", dict(optimizer=dict(name="Adam", lr_=1))),
        ("optimizer: Adam: Invalid learning rate", dict(optimizer=dict(name="Adam", lr=-1.0))),
        ("scheduler.name", dict(scheduler=dict(name="StepsLR"))),
        ("scheduler.interval: ReduceLROnPlateau steps after", dict(scheduler=dict(name="ReduceLROnPlateau", interval="batch"))),
        ("loss.name", dict(loss=dict(name="CrossEntropy"))),
        ("batch_size: 0 is impossible", dict(batch_size=0)),
        ("nb_epochs: -1 is impossible", dict(nb_epochs=-1)),
    ],
)  # fmt: skip
def test_check_recipe_refuses(message, wrong):
    with pytest.raises(ConfigError, match=f"retrain_cls.{message}"):
        check_recipe(Recipe(**wrong), "retrain_cls")


def test_a_batch_of_none_is_refused_by_fit_too():
    with pytest.raises(ConfigError, match="batch_size: 0 is impossible"):
        fit(ResNet8(width=4), shapes(20), None, Recipe(batch_size=0))


def test_from_spec():
    weights = [nn.Parameter(torch.zeros(1))]
    sgd = from_spec(dict(name="SGD", lr=0.1, momentum=0.9), torch.optim, "optimizer", weights)
    assert sgd.defaults["momentum"] == 0.9
    spec, module = dict(name="OneCycleLR", max_lr=0.1), torch.optim.lr_scheduler
    assert from_spec(spec, module, "scheduler", sgd, total_steps=20).total_steps == 20
    spec |= dict(epochs=3, steps_per_epoch=5)
    assert from_spec(spec, module, "scheduler", sgd, total_steps=20).total_steps == 15
    loss = from_spec(dict(name="torch.nn.CrossEntropyLoss", label_smoothing=0.1), nn, "loss")
    assert loss.label_smoothing == 0.1


# Fitting


def quick(**kwargs):
    return Recipe(nb_epochs=2, batch_size=64, **kwargs)


@pytest.mark.parametrize("name", ["ReduceLROnPlateau", "CosineAnnealingLR", "StepLR", None])
def test_schedulers(name):
    given_spec = name and dict(name=name, **(dict(step_size=1) if name == "StepLR" else {}))
    fitted = fit(ResNet8(width=4), shapes(100), shapes(50, seed=1), quick(scheduler=given_spec))
    assert len(fitted.history) == 2
    if name == "StepLR":
        assert math.isclose(fitted.history[1]["lr"], 1e-4)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_seed_gives_one_result(precision):
    def checksum(seed):
        model = build_model("roar_nb.models.ResNet8", dict(width=4), 10)
        fit(model, shapes(100), shapes(50, seed=1), quick(), seed=seed, precision=precision)
        return model_checksum(model)

    assert checksum(0) == checksum(0) != checksum(1)


def test_auto_is_what_the_hardware_has():
    model = build_model("roar_nb.models.ResNet8", dict(width=4), 10)
    same = build_model("roar_nb.models.ResNet8", dict(width=4), 10)
    fit(model, shapes(100), None, quick())
    fit(same, shapes(100), None, quick(), precision="bf16" if has_bf16("cpu") else "fp32")
    assert model_checksum(model) == model_checksum(same)


def test_the_best_epoch_is_kept():
    model, validation = ResNet8(width=4), shapes(100, seed=1)
    fitted = fit(model, shapes(200), validation, Recipe(nb_epochs=4, batch_size=64))
    best = max(fitted.history, key=lambda row: (row["val_accuracy"], -row["val_loss"]))
    assert fitted.best_epoch == best["epoch"]
    assert evaluate_classifier(model, validation).accuracy == best["val_accuracy"]


def test_no_epochs_leave_the_model_as_it_is():
    model = ResNet8(width=4)
    before = model_checksum(model)
    assert fit(model, shapes(20), None, Recipe(nb_epochs=0)).best_epoch == 0
    assert model_checksum(model) == before


def test_divergence_is_an_error():
    wild = quick(optimizer=dict(name="SGD", lr=1e30))
    with pytest.raises(RoarError, match="cell 7: the loss is nan in epoch 1"):
        fit(ResNet8(width=4), shapes(300), None, wild, desc="cell 7")


def test_options_are_keywords():
    with pytest.raises(TypeError):
        fit(ResNet8(width=4), shapes(20), None, quick(), 3)


def test_log(tmp_path):
    fit(ResNet8(width=4), shapes(50), None, quick(), on_epoch=log_to(tmp_path))
    lines = (tmp_path / "log.csv").read_text().splitlines()
    assert lines[0] == "epoch,loss,val_accuracy,val_loss,lr,seconds" and len(lines) == 3


@pytest.mark.parametrize(
    "wrong, key",
    [
        (dict(optimizer=dict(lr=0.1)), r"optimizer\.name"),
        (dict(scheduler=dict(name="StepLR", step_size=1, interval="step")), r"scheduler\.interval"),
        (dict(augment=dict(crop_pad=4)), r"augment\.crop_pad"),
        (dict(nb_epochs=1.5), "nb_epochs"),
    ],
)
def test_a_wrong_recipe_is_found_before_any_work(wrong, key):
    with pytest.raises(ConfigError, match=key):
        check_recipe(Recipe(**wrong), "train_cls")
