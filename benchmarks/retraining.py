"""How near does a retraining come to the bare model?

    python benchmarks/retraining.py [--images 1536] [--rounds 3] [--device cpu] [--width 64] [--batch-size 256]

Both sides train ResNet8 on 32×32 images with Adam, cross-entropy and channels_last weights. The bare side
repeats forward, backward and step on one batch that is already on the device. Our side is a whole cell of
ROAR, `retraining.retrain`, without its final test: removal by rank, normalisation, shuffling, augmentation
and the training loop. The two take turns; the median of the ratios of each round is what counts.
"""

import argparse
import os
import statistics
import time

os.environ["ROAR_NB_PROGRESS"] = "0"

import torch
import torch.nn.functional as F

from roar_nb.core import autocast, device_name, pick_device, pick_precision
from roar_nb.models import ResNet8
from roar_nb.removal import MaskedSet, rank
from roar_nb.shapes import shapes
from roar_nb.training import Recipe, fit


def synchronise(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def bare(args, device, dtype, steps):
    "Images a second of the bare training step"
    model = ResNet8(width=args.width).to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, weight_decay=1e-4)
    x = (
        torch.randn(args.batch_size, 3, 32, 32, device=device)
        .to(dtype)
        .contiguous(memory_format=torch.channels_last)
    )
    y = torch.randint(10, (args.batch_size,), device=device)

    def step():
        with autocast(device, dtype):
            out = model(x)
        loss = F.cross_entropy(out.float(), y)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    step()
    synchronise(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    synchronise(device)
    return steps * args.batch_size / (time.perf_counter() - start)


def ours(args, device, precision, ds, ranks):
    "Images a second of a cell, removal and augmentation included"
    model = ResNet8(width=args.width)
    recipe = Recipe(nb_epochs=args.epochs, batch_size=args.batch_size, scheduler=None)
    synchronise(device)
    start = time.perf_counter()
    fit(model, MaskedSet(ds, ranks, 50), None, recipe, device=device, precision=precision)
    synchronise(device)
    return args.epochs * len(ds) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1536)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", nargs="+", default=["fp32", "bf16"])
    args = parser.parse_args()
    device = pick_device(args.device)
    ds = shapes(args.images)
    ranks = rank(torch.rand(len(ds), 32, 32))
    print(
        f"torch {torch.__version__}, {device_name(device)}, ResNet8 width {args.width}, batch {args.batch_size}"
    )
    print(f"{'precision':10} {'bare img/s':>11} {'ours img/s':>11} {'ratio':>6}")
    for precision in args.precision:
        dtype, rows = pick_precision(precision, device), []
        ours(args, device, precision, ds, ranks)  # warm-up
        for _ in range(args.rounds):
            rows.append(
                (
                    bare(args, device, dtype, args.epochs * len(ds) // args.batch_size),
                    ours(args, device, precision, ds, ranks),
                )
            )
        middle = [statistics.median(r[i] for r in rows) for i in (0, 1)]
        print(
            f"{precision:10} {middle[0]:11.1f} {middle[1]:11.1f} {statistics.median(b / a for a, b in rows):6.2f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
