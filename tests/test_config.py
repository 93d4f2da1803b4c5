"Configurations: what is wrong is named with its place, what is right is resolved, nothing is run."

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from roar_nb.config import config_to_yaml, load_config
from roar_nb.schema import TRAINED, Config, methods_of, config_reference
from roar_nb.core import ConfigError
from roar_nb.original import canonical_name
from roar_nb.yamlfile import parse_yaml

BASE = """
data: {dataset: CIFAR10}
train_cls:
  model: {arch: roar_nb.models.ResNet8, constructor_args: {width: 16}}
extract_cams:
  attribution_methods:
    - {name: gradcam, method: gradcam, kwargs: {layer: layer3.0.relu}}
    - {name: random, method: random}
retrain_cls: {}
"""
OLDER = """
desc: ~
outdir: &OUT ./runs/older
device: ~
data: &DATA {dataset: CIFAR10, dataset_dir: data, split_ratio: 0.875, mean: ~, std: ~}
train_cls:
  model: &MODEL
    arch: src.models.cifar10_resnet.ResNet8
    pretrained_weights: ~
    transformer: ~
  optimizer: &OPTIMIZER {name: Adam, lr: 1e-3, weight_decay: 1e-4}
  scheduler: &SCHEDULER {name: StepLR, step_size: 10, gamma: 0.5}
  loss: &LOSS {name: CrossEntropyLoss}
  batch_size: &BATCH 256
  nb_epochs: 50
extract_cams:
  model:
    <<: *MODEL
    pretrained_weights: !!python/object/apply:os.path.join [*OUT, train_cls, 'best_model.pth']
  attribution_methods: &METHODS
    - name: gradcam
      method: src.attribution_loader.compute_gradcam
      kwargs: {saliency_layer: layer3.0.relu}
    - name: intgrad
      method: src.attribution_loader.compute_intgrad
retrain_cls:
  model: *MODEL
  attribution_methods: *METHODS
  metrics: kar
  optimizer: *OPTIMIZER
  scheduler: *SCHEDULER
  loss: *LOSS
  batch_size: *BATCH
  percentiles: [90, 10, 50]
pixel_perturbation_analysis: {model: *MODEL, attribution_methods: *METHODS, percentiles: [1, 2], test_samples: 10}
"""


def load(text=BASE, *overrides, **forced):
    "The configuration that `text` describes, some keys changed"
    return load_config(parse_yaml(text), overrides, **forced)


def complaint(*args, **forced):
    "The message of the error that loading ends with"
    with pytest.raises(ConfigError) as e:
        load(*args, **forced)
    return str(e.value)


# --- what is wrong

BAD = [  # an override, the path in the message, what else the message says
    ("trian_cls={}", "trian_cls", "did you mean 'train_cls'?"),
    ("train_cls.optimiser={name: Adam}", "train_cls.optimiser", "did you mean 'optimizer'?"),
    ("train_cls.model.archh=x", "train_cls.model.archh", "did you mean 'arch'?"),
    ("data.dataset=CIFAR11", "data.dataset", "did you mean 'CIFAR100?'?"),
    ("data.dataset=cifar10", "data.dataset", "did you mean 'CIFAR10'?"),
    ("data.split_ratio=1.5", "data.split_ratio", "found 1.5.*less than 1"),
    ("data.split_ratio=.nan", "data.split_ratio", "finite"),
    ("data.mean=[0.5, 0.5]", "data.mean", "three channel means"),
    ("data.std=[0.5, 0.5, 0]", "data.std.2", "greater than 0"),
    ("data.cue=texture", "data.cue", "CIFAR10 has no such setting"),
    ("data.dataset=ImageFolder", "data.dataset_dir", "name its folder"),
    ("data.num_workers=-1", "data.num_workers", "greater than or equal to 0"),
    ("seed=-1", "seed", "found -1"),
    ("seed=true", "seed", "integer"),
    ("device=gpu", "device", "auto, cpu, cuda, cuda:N or mps"),
    ("precision=bf61", "precision", "did you mean 'bf16'?"),
    ("limit=0", "limit", "> 0"),
    ("limit.tets=3", "limit.tets", "did you mean 'test'?"),
    ("train_cls.batch_size='64'", "train_cls.batch_size", "integer"),
    ("train_cls.nb_epochs=2.5", "train_cls.nb_epochs", "found 2.5"),
    ("train_cls.optimizer=Adam", "train_cls.optimizer", "found 'Adam'.*dictionary"),
    ("train_cls.scheduler.interval=epohc", "train_cls.scheduler", "did you mean 'epoch'?"),
    ("train_cls.augment.flipp=true", "train_cls.augment", "did you mean 'flip'?"),
    ("train_cls.model.arch=src.models.ResNet9", "train_cls.model.arch", "did you mean 'ResNet"),
    ("extract_cams.attribution_methods=[]", "extract_cams.attribution_methods", "at least 1"),
    (
        "extract_cams.attribution_methods.1.name=../x",
        "extract_cams.attribution_methods.1.name",
        "letters",
    ),
    (
        "extract_cams.attribution_methods.1.name=none",
        "extract_cams.attribution_methods.1.name",
        "nothing removed",
    ),
    (
        "extract_cams.attribution_methods.1.name=gradcam",
        "extract_cams.attribution_methods",
        "listed twice",
    ),
    (
        "extract_cams.attribution_methods.1.reduction=abssum",
        "extract_cams.attribution_methods.1.reduction",
        "'abs_sum'?",
    ),
    (
        "extract_cams.attribution_methods.0.kwargs.saliency_layer=x",
        "extract_cams.attribution_methods.0.kwargs",
        "give one",
    ),
    (
        "extract_cams.attribution_methods.1.method=src.a.compute_randm",
        "extract_cams.attribution_methods.1.method",
        "'compute_random'?",
    ),
    ("extract_cams.target=lable", "extract_cams.target", "did you mean 'label'?"),
    (
        "retrain_cls.attribution_methods=[grad_cam]",
        "retrain_cls.attribution_methods.0",
        "did you mean 'gradcam'?",
    ),
    (
        "retrain_cls.attribution_methods=[{name: random, method: gradient}]",
        "retrain_cls.attribution_methods.0",
        "differs",
    ),
    ("retrain_cls.metrics=raor", "retrain_cls.metrics.0", "did you mean 'roar'?"),
    ("retrain_cls.percentiles=[10, 101]", "retrain_cls.percentiles.1", "less than or equal to 100"),
    ("retrain_cls.percentiles=[10, 10.0]", "retrain_cls.percentiles", "listed twice"),
    ("retrain_cls.percentiles=10", "retrain_cls.percentiles", "list"),
    ("retrain_cls.seeds=0", "retrain_cls.seeds", "number of repetitions"),
    ("retrain_cls.seeds=1000000000000", "retrain_cls.seeds", "1 to 1000"),
    ("retrain_cls.seeds=[1, 1]", "retrain_cls.seeds", "listed twice"),
    (
        "retrain_cls.imputation=[[0, 0, 2]]",
        "retrain_cls.imputation.0",
        r"found \[0, 0, 2\].*three numbers",
    ),
    (
        "retrain_cls.imputation=[zero, {a: b}]",
        "retrain_cls.imputation.1",
        "a name or three numbers",
    ),
    (
        "retrain_cls.imputation=[0, 0, 255]",
        "retrain_cls.imputation.0",
        r"found \[0, 0, 255\].*three numbers",
    ),
    ("retrain_cls.imputation=[0.5]", "retrain_cls.imputation.0", r"found \[0.5\].*three numbers"),
    ("retrain_cls.imputation=[true, false, true]", "retrain_cls.imputation.0", "three numbers"),
    ("retrain_cls.imputation=0", "retrain_cls.imputation", "found 0.*list"),
    ("retrain_cls.imputation=[zero, zero]", "retrain_cls.imputation", "listed twice"),
    ("retrain_cls=5", "retrain_cls", "found 5"),
]


@pytest.mark.parametrize("override, path, words", BAD, ids=[b[0] for b in BAD])
def test_a_mistake_is_named_with_its_place(override, path, words):
    top, *lines = complaint(BASE, override).splitlines()
    assert top.startswith("config: ")
    found = [line for line in lines if line.strip().startswith(path + ":")]
    assert found and re.search(words.replace("'?", r"'\?"), found[0]), lines


@pytest.mark.parametrize(
    "override, words",
    [
        ("seed", "key.path=value"),
        ("=3", "key.path=value"),
        ("a..b=3", "key.path=value"),
        ("seed.x=3", "1 has no keys"),
        ("extract_cams.attribution_methods.2.name=x", "allowed: 0 to 1"),
        ("extract_cams.attribution_methods.first.name=x", "'first' is not an element"),
        ("extract_cams.attribution_methods.-1.name=x", "'-1' is not an element"),
        ("seed=!!python/object/apply:os.getpid []", "os.getpid"),
        ("seed=[1", "1:3"),
    ],
)
def test_an_override_that_cannot_be(override, words):
    message = complaint("seed: 1\n" + BASE, override)
    assert override in message and words in message


def test_all_mistakes_come_at_once_and_only_once():
    text = BASE.replace(
        "width: 16}}", "width: 16}, nme: x}\n  nb_epochs: -1\n  optimizer: {name: 3}"
    )
    top, *lines = complaint(
        text, "seed=x", "retrain_cls.attribution_methods=[gradient]"
    ).splitlines()
    assert [line.split(":")[0].strip() for line in lines] == [
        "seed",
        "train_cls.model.nme",
        "train_cls.nb_epochs",
        "train_cls.optimizer",
        "retrain_cls.attribution_methods.0",
    ]


def test_the_first_line_names_the_file(tmp_path):
    path = tmp_path / "mine.yml"
    path.write_text("sed: 1\n")
    with pytest.raises(ConfigError, match="^" + re.escape(str(path))) as e:
        load_config(path)
    assert "sed: unknown key; did you mean 'seed'?" in str(e.value)


@pytest.mark.parametrize("missing", ["cifar10_smal", "cifar10_smal.yml", "no/such/file.yml", "."])
def test_a_file_that_is_not_there(missing):
    with pytest.raises(ConfigError, match="no such file") as e:
        load_config(missing)
    assert "cifar10_small" in str(e.value)


def test_a_file_that_is_not_text(tmp_path):
    path = tmp_path / "x.yml"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not readable"):
        load_config(path)


@pytest.mark.parametrize(
    "text, path",
    [
        (
            "extract_cams: {attribution_methods: [{name: a, method: random}]}",
            "extract_cams.model: missing",
        ),
        ("train_cls: {}", "train_cls.model: missing"),
        ("train_cls: {model: {}}", "train_cls.model.arch: missing"),
        (
            "train_cls: {model: {arch: a.b}}\nextract_cams: {}",
            "extract_cams.attribution_methods: missing",
        ),
        (
            "train_cls: {model: {arch: a.b}}\nretrain_cls: {}",
            "retrain_cls.attribution_methods: missing",
        ),
    ],
)
def test_what_is_missing(text, path):
    assert path in complaint(text)
    assert complaint(text).count("missing") == 1


# --- resolving


def test_the_older_format():
    cfg = load(OLDER)
    assert cfg.train_cls.model.arch == "roar_nb.models.ResNet8"
    assert cfg.extract_cams.model.pretrained_weights == TRAINED
    assert cfg.retrain_cls.model.pretrained_weights is None
    assert [m.method for m in cfg.extract_cams.attribution_methods] == [
        "gradcam",
        "integrated_gradients",
    ]
    assert cfg.extract_cams.attribution_methods[0].kwargs == {"layer": "layer3.0.relu"}
    assert cfg.retrain_cls.attribution_methods == ["gradcam", "intgrad"]
    assert cfg.retrain_cls.metrics == ["kar"] and cfg.retrain_cls.percentiles == [10, 50, 90]
    assert cfg.train_cls.optimizer == {"name": "Adam", "lr": 0.001, "weight_decay": 0.0001}
    assert (cfg.desc, cfg.device, cfg.outdir) == ("", "auto", "./runs/older")


def test_the_checkpoint_is_found_under_another_outdir_too():
    assert load(OLDER, outdir="/elsewhere").extract_cams.model.pretrained_weights == TRAINED
    assert load(OLDER, "outdir=/elsewhere").extract_cams.model.pretrained_weights == TRAINED
    other = "runs/other/train_cls/m.pth"
    assert (
        load(
            OLDER, f"extract_cams.model.pretrained_weights={other}"
        ).extract_cams.model.pretrained_weights
        == other
    )


def test_entries_in_retraining_alone_become_those_of_extraction():
    text = re.sub(r"extract_cams:.*?retrain_cls", "retrain_cls", OLDER, flags=re.S).replace(
        "attribution_methods: *METHODS",
        "attribution_methods: [{name: g, method: src.a.compute_gradient}]",
    )
    cfg = load(text)
    assert [m.method for m in cfg.extract_cams.attribution_methods] == ["gradient"]
    assert cfg.extract_cams.model.arch == cfg.train_cls.model.arch
    assert cfg.extract_cams.model.pretrained_weights == TRAINED
    assert cfg.retrain_cls.attribution_methods == ["g"]


def test_an_override_of_an_entry_reaches_retraining_through_its_name():
    cfg = load(
        OLDER,
        "extract_cams.attribution_methods.0.kwargs={layer: layer2}",
        "train_cls.optimizer.lr=0.5",
    )
    assert cfg.extract_cams.attribution_methods[0].kwargs == {"layer": "layer2"}
    assert cfg.retrain_cls.attribution_methods == ["gradcam", "intgrad"]
    assert cfg.retrain_cls.optimizer["lr"] == 0.001  # an alias, but not the key that was named


def test_defaults():
    cfg = load("{}")
    assert (
        cfg.data.dataset == "Shapes" and cfg.data.dataset_dir is None and cfg.data.cue == "texture"
    )
    assert cfg.train_cls is cfg.extract_cams is cfg.retrain_cls is None
    cfg = load()
    assert cfg.data.dataset_dir == "data"
    assert (cfg.train_cls.batch_size, cfg.train_cls.nb_epochs, cfg.train_cls.loss["name"]) == (
        256,
        50,
        "CrossEntropyLoss",
    )
    assert [m.name for m in methods_of(cfg, "retrain_cls")] == ["gradcam", "random"]
    assert cfg.retrain_cls.metrics == ["roar"] and cfg.retrain_cls.imputation == ["channel_mean"]
    assert cfg.retrain_cls.percentiles == [10, 30, 50, 70, 90] and cfg.retrain_cls.seeds == [0]


def test_retraining_takes_what_it_leaves_out_from_training():
    changes = [
        "train_cls.optimizer={name: SGD, lr: 0.1}",
        "train_cls.scheduler=~",
        "train_cls.nb_epochs=3",
        "train_cls.augment.flip=false",
        "train_cls.compile=true",
        "train_cls.model.pretrained_weights=a.pth",
    ]
    cfg = load(BASE, *changes)
    same = [k for k, v in cfg.train_cls if getattr(cfg.retrain_cls, k) == v]
    assert set(type(cfg.train_cls).model_fields) - set(same) == {"model"}
    assert cfg.retrain_cls.model.pretrained_weights is None
    assert cfg.extract_cams.model.pretrained_weights == TRAINED
    cfg = load(
        BASE,
        *changes,
        "retrain_cls.optimizer.lr=0.2",
        "retrain_cls.model.constructor_args.depth=2",
        "retrain_cls.augment.crop_padding=0",
        "retrain_cls.scheduler.gamma=0.9",
    )
    assert cfg.retrain_cls.optimizer == {"name": "SGD", "lr": 0.2}
    assert cfg.retrain_cls.model.constructor_args == {"width": 16, "depth": 2}
    assert cfg.retrain_cls.augment == {"crop_padding": 0, "flip": False}
    assert cfg.retrain_cls.scheduler == {"name": "StepLR", "step_size": 10, "gamma": 0.9}
    assert load(BASE, "retrain_cls.scheduler=~").retrain_cls.scheduler is None
    assert cfg.train_cls.optimizer == {
        "name": "SGD",
        "lr": 0.1,
    } and cfg.train_cls.model.constructor_args == {"width": 16}


@pytest.mark.parametrize(
    "override, key, value",
    [
        ("retrain_cls.seeds=3", "seeds", [7, 8, 9]),
        ("retrain_cls.seeds=~", "seeds", [7]),
        ("retrain_cls.seeds=[4, 2]", "seeds", [4, 2]),
        ("retrain_cls.metrics=[kar, roar]", "metrics", ["kar", "roar"]),
        ("retrain_cls.metrics=kar", "metrics", ["kar"]),
        ("retrain_cls.percentiles=[50, 0, 12.5]", "percentiles", [0, 12.5, 50]),
        ("retrain_cls.imputation=zero", "imputation", ["zero"]),
        ("retrain_cls.imputation=my.fill", "imputation", ["my.fill"]),
        ("retrain_cls.imputation=[0, 0.5, 1]", "imputation", [[0, 0.5, 1]]),
        ("retrain_cls.imputation=[zero, [0, 0, 0]]", "imputation", ["zero", [0, 0, 0]]),
    ],
)
def test_single_things_become_lists(override, key, value):
    assert getattr(load(BASE, override, seed=7).retrain_cls, key) == value


def test_limits():
    assert load("limit: 5").limit.model_dump() == {"train": 5, "validation": 5, "test": 5}
    assert load("limit: {test: 5}").limit.model_dump() == {
        "train": None,
        "validation": None,
        "test": 5,
    }
    assert load("limit: ~").limit.train is None


def test_forced_keys_go_over_the_rest():
    cfg = load("seed: 1\ndevice: cpu\n", "seed=2", seed=3, device=None, outdir="x")
    assert (cfg.seed, cfg.device, cfg.outdir) == (3, "cpu", "x")


def test_a_mapping_is_left_as_it_was():
    doc = parse_yaml(OLDER)
    load_config(doc, ["train_cls.optimizer.lr=3", "limit.train=1"])
    assert doc == parse_yaml(OLDER)


def test_older_layer_word_is_kept_for_own_methods():
    cfg = load(
        BASE,
        "extract_cams.attribution_methods.1={name: own, method: my.own, kwargs: {saliency_layer: x}}",
    )
    assert cfg.extract_cams.attribution_methods[1].kwargs == {"saliency_layer": "x"}


@pytest.mark.parametrize(
    "older, ours",
    [
        *[
            (f"src.models.{n}", f"roar_nb.models.{n}")
            for n in ("ResNet8", "ResNet8v2", "ResNet50", "append_linear_layer_transform")
        ],
        ("src.x.y.compute_gradcam", "gradcam"),
        ("src.compute_smoothgrad_sq", "smoothgrad_sq"),
        ("src.a.compute_integrated_gradient", "integrated_gradients"),
        ("torchvision.models.resnet50", "torchvision.models.resnet50"),
        ("gradcam", "gradcam"),
        ("srcs.compute_gradcam", "srcs.compute_gradcam"),
    ],
)
def test_names_of_the_older_format(older, ours):
    assert canonical_name(older) == ours


@pytest.mark.parametrize("name", ["src.models.VGG", "src.", "src.compute_", "src.a.gradcam"])
def test_unknown_names_of_the_older_format(name):
    with pytest.raises(ConfigError, match="allowed: .*ResNet8.*compute_gradcam"):
        canonical_name(name)


# --- packaged files and round trips

PACKAGED = ["shapes_demo", "cifar10_resnet8", "cifar10_small", "lerf_imagenet_resnet50"]


@pytest.mark.parametrize("name", PACKAGED)
def test_packaged_configurations(name):
    cfg = load_config(name)
    assert cfg == load_config(f"{name}.yml") and cfg.outdir == f"runs/{name}" and cfg.desc
    if cfg.retrain_cls:
        assert methods_of(cfg, "retrain_cls") == cfg.extract_cams.attribution_methods


def test_the_default_is_the_demo():
    assert load_config() == load_config("shapes_demo")


@pytest.mark.parametrize("text", [BASE, OLDER, "{}", *[f"packaged {n}" for n in PACKAGED]])
def test_a_written_configuration_loads_back(text, tmp_path):
    cfg = load_config(text.split()[1], seed=5) if text.startswith("packaged") else load(text)
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(cfg), encoding="utf-8")
    again = load_config(path)
    assert again == cfg and config_to_yaml(again) == config_to_yaml(cfg)
    assert not any(mark in path.read_text() for mark in ("!!", "&id"))


scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
values = st.recursive(
    scalars,
    lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(), v, max_size=3),
    max_leaves=8,
)


@given(desc=st.text(), kwargs=st.dictionaries(st.text(), values, max_size=4))
@settings(deadline=None)
def test_any_text_and_arguments_load_back(desc, kwargs):
    methods = [{"name": "m", "method": "a.b", "kwargs": kwargs}]
    cfg = load_config(
        {
            "desc": desc,
            "train_cls": {"model": {"arch": "a.b"}},
            "extract_cams": {"attribution_methods": methods},
        }
    )
    assert load_config(parse_yaml(config_to_yaml(cfg))) == cfg


# --- anything at all

keys = st.sampled_from(
    [
        "data",
        "train_cls",
        "extract_cams",
        "retrain_cls",
        "model",
        "arch",
        "optimizer",
        "scheduler",
        "attribution_methods",
        "name",
        "kwargs",
        "seeds",
        "seed",
        "limit",
        "percentiles",
        "imputation",
        "outdir",
        "pretrained_weights",
        "augment",
    ]
)
docs = st.dictionaries(
    keys,
    st.recursive(
        scalars,
        lambda v: st.lists(v, max_size=3) | st.dictionaries(keys, v, max_size=4),
        max_leaves=15,
    ),
)


@given(
    docs,
    st.lists(
        st.text(max_size=12)
        | st.tuples(keys, keys, scalars).map(lambda t: f"{t[0]}.{t[1]}={t[2]}"),
        max_size=2,
    ),
)
@settings(max_examples=400, deadline=None)
def test_any_mapping_is_loaded_or_refused(doc, overrides):
    try:
        assert isinstance(load_config(doc, overrides), Config)
    except ConfigError:
        pass


# --- reference


def test_the_reference_has_every_key_once():
    text = config_reference()
    parts = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", text, re.M | re.S))
    for section, key in (
        ("The top level", "desc"),
        ("data, for Shapes", "n_test"),
        ("train_cls.model · extract_cams.model · pixel_perturbation_analysis.model", "arch"),
        ("retrain_cls", "mask"),
        ("pixel_perturbation_analysis.road", "percentiles"),
    ):
        assert parts[section].count(f"\n| <code>{key}</code> |") == 1
    assert "nb_epochs" not in parts["retrain_cls"]
    assert "noisy_linear" in parts["retrain_cls"] and "ImageNet" in parts["data"]


def test_every_row_of_the_reference_has_four_cells_and_a_meaning():
    rows = [line for line in config_reference().splitlines() if line.startswith("| <code>")]
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [row for row in cells if not row[-1]] == []
    assert {row.count("|") for row in rows} == {5}


# --- perturbation

PERTURB = """
train_cls:
  model: {arch: roar_nb.models.ResNet8}
extract_cams:
  target: label
  attribution_methods: [{name: gradcam, method: gradcam}, {name: random, method: random}]
pixel_perturbation_analysis: {}
"""


def test_perturbation_takes_model_methods_and_target_from_the_steps_before():
    cfg = load(PERTURB)
    found = cfg.pixel_perturbation_analysis
    methods = methods_of(cfg, "pixel_perturbation_analysis")
    assert [m.name for m in methods] == ["gradcam", "random"]
    assert (found.model.arch, found.model.pretrained_weights, found.target) == (
        "roar_nb.models.ResNet8",
        "trained",
        "label",
    )
    (protocol,) = found.protocols
    assert (protocol.name, protocol.kwargs["percentiles"]) == ("lerf_morf", list(range(1, 11)))
    assert found.test_samples == 2000


def test_arguments_of_protocols_stand_in_the_section_or_under_their_names():
    changes = ["protocols=[lerf_morf, road]", "percentiles=[5]", "road.percentiles=[50]"]
    cfg = load(PERTURB, *[f"pixel_perturbation_analysis.{c}" for c in changes])
    found = {p.name: p.kwargs["percentiles"] for p in cfg.pixel_perturbation_analysis.protocols}
    assert found == {"lerf_morf": [5], "road": [50]}
    again = load_config(
        parse_yaml(config_to_yaml(cfg)), ["pixel_perturbation_analysis.road.percentiles=[70]"]
    )
    found = {p.name: p.kwargs["percentiles"] for p in again.pixel_perturbation_analysis.protocols}
    assert found == {"lerf_morf": [5], "road": [70]}


def test_perturbation_names_methods_or_has_its_own():
    own = "pixel_perturbation_analysis.attribution_methods=[random, {name: mine, method: my.fn}]"
    methods = methods_of(load(PERTURB, own), "pixel_perturbation_analysis")
    assert [(m.name, m.method) for m in methods] == [("random", "random"), ("mine", "my.fn")]
    message = complaint(PERTURB, "pixel_perturbation_analysis.attribution_methods=[gradcan]")
    assert (
        "pixel_perturbation_analysis.attribution_methods.0" in message
        and "did you mean 'gradcam'" in message
    )
    assert "1 to put right" in message


def test_perturbation_alone_needs_a_model():
    alone = "data: {dataset: Shapes}\npixel_perturbation_analysis: {attribution_methods: [{name: g, method: gradient}]}"
    assert "pixel_perturbation_analysis.model: missing" in complaint(alone)
    named = load(
        alone,
        "pixel_perturbation_analysis.model={arch: torchvision.models.resnet50, constructor_args: {weights: IMAGENET1K_V2}}",
    )
    assert (
        named.pixel_perturbation_analysis.model.pretrained_weights is None
        and named.train_cls is None
    )


@pytest.mark.parametrize(
    "change, place",
    [
        ("protocols=[raod]", "protocols.0"),
        ("test_samples=0", "test_samples"),
        ("road.percentile=[1]", "road.percentile"),
    ],
)
def test_perturbation_says_what_is_wrong(change, place):
    assert f"pixel_perturbation_analysis.{place}" in complaint(
        PERTURB, f"pixel_perturbation_analysis.{change}"
    )


def test_method_given_by_its_name_alone_is_known_to_the_other_sections():
    plain = {"attribution_methods": ["gradient", "gradcam"]}
    doc = {
        "data": {"dataset": "Shapes"},
        "train_cls": {"model": {"arch": "roar_nb.models.ResNet8"}},
        "extract_cams": plain,
        "retrain_cls": {"attribution_methods": ["gradient"]},
        "pixel_perturbation_analysis": {"attribution_methods": ["gradcam"]},
    }
    cfg = load_config(doc)
    assert cfg.retrain_cls.attribution_methods == ["gradient"]
    assert [m.method for m in methods_of(cfg, "pixel_perturbation_analysis")] == ["gradcam"]
    alone = {
        "data": {"dataset": "Shapes"},
        "pixel_perturbation_analysis": {"model": {"arch": "roar_nb.models.ResNet8"}, **plain},
    }
    assert [
        m.method for m in load_config(alone).pixel_perturbation_analysis.attribution_methods
    ] == ["gradient", "gradcam"]


# --- from scratch

WEIGHTS = """
train_cls:
  model:
    arch: torchvision.models.resnet18
    constructor_args: {weights: IMAGENET1K_V1, progress: false}
    pretrained_weights: start.pth
extract_cams: {attribution_methods: [random]}
retrain_cls: {}
"""


def test_retraining_never_inherits_weights():
    model = load(WEIGHTS).retrain_cls.model
    assert model.pretrained_weights is None and model.constructor_args == {"progress": False}


@pytest.mark.parametrize(
    "change", ["pretrained_weights=trained", "constructor_args.weights=DEFAULT"]
)
def test_weights_that_are_asked_for_are_kept(change):
    model = load(WEIGHTS, f"retrain_cls.model.{change}").retrain_cls.model
    assert (model.pretrained_weights, model.constructor_args.get("weights")) in {
        ("trained", None),
        (None, "DEFAULT"),
    }


@pytest.mark.parametrize(
    "change, place, found",
    [
        ("retrain_cls.percentiles+=95", "percentiles", [10, 30, 50, 70, 90, 95]),
        ("retrain_cls.percentiles+=[5, 95]", "percentiles", [5, 10, 30, 50, 70, 90, 95]),
        ("retrain_cls.metrics+=kar", "metrics", ["roar", "kar"]),
        ("retrain_cls.seeds+=7", "seeds", [0, 7]),
    ],
)
def test_values_are_appended_to_lists_and_their_defaults(change, place, found):
    assert getattr(load(BASE, change).retrain_cls, place) == found


def test_an_appended_method_reaches_all_steps():
    cfg = load(PERTURB + "retrain_cls: {}\n", "extract_cams.attribution_methods+=gradient")
    for step in ("retrain_cls", "pixel_perturbation_analysis"):
        assert [m.name for m in methods_of(cfg, step)] == ["gradcam", "random", "gradient"]
