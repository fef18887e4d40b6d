"""The backbone of all COCO detectors, and the pictures it sees."""

from detectron2.config import LazyCall as L

from lesa_d2.modeling import build_lesa_resnet

bottom_up = L(build_lesa_resnet)(
    operator="lesa",
    width_multiplier=1,
    deformable=False,
    image_size=1024,
    norm="EvalBN",  # stored statistics, trainable affine part; detectron2's FrozenBN would not train it
    freeze_at=2,  # stem and res2
    out_features=["res2", "res3", "res4", "res5"],
    checkpoint_stages=[],  # stages that compute their maps again in the backward pass, such as [res4, res5]
)

# Our weights see RGB with ImageNet's mean and deviation; detectron2's default is BGR with deviation 1.
preprocessing = dict(
    input_format="RGB",
    pixel_mean=[123.675, 116.28, 103.53],
    pixel_std=[58.395, 57.12, 57.375],
)
