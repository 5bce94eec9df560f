"""The folder that `ppdet-repro export`, or tools/export_model.py of PaddleDetection, writes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Union

import yaml

from ppdet_repro.runtime.networks import FILES, network_file
from ppdet_repro.utils.errors import UserError

ARCHITECTURES = ("YOLO", "YOLOF", "TTFNet", "RetinaNet", "SAPD")  # their exports end in bbox and bbox_num


class ModelFolder(NamedTuple):
    """An exported model: its files, and what its infer_cfg.yml says."""

    network_file: Path  # in the engine's format
    config_file: Path  # infer_cfg.yml, or inference.yml
    arch: str  # one of `ARCHITECTURES`
    preprocess: List[Dict[str, Any]]  # the steps from a decoded image to the network's input
    labels: List[str]  # the name of each class
    dynamic_shape: bool  # whether the network takes inputs of any size
    min_subgraph_size: int  # the number of operators from which on TensorRT takes a subgraph
    draw_threshold: float  # the lowest score of a box that is drawn
    post_process: Optional[Dict[str, Any]] = None  # the suppression; None if the network contains it

    @property
    def folder(self) -> Path:
        return self.network_file.parent


def open_model_folder(path: Union[str, Path], fastdeploy_names: bool = False, engine: str = "paddle") -> ModelFolder:
    """Read the folder of an exported model for an engine, see `FILES`. `fastdeploy_names`: its files have FastDeploy's
    names. UserError if the folder, a file or an entry is missing, or the architecture is unknown."""
    folder = Path(path)
    stem, config = ("inference", "inference.yml") if fastdeploy_names else ("model", "infer_cfg.yml")
    if not folder.is_dir():
        raise UserError(f"--model_dir {folder} is not a folder; ppdet-repro export writes one")
    network = network_file(folder, engine, stem)
    parameters = [network.with_suffix(".pdiparams")] if engine == "paddle" else []
    files = [network, *parameters, folder / config]
    missing = [file.name for file in files if not file.is_file() or not file.stat().st_size]
    if missing:
        other = "inference.yml" if not fastdeploy_names else "infer_cfg.yml"
        hint = f"; set --use_fd_format={not fastdeploy_names}" if (folder / other).is_file() else ""
        others = [name for name in FILES if name != engine and network_file(folder, name).is_file()]
        if network.name in missing and others:
            hint += f"; it is for --engine={' or '.join(others)}"
        raise UserError(f"{folder} lacks {', '.join(missing)} (or it is empty){hint}; export the model again")
    return ModelFolder(files[0], files[-1], **_read_config(files[-1]))


def _read_config(path: Path) -> Dict[str, Any]:
    """The entries of infer_cfg.yml that inference needs."""
    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
        arch = str(config["arch"])
        entries = {
            "arch": arch,
            "preprocess": [dict(step) for step in config["Preprocess"]],
            "labels": [str(label) for label in config["label_list"]],
            "dynamic_shape": bool(config["use_dynamic_shape"]),
            "min_subgraph_size": int(config["min_subgraph_size"]),
            "draw_threshold": float(config.get("draw_threshold", 0.5)),
            "post_process": None if config.get("PostProcess") is None else dict(config["PostProcess"]),
        }
    except KeyError as error:
        raise UserError(f"{path} has no entry {error}; export the model again") from error
    except (yaml.YAMLError, TypeError, ValueError, UnicodeDecodeError) as error:
        first_line = str(error).splitlines()[0]
        raise UserError(f"{path} is not an infer_cfg.yml ({first_line}); export the model again") from error
    if arch not in ARCHITECTURES:
        raise UserError(f"{path}: architecture {arch!r} is not one of {', '.join(ARCHITECTURES)}")
    return entries
