"""Names in PaddleDetection's configs that this package has not, and why.

A config that is built on one of them is refused in one line, instead of a line for each of its unknown keys.
"""

from __future__ import annotations

from typing import Any, Dict, Mapping, NamedTuple, Optional

from ppdet_repro.core.config import components
from ppdet_repro.core.config.document import Node, Origin, part_form

CHOOSERS = ("architecture", "metric", "ssod_method")  # keys whose values are such names
DATASETS = ("TrainDataset", "EvalDataset", "TestDataset")

SNIPER = (
    "SNIPER's training on chips of image pyramids is not in this package; train on slices, which tools/slice_image.py "
    "cuts, and evaluate with --slice_infer"
)
SEMI_SUPERVISED = "semi-supervised training is not in this package; train on the labeled images with COCODataSet"
TRACKING = "this package detects objects in single images and does not track them; take the config of a detector"
TRACKED = (
    "this section is for tracking, which is not in this package; the detector can be trained without EvalMOTDataset "
    "and TestMOTDataset"
)
KEYPOINTS = "this package finds boxes, not keypoints or bodies"
ROTATED = "this package finds boxes along the axes of the image, not rotated ones"
MASKS = "this package finds boxes, not masks"
LANES = "this package finds boxes, not lanes"
DETECTORS = "this detector is not in this package, which has PP-YOLO, RetinaNet, SAPD, TTFNet, YOLOF and YOLOv3"
TARGETS = "it makes the training targets of a detector that is not in this package"
WIDERFACE = "convert WIDER FACE with tools/x2coco.py, and take metric: COCO and COCODataSet"

FAMILIES: Dict[str, str] = {  # why -> the names; the first family that a config names is reported
    SNIPER: "SNIPERCOCO SniperCOCODataSet SniperDecodeCrop",
    SEMI_SUPERVISED: "SemiCOCODataSet SemiTrainReader UnsupTrainDataset BatchRandomResizeForSSOD DenseTeacher "
    "ARSL_FCOS DETR_SSOD FCOSHeadR",
    TRACKING: "DeepSORT ByteTrack FairMOT JDE CenterTrack MOT MCMOT MOTDet KITTI MOTDataSet MCMOTDataSet",
    TRACKED: "EvalMOTDataset TestMOTDataset",
    KEYPOINTS: "TopDownHRNet HigherHRNet VitPose_TopDown TinyPose3DHRNet TinyPose3DHRHeatmapNet METRO_Body PETR "
    "KeyPointTopDownCOCOEval KeyPointTopDownMPIIEval KeyPointTopDownCOCOWholeBadyHandEval Pose3DEval TopDownAffine "
    "TopDownEvalAffine RandomFlipHalfBodyTransform ToHeatmapsTopDown_DARK",
    ROTATED: "S2ANet RBOX FCOSRHead PPYOLOERHead",
    MASKS: "MaskRCNN SOLOv2 QueryInst",
    LANES: "CLRNet CULaneMetric CULaneDataSet",
    WIDERFACE: "WiderFace WIDERFaceDataSet",
    DETECTORS: "FasterRCNN CascadeRCNN PPYOLOE PPYOLOEWithAuxHead PPYOLOEHead PicoDet PicoHead PicoHeadV2 OTAHead "
    "OTAVFLHead GFL GFLHead LDGFLHead FCOS FCOSHead TOOD TOODHead SSD SSDHead BlazeFace YOLOX YOLOXHead CenterNet DETR "
    "SparseRCNN YOLOv5Head YOLOv7Head YOLOv8Head",
    TARGETS: "PadGT PadRGT Gt2FCOSTarget Gt2GFLTarget Gt2Solov2Target Gt2SparseTarget Gt2CenterNetTarget "
    "Gt2CenterTrackTarget",
}
REASONS: Dict[str, str] = {name: why for why, names in FAMILIES.items() for name in names.split()}


class Absent(NamedTuple):
    """A name that a config is built on and that is not in this package."""

    name: str
    why: str
    origin: Optional[Origin]


def find_absent(top: Mapping[Any, Node]) -> Optional[Absent]:
    """The name among the sections, the datasets and the choices of a document that says best why it cannot be used."""
    named = [(key, node.origin) for key, node in top.items()]
    named += [(top[key].value, top[key].origin) for key in CHOOSERS if key in top]
    for key in DATASETS:
        form = part_form(top[key]) if key in top else None
        if form is not None:
            named.append((form.name, top[key].origin))
    found = [Absent(name, why, origin) for name, origin in named if (why := reason(name))]
    order = list(FAMILIES)
    return min(found, key=lambda absent: order.index(absent.why), default=None)


def reason(name: Any) -> Optional[str]:
    """Why a name of PaddleDetection is not in this package; None if it is no such name, or a program registered it."""
    why = REASONS.get(name) if isinstance(name, str) else None
    return why if why and components.find(name) is None else None
