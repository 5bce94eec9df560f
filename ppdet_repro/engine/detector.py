"""`Detector`: a trained or exported model behind one method, for programs in Python."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Union

import numpy as np

from ppdet_repro.core.config import Config, build, load_config
from ppdet_repro.data.source.image_folder import find_images
from ppdet_repro.runtime.engines import open_pipeline
from ppdet_repro.runtime.model_folder import open_model_folder
from ppdet_repro.runtime.options import DEVICES, ENGINES, RUN_MODES, build_parser
from ppdet_repro.runtime.pipeline import Pipeline, batched
from ppdet_repro.runtime.result import Result
from ppdet_repro.utils.errors import UserError
from ppdet_repro.utils.visualize import output_names

if TYPE_CHECKING:
    from paddle import nn

Image = Any  # a path, a folder, an array, or a PIL image


class Trained(NamedTuple):
    """A model in evaluation mode, and its config."""

    model: nn.Layer
    cfg: Config


class Detector:
    """A detector that is ready to predict. `Detector.load` makes one.

    Args:
        pipeline: Preprocessing and engine.
        class_names: The names of the model's classes.
        category_ids: Their ids in COCO's files.
        trained: The model and its config, if it is not an export.

    Example:
        >>> from ppdet_repro import Detector, build_model, load_config
        >>> import numpy as np, paddle
        >>> model = build_model(load_config("demo/yolof_demo.yml"))  # its weights are random
        >>> paddle.save(model.state_dict(), "demo.pdparams")
        >>> detector = Detector.load("demo/yolof_demo.yml", "demo.pdparams")
        >>> (result,) = detector.predict(np.zeros([96, 128, 3], np.uint8), threshold=0.9)
        >>> result
        Result(image_0.jpg: nothing)
    """

    def __init__(
        self,
        pipeline: Pipeline,
        class_names: Sequence[str],
        category_ids: Sequence[int],
        trained: Optional[Trained] = None,
    ):
        self.pipeline, self.trained = pipeline, trained
        self.class_names, self.category_ids = list(class_names), list(category_ids)

    @classmethod
    def load(
        cls,
        path: Union[str, Path],
        weights: Union[str, Path, None] = None,
        *,
        overrides: Sequence[str] = (),
        engine: str = "paddle",
        device: Optional[str] = None,
        run_mode: str = "paddle",
        cpu_threads: int = 1,
        offline: bool = False,
    ) -> Detector:
        """Load the folder of an exported model; or a config, with trained weights.

        UserError: the model, its weights or the engine cannot be loaded, or an argument is for the other kind of path.

        Args:
            path: A folder that `ppdet-repro export` wrote, or a YAML file, or the name of a packaged config.
            weights: For a config: the path or URL of its weights; by default its `weights`.
            overrides: For a config: values of the form `a.b.c=value`, as for -o.
            engine: For an export: paddle, onnxruntime, openvino, lite or tensorrt.
            device: cpu or gpu, for an export also xpu or npu; by default the config's `use_gpu`, or for an export cpu.
            run_mode: For an export on a GPU: paddle, trt_fp32, trt_fp16 or trt_int8.
            cpu_threads: For an export: the number of threads on a CPU.
            offline: Take weights that are a URL from the cache only.

        Example:
            >>> from ppdet_repro import Detector, build_model, export_model, load_config
            >>> cfg = load_config("demo/yolof_demo.yml")
            >>> folder = export_model(build_model(cfg), cfg)
            >>> len(Detector.load(folder).class_names)
            6
        """
        if Path(path).is_dir():
            if weights is not None or overrides:
                raise UserError(f"{path} is a folder, so an exported model: weights and overrides are for a config")
            return cls._exported(path, engine, device or "cpu", run_mode, cpu_threads)
        if engine != "paddle" or run_mode != "paddle":
            raise UserError(f"{path} is no folder: engine and run_mode are for an exported model")
        values = [] if weights is None else [f"weights={json.dumps(str(weights))}"]  # in quotes: a text in YAML
        if device is not None:
            require("device", device, ("cpu", "gpu"))
            values.append(f"use_gpu={device == 'gpu'}")
        return cls._of_config(load_config(path, [*overrides, *values]), offline)

    @classmethod
    def _exported(cls, path: Union[str, Path], engine: str, device: str, run_mode: str, threads: int) -> Detector:
        require("engine", engine, ENGINES)
        require("device", device, DEVICES)
        require("run_mode", run_mode, RUN_MODES)
        flags = build_parser().parse_args([f"--model_dir={path}"])
        flags.engine, flags.device, flags.run_mode, flags.cpu_threads = engine, device, run_mode, threads
        model = open_model_folder(path, engine=engine)
        return cls(open_pipeline(model, flags), model.labels, range(len(model.labels)))

    @classmethod
    def _of_config(cls, cfg: Config, offline: bool) -> Detector:
        from ppdet_repro.data.transform.preprocess import Preprocess
        from ppdet_repro.engine.distributed import start
        from ppdet_repro.engine.models import load_trained
        from ppdet_repro.engine.sliced import EagerEngine
        from ppdet_repro.slim.qat import note_simulation

        start(cfg.run.use_gpu)
        note_simulation(cfg.run.slim)
        model, dataset = load_trained(cfg, offline), build(cfg, "TestDataset")
        pipeline = Pipeline(Preprocess(build(cfg, "TestReader").preprocess), EagerEngine(model))
        return cls(pipeline, dataset.class_names, dataset.category_ids, Trained(model, cfg))

    def predict(
        self, images: Union[Image, Iterable[Image]], *, threshold: float = 0.5, batch_size: int = 1
    ) -> List[Result]:
        """Detect on one image or on many. Returns a result per image, also if there is only one.

        UserError: a file is missing or is not an image, a folder has no images, or an array is not an image.

        Args:
            images: The path of an image or of a folder, an array RGB [H, W, 3] uint8, a PIL image (its pixels as they
                are: a file's own orientation is only used for paths); or several of these, also as an array
                [B, H, W, 3].
            threshold: The lowest score of a box; 0 keeps all boxes of the model.
            batch_size: The number of images that the network processes at a time.

        Example:
            >>> from ppdet_repro import Detector, build_model, export_model, load_config
            >>> import numpy as np
            >>> cfg = load_config("demo/yolof_demo.yml")
            >>> detector = Detector.load(export_model(build_model(cfg), cfg))
            >>> [len(result) for result in detector.predict([np.zeros([96, 128, 3], np.uint8)] * 2, threshold=0.9)]
            [0, 0]
        """
        sources = list_sources(images)
        files = [source for source in sources if isinstance(source, str)]
        names = dict(zip(files, output_names(files)))
        results: List[Result] = []
        for found in self.pipeline.stream(batched(sources, batch_size)):
            for _, rows in found:
                source, number = sources[len(results)], len(results)
                kept = rows[rows[:, 1] >= threshold]
                kept = kept[np.argsort(-kept[:, 1], kind="stable")]
                name = names[source] if isinstance(source, str) else f"image_{number}.jpg"
                results.append(Result(kept, self.class_names, self.category_ids, source, name))
        return results

    def evaluate(self) -> Dict[str, float]:
        """The scores on the config's EvalDataset, such as `bbox_mAP`; see the function `evaluate`.

        UserError: the detector was loaded from an export, or the dataset does not fit it.

        Example:
            >>> from ppdet_repro import Detector, build_model, load_config
            >>> from ppdet_repro.data.source.synthetic import generate
            >>> import paddle
            >>> data = generate("data", train=1, val=2, size=(64, 64))
            >>> paddle.save(build_model(load_config("demo/yolof_demo.yml")).state_dict(), "demo.pdparams")
            >>> overrides = [f"EvalDataset.dataset_dir={data}", "worker_num=0"]
            >>> scores = Detector.load("demo/yolof_demo.yml", "demo.pdparams", overrides=overrides).evaluate()
            >>> round(scores["bbox_mAP"], 1)  # the weights are random
            0.0
        """
        from ppdet_repro.engine.evaluation.evaluate import evaluate

        return evaluate(*self._trained("evaluate"))

    def export(self, output_dir: Union[str, Path] = "output_inference", target: str = "paddle") -> Path:
        """Export the model into a new folder below `output_dir`, whose path is returned; see `export_model`.

        `target` is paddle, onnx or lite. UserError: the detector was loaded from an export, or exporting fails.

        Example:
            >>> from ppdet_repro import Detector, build_model, load_config
            >>> import paddle
            >>> paddle.save(build_model(load_config("demo/yolof_demo.yml")).state_dict(), "demo.pdparams")
            >>> Detector.load("demo/yolof_demo.yml", "demo.pdparams").export("exported").as_posix()
            'exported/yolof_demo'
        """
        from ppdet_repro.engine.export.export_model import export_model

        return export_model(*self._trained("export"), output_dir, target)

    def _trained(self, what: str) -> Trained:
        if self.trained is None:
            raise UserError(f"{what} needs a detector of a config and weights, not of an exported model")
        return self.trained


def require(name: str, value: str, choices: Sequence[str]) -> None:
    """UserError: an argument has none of the values that it can have."""
    if value not in choices:
        raise UserError(f"{name} {value!r} is not one of {', '.join(choices)}")


def list_sources(images: Union[Image, Iterable[Image]]) -> List[Union[str, np.ndarray]]:
    """The images that `Detector.predict` is given, as paths of files and arrays RGB [H, W, 3] uint8."""
    if isinstance(images, (str, Path)):
        files = find_images(str(images))
        if not files:
            raise UserError(f"there is no image in {images}")
        return list(files)
    if hasattr(images, "convert"):  # a PIL image
        return [np.asarray(images.convert("RGB"))]
    if isinstance(images, np.ndarray) and images.ndim != 4:
        if images.ndim != 3 or images.shape[2] != 3 or images.dtype != np.uint8 or not images.size:
            raise UserError(f"an array must be an RGB image [H, W, 3] of type uint8, not {images.dtype} {images.shape}")
        return [images]
    if not isinstance(images, Iterable):
        raise UserError(f"{type(images).__name__} is not an image: give a path, an array, a PIL image, or several")
    return [source for image in images for source in list_sources(image)]
