"""What does it bring to keep freed memory in the process?

    python benchmarks/memory.py [--rounds 3]

Linux, CPU. The same work in two processes that take turns: one with the C library's defaults, one after
`cli.reuse_memory`. Forward passes of ResNet8 (64 channels, 256 images of 32×32) and of ResNet50 (64 images of
224×224), and a step of training ResNet8. Medians of the rounds; the memory is the highest of the process.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import torch
import torch.nn.functional as F
import torchvision

from roar_nb.cli import reuse_memory
from roar_nb.core import autocast, device_name
from roar_nb.models import ResNet8

DTYPES = dict(fp32=torch.float32, bf16=torch.bfloat16)


def rate(work, images, seconds=4):
    """Images a second, after one pass to warm up"""
    work()
    start, n = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work()
        n += images
    return n / (time.perf_counter() - start)


def images_of(n, size):
    return torch.rand(n, 3, size, size).to(memory_format=torch.channels_last)


def forward(model, x, dtype):
    with torch.no_grad(), autocast("cpu", dtype):
        model(x)


def step(model, optimizer, x, y, dtype):
    with autocast("cpu", dtype):
        loss = F.cross_entropy(model(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def measure():
    """name → images a second, and 'memory' in MB, of this process"""
    torch.manual_seed(0)
    small, large = (
        m.to(memory_format=torch.channels_last)
        for m in (ResNet8(10, width=64), torchvision.models.resnet50())
    )
    optimizer = torch.optim.SGD(small.parameters(), 0.01)
    x, y = images_of(256, 32), torch.arange(256) % 10
    found = {}
    for name, dtype in DTYPES.items():
        found[f"ResNet8, forward, {name}"] = rate(lambda: forward(small.eval(), x, dtype), 256)
        found[f"ResNet8, training, {name}"] = rate(
            lambda: step(small.train(), optimizer, x, y, dtype), 256
        )
    x = images_of(64, 224)
    for name, dtype in DTYPES.items():
        found[f"ResNet50, forward, {name}"] = rate(lambda: forward(large.eval(), x, dtype), 64)
    return found | {"memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def in_process(side):
    done = subprocess.run(
        [sys.executable, __file__, "--side", side], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", choices=["default", "reuse"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        if args.side == "reuse" and not reuse_memory():
            sys.exit("reuse_memory does nothing here: not glibc, or MALLOC_MMAP_MAX_ is set")
        print(json.dumps(measure()))
        return
    sides = {side: [] for side in ("default", "reuse")}
    for _ in range(args.rounds):
        for side, rounds in sides.items():
            rounds.append(in_process(side))
    print(f"torch {torch.__version__}, {device_name('cpu')}\n")
    print("| work | default, images/s | reuse_memory, images/s | ratio |\n|---|---|---|---|")
    for name in sides["default"][0]:
        a, b = ([r[name] for r in rounds] for rounds in sides.values())
        label = "highest memory, MB" if name == "memory" else name
        ratio = statistics.median(y / x for x, y in zip(a, b))
        print(
            f"| {label} | {statistics.median(a):.0f} | {statistics.median(b):.0f} | {ratio:.2f} |"
        )


if __name__ == "__main__":
    main()
