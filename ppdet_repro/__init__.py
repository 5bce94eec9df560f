"""Five object detectors, reproduced, trained and shipped with PaddlePaddle.

    from ppdet_repro import load_config, build_model

    model = build_model(load_config("configs/yolof/yolof_r50_c5_1x_coco.yml"))

Importing the package prepares the process for Paddle (threads, MKL code path)
but does not import Paddle itself.
"""

import zlib  # noqa: F401  Paddle 2.6 can crash inside zlib when it loads its own copy first

from ppdet_repro.utils import cpu_env

cpu_env.apply()

__version__ = "0.2.0"
__all__ = ["load_config", "build_model"]


def __getattr__(name: str):
    if name in __all__:
        from ppdet_repro.core import config

        return getattr(config, name)
    raise AttributeError(f"module 'ppdet_repro' has no attribute {name!r}")
