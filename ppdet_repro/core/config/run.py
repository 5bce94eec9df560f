"""The run settings: every top-level key of a config that is not a component."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Optional, Union

UNSUPPORTED_HARDWARE = ("use_xpu", "use_mlu", "use_npu")
COUNTS = ("num_classes", "log_iter", "snapshot_epoch", "checkpoints_kept", "accumulate_steps", "base_batch_size")
AT_LEAST = {"epoch": 0, "worker_num": 0, "seed": 0, "early_stop": 1, "schedule_epochs": 1, **dict.fromkeys(COUNTS, 1)}

# Keys that PaddleDetection's files contain and that change nothing in this package, with the reason: run settings by
# their name, parameters of components as Component.parameter. A config that gives one loads with a line in the log.
NO_EFFECT = {
    "data_format": "all tensors have the layout NCHW",
    "export_onnx": "ppdet-repro export --target onnx writes ONNX files",
    "find_unused_parameters": "parameters without a gradient are always allowed",
    "master_grad": "it belongs to amp_level O2; with O1 gradients are float32 already",
    "pruner": "slim: DistillPrune always prunes with the section Pruner",
    "slim_method": "distill_loss names the method",
    "trt": "an export is the same for every engine; --run_mode=trt_fp16 runs it with TensorRT",
    "EvalReader.collate_batch": "evaluation never stacks ground truth",
    "EvalReader.fuse_normalize": "only exported models normalize inside the network",
    "GridMask.upper_iter": "the probability grows with the progress of training",
    "HRNet.downsample": "detectors take the four maps",
    "HRNet.upsample": "detectors take the four maps",
    "MultiClassNMS.cpu": "it runs on the device of the model",
    "MultiClassNMS.return_index": "all indices that are needed are computed",
    "MultiClassNMS.return_rois_num": "the number of boxes of each image is always returned",
    "MultiClassNMS.trt": "an export is the same for every engine",
    "PTQ.fuse_list": "all convolutions with a batch norm behind them are fused",
    "PTQ.output_dir": "--output_dir names the folder of the model",
    "PTQ.ptq_config.upsample_bins": "Paddle's static histogram always has 2048 bins",
    "QAT.quant_config.window_size": "activation ranges are moving averages without a window",
    "RandomResizeCrop.allow_no_crop": "an image without an acceptable crop is never cropped",
    "RandomResizeCrop.is_mask_crop": "boxes are cropped; there are no masks",
    "TestReader.collate_batch": "images for inference have no ground truth to stack",
    "TrainReader.fuse_normalize": "only exported models normalize inside the network",
    "TrainReader.inputs_def.num_max_boxes": "PadBox.num_max_boxes sets the number of boxes",
}


@dataclass(frozen=True)
class ExportSettings:
    """What an exported model contains."""

    post_process: bool = True  # decode boxes inside the exported model
    nms: bool = True  # suppress overlapping boxes inside an exported Paddle model
    onnx_nms: bool = False  # and inside an ONNX model; not Matrix NMS
    benchmark: bool = False  # export raw outputs only, to measure the network's speed
    fuse_conv_bn: bool = False  # fold batch norms into the convolutions before them
    padding: Literal["mean", "black"] = "mean"  # with fuse_normalize: 0 after normalization, or before it (black)


@dataclass(frozen=True)
class PaperRow:
    """What a paper says about the size of a config's network. `ppdet-repro info` compares it with the network's size.

    A config inherits the row of its base like any other setting, but only the config that `config` names is compared.
    """

    config: Optional[str] = None  # name of the config that the row describes, without .yml
    source: str = ""  # paper, table and row
    parameters: float = 0.0  # millions of parameters
    gflops: float = 0.0  # the paper's cost per image, in units of 1e9
    area: float = 0.0  # mean area of the network's inputs that the cost is for, in pixels
    inputs: str = ""  # which inputs these are, and where `area` is from
    operations: Literal[1, 2] = 1  # operations that the paper counts for a multiplication with an addition
    deformable: Literal["all", "parameters", "none"] = "all"  # what the paper counts of deformable convolutions
    binary: bool = False  # its M and G are 2^20 and 2^30
    network: str = ""  # how the paper's network differs from the config's
    overrides: List[str] = field(default_factory=list)  # what turns the config's network into the paper's
    remarks: str = ""  # what explains the rest of the difference


@dataclass(frozen=True)
class RunSettings:
    """The settings of a whole run. Names and defaults are PaddleDetection's where it has them."""

    # model
    architecture: Optional[str] = None  # the class of the detector
    num_classes: int = 80  # number of classes without background; shared with the components
    norm_type: str = "bn"  # bn or sync_bn; shared with the components
    data_format: Literal["NCHW"] = "NCHW"  # layout of tensors; no effect, see NO_EFFECT
    # weights and output
    pretrain_weights: Optional[str] = None  # weights that training starts from: a path, a URL, or package://NAME
    weights: Optional[str] = None  # path or URL of the weights for evaluation, inference and export
    save_dir: str = "output"  # folder for checkpoints, logs and results
    # hardware
    use_gpu: bool = False  # use a GPU if Paddle finds one, otherwise the CPU
    use_xpu: bool = False  # must be false
    use_mlu: bool = False  # must be false
    use_npu: bool = False  # must be false
    # training
    epoch: int = 0  # number of epochs
    scale_schedule: bool = False  # stretch what is counted in epochs over `epoch`: learning rate, phases, mixup_epoch
    schedule_epochs: Optional[int] = None  # length that these are written for; null: `epoch` where schedulers are
    log_iter: int = 20  # iterations between two lines in the log
    snapshot_epoch: int = 1  # epochs between two checkpoints, and between two evaluations with --eval
    checkpoints_kept: int = 3  # older checkpoints are deleted, except the best
    worker_num: int = 2  # data loading processes per trainer; 0: load in the training process
    seed: int = 0  # random seed
    base_batch_size: Optional[int] = None  # total batch size that base_lr is meant for; null: do not scale base_lr
    accumulate_steps: int = 1  # number of batches whose gradients are averaged for one update
    early_stop: Optional[int] = None  # stop after so many evaluations without a better metric; null: never
    eval_error: Literal["stop", "skip"] = "stop"  # what to do when an evaluation fails; its epoch is saved either way
    nan_action: Literal["stop", "skip"] = "stop"  # what to do when the loss is not finite
    # what computes the network in training on a CPU; auto: oneDNN, if it computes the same as Paddle
    cpu_kernels: Literal["paddle", "onednn", "auto"] = "auto"
    to_static: bool = False  # run backbone and neck as static graphs in training
    profiler_options: Optional[str] = None  # which updates paddle.profiler measures, such as "batch_range=[10, 20]"
    find_unused_parameters: bool = False  # no effect, see NO_EFFECT
    # mixed precision
    amp: bool = False  # train in mixed precision
    amp_level: Literal["O1", "O2"] = "O1"  # O1: listed operators in low precision; O2 (nearly all) is not supported
    amp_dtype: Literal["float16", "bfloat16"] = "float16"  # the low precision
    master_grad: bool = False  # no effect, see NO_EFFECT
    # exponential moving average (EMA) of the weights
    use_ema: bool = False  # evaluate and save the average instead of the weights themselves
    ema_decay: float = 0.9998  # decay of the average
    ema_decay_type: Literal["threshold", "normal", "exponential"] = "threshold"  # how the decay grows at the start
    cycle_epoch: int = -1  # restart the average after so many epochs; -1: never
    ema_black_list: Optional[List[str]] = None  # names of weights that are copied, not averaged
    ema_filter_no_grad: bool = False  # also copy weights that get no gradient
    # evaluation
    metric: Literal["COCO", "VOC"] = "COCO"  # which metric evaluates detections
    map_type: Literal["11point", "integral", "area"] = "11point"  # how VOC computes average precision
    classwise: bool = False  # report the metric of every class
    bias: int = 0  # 1: box coordinates in result files include the last pixel, width = x2 - x1 + 1
    test_scales: Optional[List[List[int]]] = None  # [short, long] sizes to evaluate and merge; null: EvalReader's size
    test_flip: bool = False  # also evaluate each size mirrored
    tide: bool = False  # report which kinds of errors cost most AP (TIDE)
    report: Optional[str] = None  # folder for report.html: curves, confusion matrix, worst images
    output_eval: Optional[str] = None  # folder for the result files of evaluation
    save_prediction_only: bool = False  # write the result files and compute no metric
    # reports
    paper: PaperRow = field(default_factory=PaperRow)  # what a paper says about the network's size
    print_flops: bool = False  # log the multiply-adds before training
    print_params: bool = False  # log the number of parameters before training
    logger: Optional[List[Literal["tensorboard", "mlflow"]]] = None  # programs to write curves for
    use_vdl: bool = False  # write curves for VisualDL
    vdl_log_dir: str = "vdl_log_dir/scalar"  # folder for these curves
    # slimming
    # int8 after training, int8 in training, distillation, pruning, distillation of a pruned student
    slim: Optional[Literal["PTQ", "QAT", "Distill", "Pruner", "Prune", "PrunerQAT", "DistillPrune"]] = None
    pruner: Optional[Literal["Pruner"]] = None  # no effect, see NO_EFFECT
    slim_method: Optional[Literal["CWD", "FGD"]] = None  # no effect, see NO_EFFECT
    distill_loss: Union[None, str, List[str]] = None  # the distillation losses' classes; several are added
    distill_loss_name: Optional[List[str]] = None  # names of feature maps in logs, one per pair; null: neck_f_0, ...
    # export
    export: ExportSettings = field(default_factory=ExportSettings)  # what an exported model contains
    exclude_nms: bool = False  # the same as export.nms: false
    export_onnx: bool = False  # no effect, see NO_EFFECT
    trt: bool = False  # no effect, see NO_EFFECT
    filename: Optional[str] = None  # name of the folders of this run and its export; null: that of the config

    @property
    def quantized(self) -> bool:
        """Whether the model computes with rounded values in training."""
        return self.slim in ("QAT", "PrunerQAT")
