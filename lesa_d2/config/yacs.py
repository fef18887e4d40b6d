"""yacs configs, and loading of a config of either kind."""

import io
from collections.abc import Sequence
from typing import Any

import yaml
from detectron2.config import CfgNode, get_cfg
from omegaconf import DictConfig

from ..errors import ConfigError, shortened
from .lazy import config_path, load_config
from .overrides import read_value, split_override
from .yaml_form import plain, read_mapping


def add_lesa_config(cfg: CfgNode) -> None:
    """Add ``MODEL.LESA`` to a detectron2 config, in place, and register the backbones.

    Use it with ``MODEL.BACKBONE.NAME: build_lesa_resnet_fpn_backbone``, for RetinaNet and FCOS
    ``build_retinanet_lesa_resnet_fpn_backbone``, or ``build_lesa_resnet_backbone`` without FPN.
    The keys are the arguments of :func:`lesa_d2.modeling.build_lesa_resnet`.  Channels, norm, freezing and
    outputs come from detectron2's own keys ``MODEL.RESNETS`` and ``MODEL.BACKBONE``.  ``INIT`` is read by the
    meta-architecture ``LesaRCNN``: how weights start that no checkpoint gives.
    """
    from .. import modeling  # noqa: F401  (registers addresses of weights and the builders)

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
            "INIT": "detectron2",  # or "released", for MODEL.META_ARCHITECTURE "LesaRCNN"
        }
    )


class _SafeNode(CfgNode):
    """Read files, those that they name as ``_BASE_`` too, without running anything of them."""

    @classmethod
    def _open_cfg(cls, filename: str) -> io.StringIO:
        """Return the content as plain YAML; detectron2 opens every file by this function."""
        return io.StringIO(yaml.safe_dump(plain(read_mapping(filename))))


def load_any_config(file: str, overrides: Sequence[str] = ()) -> DictConfig | CfgNode:
    """Load a LazyConfig or, if ``file`` is a yacs config, a CfgNode, and apply overrides.

    Args:
        file: as for :func:`load_config`.
        overrides: as for :func:`load_config`; keys of yacs are ``MODEL.LESA.OPERATOR`` and so on.

    Raises:
        ConfigError: there is no such config, or an override does not fit it.
    """
    path = config_path(file)
    is_yacs = path.endswith((".yaml", ".yml")) and "model" not in read_mapping(path)  # of a saved LazyConfig
    return load_yacs_config(path, overrides) if is_yacs else load_config(path, overrides)


def load_yacs_config(file: str, overrides: Sequence[str] = ()) -> CfgNode:
    """Load the defaults of detectron2 and of this package, then the file, then apply ``KEY=VALUE`` overrides.

    Raises:
        ConfigError: the file or an override does not fit the known keys and their types.
    """
    defaults = get_cfg()
    add_lesa_config(defaults)
    read = _SafeNode(defaults)
    try:
        read.merge_from_file(file, allow_unsafe=False)
    except ConfigError:
        raise
    except Exception as error:  # yacs raises AssertionError, and YAML its own errors
        raise ConfigError(
            f"config file {file!r} cannot be loaded: {type(error).__name__}: {shortened(error)}"
        ) from error
    cfg = CfgNode(read)  # yacs refuses to merge nodes of other classes
    for override in overrides:
        key, text = split_override(override)
        value = read_value(key, text, _is_text if _is_text(_value(cfg, key)) else None)
        try:
            # yacs takes a text for Python, which has to be the text in quotes
            cfg.merge_from_list([key, repr(value) if isinstance(value, str) else value])
        except Exception as error:
            raise ConfigError(f"cannot apply the override {override!r}: {shortened(error)}") from error
    return cfg


def _value(cfg: CfgNode, key: str) -> Any:
    """Return the value of a key; None if there is none."""
    node: Any = cfg
    for name in key.split("."):
        node = node.get(name) if isinstance(node, CfgNode) else None
    return node


def _is_text(value: Any) -> bool:
    return isinstance(value, str)
