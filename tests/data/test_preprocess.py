"""The Preprocess list of exported models."""

from __future__ import annotations

import numpy as np
import pytest
from transform_samples import context, encoded, noise_image, sample

from ppdet_repro.data.transform import preprocess
from ppdet_repro.data.transform.base import Compose
from ppdet_repro.data.transform.decode import Decode
from ppdet_repro.data.transform.geometry import RandomFlip
from ppdet_repro.data.transform.normalize import NormalizeImage, Permute
from ppdet_repro.data.transform.pad import Pad, PadBatch
from ppdet_repro.data.transform.resize import Resize
from ppdet_repro.utils.errors import UserError

READER = [Decode(), Resize([32, 48], keep_ratio=True, interp=2), NormalizeImage(), Permute(), PadBatch(32)]
ITEMS = [
    {"type": "Resize", "target_size": [32, 48], "keep_ratio": True, "interp": 2},
    {
        "type": "NormalizeImage",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "is_scale": True,
        "norm_type": "mean_std",
    },
    {"type": "Permute"},
    {"type": "PadStride", "stride": 32},
]


def test_a_readers_transforms_as_a_preprocess_list():
    assert preprocess.to_list(READER) == ITEMS
    fixed = preprocess.to_list(READER, image_shape=[3, 64, 96], fuse_normalize=True)
    padding = {"type": "Pad", "size": [64, 96], "fill_value": [0.0, 0.0, 0.0]}
    assert fixed == [{**ITEMS[0], "target_size": [64, 96]}, padding, {"type": "Permute"}]
    assert preprocess.to_list(READER, image_shape=[3, -1, -1]) == ITEMS
    with pytest.raises(UserError, match="RandomFlip cannot be exported"):
        preprocess.to_list([*READER, RandomFlip()])


def test_deployment_prepares_images_as_evaluation_does(tmp_path):
    image = noise_image(20, 40)
    path = tmp_path / "a.png"
    path.write_bytes(encoded(".png", image))
    inputs = preprocess.from_list(ITEMS)([str(path), noise_image(40, 20, 1)])
    samples = [Compose(READER[:-1])({"image": each}, context()) for each in (image, noise_image(40, 20, 1))]
    samples = PadBatch(32)(samples, context())
    np.testing.assert_array_equal(inputs.image, np.stack([each["image"] for each in samples]))
    assert inputs.image.dtype == np.float32 and inputs.image.shape == (2, 3, 64, 64)
    # min(32/20, 48/40) = 1.2: 24 x 48 and 48 x 24
    assert inputs.im_shape.tolist() == [[24, 48], [48, 24]]
    np.testing.assert_allclose(inputs.scale_factor, 1.2, rtol=1e-6)


def test_deployment_scales_both_sides_alike_where_evaluation_makes_whole_pixels():
    inputs = preprocess.from_list([{"type": "Resize", "target_size": [40, 60]}, {"type": "Permute"}])(
        [noise_image(29, 50)]
    )
    expected = Resize([40, 60], True, one_scale=True)(sample(noise_image(29, 50)), context())
    np.testing.assert_array_equal(inputs.image[0], expected["image"].transpose(2, 0, 1))
    np.testing.assert_allclose(inputs.scale_factor, [[1.2, 1.2]], rtol=1e-6)
    assert inputs.im_shape.tolist() == [[35, 60]]


def test_a_letterbox_in_deployment():
    letterbox = [Resize([32, 32], keep_ratio=True), Pad([32, 32], [128, 128, 128]), NormalizeImage(), Permute()]
    items = preprocess.to_list(letterbox)
    assert items[1] == {"type": "Pad", "size": [32, 32], "fill_value": [128, 128, 128]}
    assert preprocess.to_list(letterbox, image_shape=[3, 64, 64])[1]["size"] == [64, 64]
    inputs = preprocess.from_list(items)([noise_image(20, 40)])
    expected = Compose(letterbox)(sample(noise_image(20, 40)), context())
    np.testing.assert_array_equal(inputs.image[0], expected["image"])
    assert inputs.im_shape.tolist() == [[16, 32]]


def test_deployment_pads_different_sizes_even_without_being_told():
    resize_only = preprocess.from_list([{"type": "Resize", "target_size": 16}, {"type": "Permute"}])
    assert resize_only([noise_image(8, 16), noise_image(16, 8)]).image.shape == (2, 3, 16, 16)


@pytest.mark.parametrize(
    "item, message",
    [
        ({"type": "WarpAffine"}, "'WarpAffine' in Preprocess; known types are Resize"),
        ({"type": "Resize", "size": 3}, r"Resize has unknown keys \['size'\]"),
        ({"type": "Resize"}, "needs a target_size"),
        ({"type": "Pad"}, "Pad needs a size"),
    ],
)
def test_a_preprocess_list_is_checked(item, message):
    with pytest.raises(UserError, match=f"model.yml: .*{message}"):
        preprocess.from_list([item], source="model.yml")
