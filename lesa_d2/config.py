"""The yacs keys of LESA backbones."""

from detectron2.config import CfgNode


def add_lesa_config(cfg: CfgNode) -> None:
    """Add ``MODEL.LESA`` to a detectron2 config, in place, and register the backbones.

    Use it with ``MODEL.BACKBONE.NAME: build_lesa_resnet_fpn_backbone`` (or ``build_lesa_resnet_backbone``);
    the keys are the arguments of :func:`lesa_d2.modeling.build_lesa_resnet`.  Channels, norm, freezing and
    outputs come from detectron2's own keys ``MODEL.RESNETS`` and ``MODEL.BACKBONE``.
    """
    from . import checkpoint, modeling  # noqa: F401  (register lesa:// and the builders)

    cfg.MODEL.LESA = CfgNode(
        {
            "OPERATOR": "lesa",
            "WIDTH_MULTIPLIER": 1,
            "DEFORMABLE": False,
            "IMAGE_SIZE": [1024, 1024],  # (H, W) that the position tables are made for
            "NUM_HEADS": 8,
            "BLOCKS": [3, 4, 6, 3],
            "BACKEND": "auto",
            "CHECKPOINT_STAGES": [],
        }
    )
