"""Make the figures stored in notebooks small: PNG outputs get a palette of 255 colours.

python tools/small_outputs.py nbs/31_report.ipynb …      (default: all notebooks)
"""

import base64
import io
import sys
from pathlib import Path

from fastcore.nbio import read_nb, write_nb
from PIL import Image

LARGE = 12_000  # characters of base64


def smaller(png):
    "The same picture with a palette, if that is shorter"
    image = Image.open(io.BytesIO(base64.b64decode(png)))
    if image.mode == "P":
        return png
    flat = Image.new("RGB", image.size, "white")
    flat.paste(image, mask=image.getchannel("A") if image.mode == "RGBA" else None)
    out = io.BytesIO()
    flat.quantize(255).save(out, "PNG", optimize=True)
    return min(png, base64.b64encode(out.getvalue()).decode(), key=len)


def shrink(path):
    nb, changed = read_nb(path), False
    for cell in nb.cells:
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            png = "".join(data.get("image/png", ""))
            if len(png) > LARGE and len(small := smaller(png)) < len(png):
                data["image/png"], changed = small, True
    if changed:
        write_nb(nb, path)
        print(path)


if __name__ == "__main__":
    for path in sys.argv[1:] or sorted(Path("nbs").rglob("*.ipynb")):
        shrink(path)
