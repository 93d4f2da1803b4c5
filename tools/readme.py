"""Make README.md from nbs/index.ipynb: `python tools/readme.py`, or `--check` to see whether it is current."""

import argparse
import base64
import posixpath
import re
import sys
from pathlib import Path

from fastcore.nbio import read_nb

ROOT = Path(__file__).resolve().parents[1]
EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/svg+xml": "svg"}
FENCED = re.compile(r"(^```.*?^```[ \t]*$)", re.M | re.S)
TARGET = re.compile(r"""(\]\(\s*<?|(?:src|href)=["'])([^\s)>"']+)""")


def from_root(target):
    "`target`, relative to nbs/, as seen from the repository root"
    if re.match(r"[a-z][a-z0-9+.-]*:|[#/]", target, re.I):
        return target
    return posixpath.normpath(posixpath.join("nbs", target))


def rewrite_links(text):
    "`text` with its relative links and images moved from nbs/ to the root, code blocks left alone"
    parts = FENCED.split(text)
    parts[::2] = [TARGET.sub(lambda m: m[1] + from_root(m[2]), part) for part in parts[::2]]
    return "".join(parts)


def title(source):
    "The title cell: `# name`, then its `> blurb` as a paragraph"
    return re.sub(r"^> ?", "", source, flags=re.M)


def fenced(text, language=""):
    "`text` as a code block whose fence is longer than any fence inside"
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", text)), default=0))
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def decoded(mime, data):
    "The bytes of an image output"
    return data.encode() if mime == "image/svg+xml" else base64.b64decode(data)


def output_md(output, name, images):
    "One output as markdown; an image goes into `images` under `name`"
    data = output.get("data", {"text/plain": output.get("text", "")})
    data = {mime: "".join(value) for mime, value in data.items()}
    for mime, extension in EXTENSIONS.items():
        if mime in data:
            path = f"nbs/images/{name}.{extension}"
            images[path] = decoded(mime, data[mime])
            return f"![]({path})"
    if "text/markdown" in data:
        return rewrite_links(data["text/markdown"])
    text = data.get("text/plain", "").rstrip()
    return fenced(text) if text else ""


def code_md(cell, images):
    "A code cell and its outputs, as far as its directives show them"
    directives = cell.directives
    if "hide" in directives or directives.get("include") == "false":
        return []
    source = "".join(cell._partition()[1]).strip()
    blocks = [fenced(source, "python")] if source and directives.get("echo") != "false" else []
    outputs = cell.outputs if directives.get("output") != "false" else []
    return blocks + [output_md(o, f"index-{cell.id}-{i}", images) for i, o in enumerate(outputs)]


def readme(notebook):
    "The text of the README and its images, {path: bytes}"
    images, blocks = {}, []
    for cell in read_nb(notebook).cells:
        if cell.cell_type == "markdown":
            source = re.sub(r"^#\| .*\n", "", cell.source)
            source = title(source) if not blocks else source
            blocks.append(rewrite_links(source).strip())
        elif cell.cell_type == "code":
            blocks += code_md(cell, images)
    note = (
        "<!-- Made from nbs/index.ipynb by tools/readme.py: edit that notebook, not this file. -->"
    )
    return "\n\n".join([note, *filter(None, blocks)]) + "\n", images


def wanted(root):
    "Every file that the notebook asks for, {path: bytes}; None where one should go"
    text, images = readme(root / "nbs/index.ipynb")
    old = {
        path.relative_to(root).as_posix(): None for path in (root / "nbs/images").glob("index-*")
    }
    return old | images | {"README.md": text.encode()}


def stale(root):
    "The files that are not as the notebook wants them, {path: bytes}"

    def now(path):
        return (root / path).read_bytes() if (root / path).exists() else None

    return {path: data for path, data in wanted(root).items() if now(path) != data}


def write(root, path, data):
    "Write one file, or remove it"
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink() if data is None else target.write_bytes(data)
    print(f"{path}: {'removed' if data is None else 'written'}")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a file is stale"
    )
    check = parser.parse_args().check
    files = stale(ROOT)
    for path, data in files.items():
        print(f"{path}: stale") if check else write(ROOT, path, data)
    return int(check and bool(files))


if __name__ == "__main__":
    sys.exit(main())
