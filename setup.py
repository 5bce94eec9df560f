"""What pyproject.toml cannot express: the top-level folder configs/ is installed as ppdet_repro/configs."""

from setuptools import find_namespace_packages, find_packages, setup

setup(
    packages=[
        *find_packages(include=["ppdet_repro", "ppdet_repro.*"]),
        *(f"ppdet_repro.{folder}" for folder in find_namespace_packages(include=["configs", "configs.*"])),
    ],
    package_dir={"ppdet_repro.configs": "configs"},
)
