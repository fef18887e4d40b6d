"""Mask R-CNN with FPN (detectron2's model zoo) on a LESA backbone."""

from detectron2 import model_zoo
from detectron2.config import LazyCall as L

from lesa_d2.modeling import build_lesa_resnet

model = model_zoo.get_config("common/models/mask_rcnn_fpn.py").model

model.backbone.bottom_up = L(build_lesa_resnet)(
    operator="lesa",
    width_multiplier=1,
    deformable=False,
    image_size=1024,
    norm="EvalBN",  # stored statistics, trainable affine part
    freeze_at=2,  # stem and res2
    out_features=["res2", "res3", "res4", "res5"],
)

# Our weights see RGB with ImageNet's mean and deviation.
model.input_format = "RGB"
model.pixel_mean = [123.675, 116.28, 103.53]
model.pixel_std = [58.395, 57.12, 57.375]
