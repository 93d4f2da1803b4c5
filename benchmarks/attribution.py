"""How fast are maps made, beside captum as it comes and captum well tuned?

    python benchmarks/attribution.py [--model resnet8|resnet50] [--images 64] [--rounds 3] [--methods NAME ...] [--device cpu]

`captum` is its class called on one batch, with its defaults (the model as it is, internal batches as captum chooses them).
`tuned` is captum with frozen weights, channels_last and internal batches of the same size as ours. `ours` is `attribute`, and
`ours, bf16` the same in bfloat16; its mean Spearman rank correlation with float32 stands beside it. The sides take turns;
ratios are medians over the rounds. Methods that captum has not stand alone. At the end: Grad-CAM with the writing to the
store included, against captum's batched Grad-CAM without it.

`resnet8` is 64 channels wide, for 32×32 images, trained for a moment on synthetic ones; `resnet50` is torchvision's at
224×224, with random weights.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings

os.environ["ROAR_NB_PROGRESS"] = "0"
warnings.filterwarnings("ignore")

import captum.attr as ca
import torch
from scipy.stats import spearmanr

from roar_nb.attribution import METHODS, attribute, frozen, make_attribution, predict
from roar_nb.cams import chosen_layer
from roar_nb.core import device_name, pick_device
from roar_nb.images import ImageSet
from roar_nb.models import build_model, get_layer, memory_format
from roar_nb.shapes import shapes
from roar_nb.store import dump
from roar_nb.training import Recipe, fit

FEW = dict(
    rise=dict(n_masks=32),
    occlusion=dict(),
    neuron_intgrad=dict(n_steps=2),
    pathway_grad=dict(contribution="mct"),
)
# steps of captum's side, the same as ours
STEPS, SAMPLES = 50, 15


def setting(args, device):
    if args.model == "resnet8":
        ds, model = shapes(args.images), build_model("roar_nb.models.ResNet8", dict(width=64), 10)
        recipe = Recipe(
            nb_epochs=2, batch_size=64, optimizer=dict(name="AdamW", lr=0.005), scheduler=None
        )
        fit(model, shapes(1500, seed=1), None, recipe)
        images = next(ds.batches(len(ds))).images
    else:
        model = build_model("torchvision.models.resnet50", {}, size=(224, 224))
        images = torch.randn(args.images, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return model.to(device).eval(), images.contiguous().to(device)


def by_captum(name, model, x, y, rows, tuned):
    "captum's call for a method of ours, or None"
    c, h, w = x.shape[1:]
    inner = dict(internal_batch_size=max(rows, len(x))) if tuned else {}
    at_once = dict(perturbations_per_eval=max(1, rows // len(x))) if tuned else {}
    side = min(h, w) // 8
    layer = lambda: get_layer(model, chosen_layer(model, x)[0])
    noise = lambda kind: ca.NoiseTunnel(ca.Saliency(model)).attribute(
        x,
        nt_type=kind,
        nt_samples=SAMPLES,
        stdevs=0.5,
        target=y,
        abs=False,
        **(dict(nt_samples_batch_size=max(1, rows // len(x))) if tuned else {}),
    )
    row, col = torch.arange(h, device=x.device) * 8 // h, torch.arange(w, device=x.device) * 8 // w
    calls = dict(
        gradient=lambda: ca.Saliency(model).attribute(x, target=y, abs=False),
        input_x_gradient=lambda: ca.InputXGradient(model).attribute(x, target=y),
        integrated_gradients=lambda: ca.IntegratedGradients(model).attribute(
            x, target=y, n_steps=STEPS, **inner
        ),
        guided_backprop=lambda: ca.GuidedBackprop(model).attribute(x, target=y),
        deconvolution=lambda: ca.Deconvolution(model).attribute(x, target=y),
        gradcam=lambda: ca.LayerAttribution.interpolate(
            ca.LayerGradCam(model, layer()).attribute(x, target=y, relu_attributions=True),
            (h, w),
            "bilinear",
        ),
        guided_gradcam=lambda: ca.GuidedGradCam(model, layer()).attribute(x, target=y),
        deeplift=lambda: ca.DeepLift(model).attribute(x, target=y),
        gradient_shap=lambda: ca.GradientShap(model).attribute(
            x, torch.randn(16, *x.shape[1:]).to(x), n_samples=20, target=y
        ),
        deeplift_shap=lambda: ca.DeepLiftShap(model).attribute(
            x, torch.randn(16, *x.shape[1:]).to(x), target=y
        ),
        lrp=lambda: ca.LRP(model).attribute(x, target=y),
        occlusion=lambda: ca.Occlusion(model).attribute(
            x,
            (c, side, side),
            strides=(c, max(1, side // 2), max(1, side // 2)),
            target=y,
            **at_once,
        ),
        feature_ablation=lambda: ca.FeatureAblation(model).attribute(
            x, target=y, feature_mask=(row[:, None] * 8 + col)[None, None], **at_once
        ),
        smoothgrad=lambda: noise("smoothgrad"),
        smoothgrad_sq=lambda: noise("smoothgrad_sq"),
        vargrad=lambda: noise("vargrad"),
    )
    return calls.get(name)


def timed(device, f):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    out = f()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return out, time.perf_counter() - start


def compare(name, model, images, labels, args, device):
    "Maps a second of each side, as lists over the rounds, and bf16's rank correlation"
    kwargs = dict(FEW.get(name, {}))
    layout = memory_format(model, device)

    def tuned():
        x = images.contiguous(memory_format=layout)
        with frozen(model.to(memory_format=layout)):
            return by_captum(name, model, x, labels, args.batch_size, True)()

    def plain():
        return by_captum(
            name,
            model.to(memory_format=torch.contiguous_format),
            images,
            labels,
            args.batch_size,
            False,
        )()

    def ours(precision):
        model.to(memory_format=layout)
        x = images.contiguous(memory_format=layout)
        return attribute(
            model, x, labels, name, batch_size=args.batch_size, precision=precision, **kwargs
        )

    sides = (
        {"captum": plain, "tuned": tuned}
        if by_captum(name, model, images, labels, 1, False)
        else {}
    )
    sides |= {"ours": lambda: ours("fp32"), "bf16": lambda: ours("bf16")}
    rates, maps = {k: [] for k in sides}, {}
    for round in range(args.rounds + 1):  # the first is a warm-up
        for side, f in list(sides.items()):
            try:
                maps[side], seconds = timed(device, f)
                rates[side].append(len(images) / seconds)
            except Exception as e:
                print(
                    f"{name}, {side}: does not run: {type(e).__name__}: {str(e)[:120]}", flush=True
                )
                del sides[side], rates[side]
    rho = statistics.mean(
        float(spearmanr(a.flatten(), b.flatten()).statistic)
        for a, b in zip(maps["ours"], maps["bf16"])
    )
    return {k: v[1:] for k, v in rates.items()}, rho


def with_store(model, images, labels, args, device):
    "Grad-CAM of eight times the images into a store, beside captum's without writing; both find the predicted classes"
    layout = memory_format(model, device)
    images, labels = images.repeat(8, 1, 1, 1), labels.repeat(8)
    pixels = torch.randint(256, images.shape, generator=torch.Generator().manual_seed(0)).to(
        torch.uint8
    )
    x, ds = (
        images.contiguous(memory_format=layout),
        ImageSet(pixels, labels.cpu(), range(1000), [0.5] * 3, [0.25] * 3, "random"),
    )
    model.to(memory_format=layout)
    gradcam, ratios = make_attribution("gradcam"), []
    for _ in range(args.rounds + 1):
        with tempfile.TemporaryDirectory() as folder:
            _, ours = timed(
                device,
                lambda: dump(gradcam, model, ds, f"{folder}/maps.zarr", batch_size=args.batch_size),
            )
        with frozen(model):
            _, theirs = timed(
                device,
                lambda: [
                    by_captum("gradcam", model, b, predict(model, b), args.batch_size, True)()
                    for b in x.split(args.batch_size)
                ],
            )
        ratios.append(theirs / ours)
    print(
        f"\nGrad-CAM with the writing, against captum's tuned without: {statistics.median(ratios[1:]):.2f}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=["resnet8", "resnet50"], default="resnet8")
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--device", default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    model, images = setting(args, device)
    labels = predict(model, images)
    print(
        f"torch {torch.__version__}, {device_name(device)}, {args.model}, {len(images)} images, {args.batch_size} at once"
    )
    print(f"IG {STEPS} steps, ensembles {SAMPLES} samples, {FEW}\n")
    print(
        "| method | captum | tuned | ours | ours, bf16 | ours : captum | ours : tuned | bf16 : captum | rank correlation |\n|---|---|---|---|---|---|---|---|---|"
    )
    for name in args.methods or [name for name in METHODS if name != "oracle"]:
        rates, rho = compare(name, model, images, labels, args, device)
        show = lambda k: f"{statistics.median(rates[k]):.1f}" if k in rates else "–"
        ratio = lambda a, b: (
            f"{statistics.median(p / q for p, q in zip(rates[a], rates[b])):.2f}"
            if a in rates and b in rates
            else "–"
        )
        print(
            f"| {name} | "
            + " | ".join(map(show, ("captum", "tuned", "ours", "bf16")))
            + f" | {ratio('ours', 'captum')} | {ratio('ours', 'tuned')} | {ratio('bf16', 'captum')} | {rho:.3f} |",
            flush=True,
        )
    with_store(model, images, labels, args, device)


if __name__ == "__main__":
    main()
