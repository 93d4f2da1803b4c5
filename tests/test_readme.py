"The ten lines of the README, run as they stand: only weights and image size are smaller."

import re

import pandas as pd
import torch
from PIL import Image

from repo import ROOT

SMALLER = {
    'resnet50(weights="DEFAULT")': "resnet18(weights=None)",
    "ResNet50_Weights.DEFAULT.transforms()": (
        "ResNet50_Weights.DEFAULT.transforms(crop_size=32, resize_size=32)"
    ),
}


def ten_lines():
    "The README's first block of Python"
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.search(r"^```python\n(.*?)^```", text, re.M | re.S)[1]


def test_the_lines_are_few():
    lines = [line for line in ten_lines().splitlines() if line]
    assert sum("import" not in line for line in lines) <= 10
    assert max(map(len, lines)) <= 100


def test_ten_lines_give_a_table_over_five_methods_and_three_protocols(
    tmp_path, monkeypatch, capsys
):
    code = ten_lines()
    for there, smaller in SMALLER.items():
        assert code.count(there) == 1
        code = code.replace(there, smaller)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    torch.manual_seed(0)
    for i in range(2):
        photo = torch.randint(256, (70, 80 + i, 3), dtype=torch.uint8)
        Image.fromarray(photo.numpy()).save(f"photos/{i}.jpg")
    found = {}
    exec(compile(code, "README.md", "exec"), found)
    scores = found["scores"]
    assert set(scores.table["method"]) == set(found["methods"]) and len(found["methods"]) == 5
    measured = {"deviation", "road", "insertion_auc", "deletion_auc"}
    assert measured <= set(scores.table["metric"]) and len(found["protocols"]) == 3
    assert isinstance(scores.overview(), pd.DataFrame)
    printed = capsys.readouterr().out
    assert all(method in printed for method in found["methods"])
    assert (tmp_path / "scores.png").stat().st_size > 10_000
