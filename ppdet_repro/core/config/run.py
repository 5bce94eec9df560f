"""The run settings: every top-level key of a config that is not a component."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import List, Literal, Optional

UNSUPPORTED_HARDWARE = ("use_xpu", "use_mlu", "use_npu")
AT_LEAST = {
    "epoch": 0,
    "num_classes": 1,
    "log_iter": 1,
    "snapshot_epoch": 1,
    "checkpoints_kept": 1,
    "worker_num": 0,
    "accumulate_steps": 1,
    "base_batch_size": 1,
    "early_stop": 1,
    "seed": 0,
}


@dataclass(frozen=True)
class ExportSettings:
    """What an exported model contains."""

    post_process: bool = True  # decode boxes inside the exported model
    nms: bool = True  # suppress overlapping boxes inside the exported model
    benchmark: bool = False  # export raw outputs only, to measure the network's speed
    fuse_conv_bn: bool = False  # fold batch norms into the convolutions before them


@dataclass(frozen=True)
class RunSettings:
    """One typed object for a whole run; names and defaults are PaddleDetection's where it has them."""

    # what
    architecture: Optional[str] = None  # the detector's class
    num_classes: int = 80  # classes without background; also shared with the components
    norm_type: str = "bn"  # bn or sync_bn; also shared with the components
    data_format: Literal["NCHW"] = "NCHW"  # layout of tensors; also shared with the components
    # weights and output
    pretrain_weights: Optional[str] = None  # path or URL that training starts from
    weights: Optional[str] = None  # path or URL that evaluation, inference and export use
    save_dir: str = "output"  # where checkpoints, logs and results go
    # hardware
    use_gpu: bool = False  # on a GPU if Paddle was built for one; else on the CPU
    use_xpu: bool = False  # accepted, must stay false
    use_mlu: bool = False  # accepted, must stay false
    use_npu: bool = False  # accepted, must stay false
    # training
    epoch: int = 0  # passes over the training set
    log_iter: int = 20  # a line in the log every so many iterations
    snapshot_epoch: int = 1  # a checkpoint, and an evaluation where asked, every so many epochs
    checkpoints_kept: int = 3  # older ones are deleted, but the best stays
    worker_num: int = 2  # data loading processes a trainer; 0 loads in the training process
    seed: int = 0  # of everything random
    base_batch_size: Optional[int] = None  # total batch that base_lr is for; null: any
    accumulate_steps: int = 1  # batches whose gradients are averaged into one update
    early_stop: Optional[int] = None  # evaluations without a better metric after which training ends
    nan_action: Literal["stop", "skip"] = "stop"  # on a loss that is not finite
    find_unused_parameters: bool = False  # distributed: some parameters may get no gradient
    # mixed precision
    amp: bool = False  # train in mixed precision
    amp_level: Literal["O1", "O2"] = "O1"  # O1: listed operators in low precision; O2: nearly all
    amp_dtype: Literal["float16", "bfloat16"] = "float16"  # the low precision
    master_grad: bool = False  # O2: gradients in float32
    # moving average of the weights
    use_ema: bool = False  # evaluate and save an exponential moving average
    ema_decay: float = 0.9998  # its decay
    ema_decay_type: Literal["threshold", "normal", "exponential"] = "threshold"  # how the decay starts
    cycle_epoch: int = -1  # restart the average every so many epochs; -1: never
    ema_black_list: Optional[List[str]] = None  # names of weights that are copied, not averaged
    ema_filter_no_grad: bool = False  # copy weights without gradient, too
    # evaluation
    metric: Literal["COCO", "VOC"] = "COCO"  # how detections are judged
    map_type: Literal["11point", "integral", "area"] = "11point"  # VOC: the number of a curve (`metrics/voc.py`)
    classwise: bool = False  # report every class
    bias: int = 0  # 1: result boxes count pixels inclusively, width = x2 - x1 + 1
    test_scales: Optional[List[List[int]]] = None  # evaluate at these [short, long] sides together; null: EvalReader's
    test_flip: bool = False  # and at each of them mirrored
    tide: bool = False  # name the errors that cost most (TIDE)
    report: Optional[str] = None  # folder for report.html: curves, confusions, worst images
    output_eval: Optional[str] = None  # folder for the detections that evaluation writes
    save_prediction_only: bool = False  # write the detections and compute no metric
    # reports
    print_flops: bool = False  # multiply-adds, before training
    print_params: bool = False  # number of parameters, before training
    use_vdl: bool = False  # curves for VisualDL
    vdl_log_dir: str = "vdl_log_dir/scalar"  # where the curves go
    # slimming
    slim: Optional[Literal["PTQ", "QAT", "Distill"]] = None  # int8 of a trained model, int8 in training, or a teacher
    slim_method: Optional[Literal["CWD", "FGD"]] = None  # accepted; distill_loss says it
    distill_loss: Optional[str] = None  # the class of the loss between a teacher's feature maps and the model's
    distill_loss_name: Optional[List[str]] = None  # what it is called in logs for each map; null: neck_f_0, ...
    # export
    export: ExportSettings = field(default_factory=ExportSettings)  # what an exported model contains
