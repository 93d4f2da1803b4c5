"""How near does perturbation come to the bare model, and to other libraries?

    pip install roar_nb grad-cam quantus
    python benchmarks/perturbation.py [--model shapes|resnet50] [--images 256] [--rounds 3] [--device cpu]

Every side evaluates altered copies of the same images with the same maps; what counts is images through the model a second:
the altered copies, and for ours and the loop the unaltered image, which goes through it once.

- bare: the model's forward pass on a batch that is already there.
- ours: `lerf_morf` at percentiles 1 to 10, both orders (20 copies an image and the image itself), ranks and masks included.
- loop: image by image, as the definition reads: one image's map is sorted, its ten copies of an order go through the model together.
- quantus: PixelFlipping in eight steps down to all pixels removed, MoRF only.
- ROAD, MoRF at nine levels: `responses` against grad-cam's ROADMostRelevantFirstAverage.

`shapes` is ResNet8, 64 wide, trained for a moment on synthetic 32×32 images; `resnet50` is torchvision's at 224×224,
with random weights, which cost as much as trained ones. The sides take turns; the median of each round's ratio counts.
"""

import argparse
import os
import statistics
import time
import warnings

os.environ["ROAR_NB_PROGRESS"] = "0"
warnings.filterwarnings("ignore")

import numpy as np
import torch

from roar_nb.core import autocast, device_name, pick_device, pick_precision
from roar_nb.models import build_model
from roar_nb.perturbation import lerf_morf, responses
from roar_nb.protocols import Protocol, measure_road
from roar_nb.shapes import shapes
from roar_nb.training import Recipe, fit

PERCENTILES = list(range(1, 11))


def setting(args, device):
    "Model, normalised images, smooth random maps without ties, mean and std"
    g = torch.Generator().manual_seed(0)
    if args.model == "shapes":
        ds = shapes(args.images)
        model = build_model("roar_nb.models.ResNet8", dict(width=64), 10)
        train = shapes(1500, seed=1)
        recipe = Recipe(
            nb_epochs=2, batch_size=64, optimizer=dict(name="AdamW", lr=0.005), scheduler=None
        )
        fit(model, train, None, recipe)
        images, mean, std = next(ds.batches(len(ds))).images, ds.mean, ds.std
    else:
        model = build_model("torchvision.models.resnet50", {}, size=(224, 224))
        images, mean, std = (
            torch.randn(args.images, 3, 224, 224, generator=g),
            [0.485, 0.456, 0.406],
            [0.229, 0.224, 0.225],
        )
    coarse = torch.randn(len(images), 1, 7, 7, generator=g)
    maps = torch.nn.functional.interpolate(coarse, images.shape[-2:], mode="bicubic")[:, 0]
    maps += 1e-4 * torch.randn(maps.shape, generator=g)
    model = model.to(device, memory_format=torch.channels_last).eval().requires_grad_(False)
    return model, images, maps, mean, std


def timed(device, count, f):
    "Images a second of `f`, and its result"
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    out = f()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return count / (time.perf_counter() - start), out


@torch.inference_mode()
def bare(model, images, batch, dtype, device):
    x = images[:batch].to(device, dtype, memory_format=torch.channels_last)
    steps = max(1, 21 * len(images) // batch)

    def run():
        with autocast(device, dtype):
            for _ in range(steps):
                out = model(x)
        return out.float().sum().item()

    return timed(device, steps * len(x), run)[0]


@torch.inference_mode()
def loop(model, images, maps, device, dtype):
    "Mean deviations (order, percentile), image by image"
    total = np.zeros((2, len(PERCENTILES)))
    for x, m in zip(images, maps):
        x = x.to(device)
        with autocast(device, dtype):
            before = model(x[None]).float().softmax(1)[0]
        c, order = before.argmax(), np.argsort(m.numpy().ravel())
        for o in (0, 1):
            copies = x.repeat(len(PERCENTILES), 1, 1, 1).flatten(2)
            for copy, p in zip(copies, PERCENTILES):
                k = int(p / 100 * len(order) + 0.5)
                copy[
                    :, torch.from_numpy((order[::-1] if o == 0 else order)[:k].copy()).to(device)
                ] = 0
            with autocast(device, dtype):
                after = model(copies.view(-1, *x.shape)).float().softmax(1)[:, c]
            total[o] += ((before[c] - after).abs() / before[c] * 100).cpu().numpy()
    return total / len(images)


def quantus_flipping(model, images, maps, device):
    import quantus

    n = maps[0].numel()
    with torch.no_grad():
        y = torch.cat([model(x.to(device)).argmax(1) for x in images.split(64)]).cpu().numpy()
    metric = quantus.PixelFlipping(
        features_in_step=n // 8, perturb_baseline="mean", disable_warnings=True
    )  # features_in_step must divide the pixels
    return timed(
        device,
        8 * len(images),
        lambda: metric(model, images.numpy(), y, maps[:, None].numpy(), device=str(device)),
    )[0]


def grad_cam_road(model, images, maps, device, batch):
    from pytorch_grad_cam.metrics.road import ROADMostRelevantFirstAverage
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget

    metric = ROADMostRelevantFirstAverage()
    with torch.no_grad():
        classes = torch.cat([model(x.to(device)).argmax(1) for x in images.split(batch)]).tolist()

    def run():
        for i in range(0, len(images), batch):
            with torch.no_grad():
                metric(
                    images[i : i + batch],
                    maps[i : i + batch].numpy(),
                    [ClassifierOutputSoftmaxTarget(c) for c in classes[i : i + batch]],
                    model,
                )

    return timed(device, 9 * len(images), run)[0]


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["shapes", "resnet50"], default="shapes")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    model, images, maps, mean, std = setting(args, device)
    few = slice(0, max(4, args.images // 8))  # for the slow sides
    fp32, bf16 = torch.float32, pick_precision("bf16", device)
    levels, removals = tuple(range(10, 100, 10)), (("morf", "noisy_linear"),)
    morf = Protocol("road", levels, removals, measure_road)
    ours = lambda precision: timed(
        device,
        21 * len(images),
        lambda: lerf_morf(
            model, images, maps, PERCENTILES, batch_size=args.batch_size, precision=precision
        ),
    )
    sides = {
        "bare, fp32": lambda: bare(model, images, args.batch_size, fp32, device),
        "ours, fp32": lambda: ours("fp32")[0],
        "bare, bf16": lambda: bare(model, images, args.batch_size, bf16, device),
        "ours, bf16": lambda: ours("bf16")[0],
        "loop, fp32": lambda: timed(
            device, 21 * len(images[few]), lambda: loop(model, images[few], maps[few], device, fp32)
        )[0],
        "quantus, fp32": lambda: quantus_flipping(model, images[few], maps[few], device),
        "ROAD ours, fp32": lambda: timed(
            device,
            9 * len(images),
            lambda: responses(
                model, images, maps, morf, mean=mean, std=std, batch_size=args.batch_size
            ),
        )[0],
        "ROAD grad-cam, fp32": lambda: grad_cam_road(
            model, images[few], maps[few], device, args.batch_size
        ),
    }
    print(
        f"torch {torch.__version__}, {device_name(device)}, {args.model}, {len(images)} images, batch {args.batch_size}"
    )
    rates = {name: [] for name in sides}
    for round in range(args.rounds + 1):  # the first is a warm-up
        for name, side in sides.items():
            try:
                rates[name].append(side())
            except Exception as e:
                if round == 0:
                    print(f"{name} does not run: {type(e).__name__}: {e}", flush=True)
                rates[name].append(float("nan"))
    print("\n| side | images/s |\n|---|---|")
    for name, found in rates.items():
        print(f"| {name} | {statistics.median(found[1:]):.1f} |")
    ratio = lambda a, b: statistics.median(x / y for x, y in zip(rates[a][1:], rates[b][1:]))
    print("\n| ratio | |\n|---|---|")
    for a, b in (
        ("ours, fp32", "bare, fp32"),
        ("ours, bf16", "bare, bf16"),
        ("ours, fp32", "loop, fp32"),
        ("ours, bf16", "loop, fp32"),
        ("ours, fp32", "quantus, fp32"),
        ("ROAD ours, fp32", "ROAD grad-cam, fp32"),
    ):
        print(f"| {a} : {b} | {ratio(a, b):.2f} |")
    exact = loop(model, images[few], maps[few], device, fp32).ravel()
    for name in ("fp32", "bf16"):
        got = lerf_morf(
            model, images[few], maps[few], PERCENTILES, batch_size=args.batch_size, precision=name
        )["deviation"].to_numpy()
        print(
            f"largest difference of the mean deviation from the loop's, {name}: {abs(got - exact).max():.3f} percentage points"
        )


if __name__ == "__main__":
    main()
