"""How the weights of a model that no checkpoint gives start: as in detectron2, or as in the released code.

Most layers start alike in both.  Those that do not, by the standard deviation of their weights (f channels in, K
classes):

| layer | detectron2 | released |
|---|---|---|
| classifier's ``linear`` | 0.01, normal | 1/√(3f), uniform |
| laterals of the FPN, 256 channels out | 1/√f, uniform | √(2/(f + 256)), uniform |
| first layer of a box head, 12544 in and 1024 out | 1/√12544, uniform | √(2/(12544 + 1024)), uniform |
| last layer of a mask head | 0.001, normal | √(2/K), normal |
"""

import math
from collections.abc import Callable

from detectron2.modeling import FPN
from detectron2.modeling.backbone import ResNet
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, MaskRCNNConvUpsampleHead
from torch import nn

INITS = ("detectron2", "released")


def initialise(model: nn.Module, init: str = "detectron2") -> nn.Module:
    """Draw the weights anew, in place, that start otherwise than ``init`` says, and return the model.

    Args:
        model: as detectron2's modules have initialised it.
        init: "detectron2" leaves it as it is; "released" takes the spreads of the released code for classifiers, FPN,
            box and mask heads, as in the table above.

    Raises:
        ValueError: there is no such ``init``.
    """
    if init not in INITS:
        raise ValueError(f"init must be one of {', '.join(INITS)}, got {init!r}")
    if init == "released":
        for module in model.modules():
            for kind, start in _RELEASED.items():
                if isinstance(module, kind):
                    start(module)
    return model


def _start_linear(resnet: ResNet) -> None:
    if resnet.num_classes is not None:
        nn.init.kaiming_uniform_(resnet.linear.weight, a=math.sqrt(5))


def _start_pyramid(fpn: FPN) -> None:
    for conv in fpn.lateral_convs:
        nn.init.xavier_uniform_(conv.weight)


def _start_box_head(head: FastRCNNConvFCHead) -> None:
    for fc in head.fcs:
        nn.init.xavier_uniform_(fc.weight)


def _start_mask_head(head: MaskRCNNConvUpsampleHead) -> None:
    nn.init.kaiming_normal_(head.predictor.weight, mode="fan_out", nonlinearity="relu")


_RELEASED: dict[type[nn.Module], Callable] = {
    ResNet: _start_linear,
    FPN: _start_pyramid,
    FastRCNNConvFCHead: _start_box_head,
    MaskRCNNConvUpsampleHead: _start_mask_head,
}
