"""Packaging. `make` installs the exact versions of requirements.lock; ranges that should work are here."""

from __future__ import annotations

import re
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).resolve().parent


def version() -> str:
    """`__version__`, read from the text: importing the package would prepare this process for Paddle."""
    text = (HERE / "ppdet_repro" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE).group(1)


REQUIREMENTS = [
    "paddlepaddle==2.6.2",  # on a GPU machine replace it by paddlepaddle-gpu==2.6.2: docs/install.md
    "numpy>=1.22,<2",
    "opencv-python-headless==4.6.0.66",  # the version that paddleslim 2.6.0 pins, without its need of libGL
    "pycocotools>=2.0.6",
    "faster-coco-eval>=1.6.5",
    "PyYAML>=6.0",
    "Pillow>=9.1",
    "tqdm>=4.64",
    "matplotlib>=3.6",
    "scipy>=1.9",
]

EXTRAS = {
    "dev": ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.13"],
    "serve": ["fastapi>=0.110", "pydantic>=2", "uvicorn>=0.29"],
    "vdl": ["visualdl>=2.5"],
    "onnx": ["paddle2onnx==1.3.1", "onnxruntime==1.23.2"],
    "openvino": ["openvino>=2024.0"],
    "lite": ["paddlelite==2.13rc0"],
    "tide": ["appdirs", "pandas", "seaborn"],  # what tidecv imports; `make tide` installs it without opencv-python
    # What paddleslim 2.6.0 imports, declared by it or not. It is itself not here, because it pins
    # opencv-python, a second package that owns the module cv2: `make slim` installs it without dependencies.
    "slim": [
        "astor",
        "decorator",
        "pyzmq",
        "requests",
        "scikit-learn>=1.2",
        "scipy",
        "setuptools<81",  # newer ones have no pkg_resources
        "six",
    ],
}

setup(
    name="ppdet-repro",
    version=version(),
    description="Five object detectors, reproduced, trained and shipped with PaddlePaddle",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    packages=find_packages(include=["ppdet_repro", "ppdet_repro.*"]),
    python_requires=">=3.9,<3.13",
    install_requires=REQUIREMENTS,
    extras_require=EXTRAS,
)
