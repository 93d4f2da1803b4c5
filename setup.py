"Builds the package from settings.ini."

from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent
EXTRA = "_requirements"

parser = ConfigParser(interpolation=None)
parser.read(HERE / "settings.ini", encoding="utf-8")
cfg = parser.defaults()


def lines(key):
    "The non-empty lines of one setting"
    return [line.strip() for line in cfg[key].splitlines() if line.strip()]


setup(
    version=cfg["version"],
    author=cfg["author"],
    license_expression=cfg["license"],
    keywords=cfg["keywords"].split(),
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    python_requires=f">={cfg['min_python']}",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    install_requires=lines("requirements"),
    extras_require={key.removesuffix(EXTRA): lines(key) for key in cfg if key.endswith(EXTRA)},
    entry_points={
        "console_scripts": lines("console_scripts"),
        "nbdev": [f"{cfg['lib_name']} = {cfg['lib_name']}._modidx:d"],
    },
    packages=find_packages(include=["roar_nb", "roar_nb.*"]),
    package_data={"roar_nb": ["py.typed", "configs/*", "assets/*", "templates/*"]},
    include_package_data=False,
)
