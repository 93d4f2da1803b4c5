"""How fast, and how exact, is ROAD's noisy linear imputation?

    python benchmarks/imputation.py [--images 64 8] [--sizes 32 224] [--rounds 9] [--threads 2]
        [--device cpu]

Ours is `noisy_linear`, a whole batch at once; theirs is the NoisyLinearImputer of grad-cam
(`pip install grad-cam`), image by image, on the same images. The two take turns; times are medians
of the rounds, the ratio is the median of the ratios of each round. Errors are those of a further
run without noise: the largest differences, over all pixels of the images that theirs has filled
too, from scipy's direct solution in float64. Masks: pixels at random; the highest values of noise
that is smoothed a little (2 pixels), which are many small spots, as maps of SmoothGrad have them;
or of heavily smoothed noise, which are a few large blobs, as maps of Grad-CAM have them.
"""

import argparse
import statistics
import time
import warnings

import numpy as np
import scipy.sparse as sp
import torch
from pytorch_grad_cam.metrics.road import NoisyLinearImputer
from scipy.ndimage import gaussian_filter
from scipy.sparse.linalg import splu

from roar_nb.core import device_name, pick_device
from roar_nb.imputation import noisy_linear


def random_mask(rng, size, fraction):
    return rng.random((size, size)) < fraction


def smooth_mask(rng, size, fraction, pixels):
    field = gaussian_filter(rng.standard_normal((size, size)), pixels)
    return field > np.quantile(field, 1 - fraction)


def spots_mask(rng, size, fraction):
    return smooth_mask(rng, size, fraction, 2)


def blob_mask(rng, size, fraction):
    return smooth_mask(rng, size, fraction, size / 10)


def exact(image, mask):
    "Scipy's direct solution, (C,H,W) float64"
    c, h, w = image.shape
    blur = [sp.diags([1.0, 2.0, 1.0], [-1, 0, 1], shape=(k, k)) for k in (h, w)]
    blur = sp.kron(*blur).tocsr()
    system = (sp.diags(np.asarray(blur.sum(1)).ravel()) - blur).tocsr()
    m, out = mask.ravel(), image.reshape(c, -1).astype(np.float64)
    if m.any():
        rows = system[m]
        known = -(rows[:, ~m] @ out[:, ~m].T)
        out[:, m] = splu(rows[:, m].tocsc(), permc_spec="MMD_AT_PLUS_A").solve(known).T
    return out.reshape(c, h, w)


def timed(fn, device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    fn()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) * 1e3


def compare(images, mask, theirs, rounds, device):
    "Milliseconds an image of ours and theirs, the ratio, and both errors"
    x, m = images.to(device), mask.to(device)

    def fill(imputer):
        return [imputer(i, (~k).float()) for i, k in zip(images[:theirs], mask[:theirs])]

    a, b = noisy_linear(x, m, noise=0), fill(NoisyLinearImputer(noise=0))
    times = []
    for _ in range(rounds):
        ours_ms = timed(lambda: noisy_linear(x, m, noise=0.01), device)
        theirs_ms = timed(lambda: fill(NoisyLinearImputer(noise=0.01)), torch.device("cpu"))
        times.append((ours_ms / len(images), theirs_ms / theirs))
    target = [exact(i.numpy(), k.numpy()) for i, k in zip(images[:theirs], mask[:theirs])]
    errors = [max(np.abs(t - o.cpu().numpy()).max() for t, o in zip(target, out)) for out in (a, b)]
    medians = [statistics.median(column) for column in zip(*times)]
    return *medians, statistics.median(b / a for a, b in times), *errors


HEAD = (
    "size | mask | removed, % | roar_nb, ms/image | grad-cam, ms/image | ratio "
    "| error of roar_nb | error of grad-cam"
)


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    several = dict(type=int, nargs="+")
    parser.add_argument("--sizes", default=[32, 224], **several)
    parser.add_argument("--images", default=[256, 16], help="of each size", **several)
    parser.add_argument(
        "--theirs", default=[16, 2], help="images of each size that grad-cam fills", **several
    )
    parser.add_argument("--removed", type=float, nargs="+", default=[10, 50, 90])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    parser.add_argument("--device", default="auto")
    return parser.parse_args()


def main():
    args = arguments()
    if args.threads:
        torch.set_num_threads(args.threads)
    warnings.simplefilter("ignore")
    device, rng = pick_device(args.device), np.random.default_rng(0)
    machine = f"{device_name(device)}, {torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {machine}, images a batch: {args.images}\n")
    print(f"| {HEAD} |\n|{'---|' * 8}")
    for size, n, theirs in zip(args.sizes, args.images, args.theirs):
        for make in (random_mask, spots_mask, blob_mask):
            for removed in args.removed:
                masks = [make(rng, size, removed / 100) for _ in range(n)]
                mask = torch.tensor(np.stack(masks))
                images = torch.tensor(rng.random((n, 3, size, size), dtype=np.float32))
                a, b, ratio, ours, other = compare(images, mask, theirs, args.rounds, device)
                kind = make.__name__.split("_")[0]
                times = f"{a:.2f} | {b:.1f} | {ratio:.1f}"
                errors = f"{ours:.0e} | {other:.0e}"
                print(f"| {size} | {kind} | {removed:g} | {times} | {errors} |", flush=True)


if __name__ == "__main__":
    main()
