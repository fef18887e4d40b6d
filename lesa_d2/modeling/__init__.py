"""Modules for detectron2; importing this registers the backbones and the addresses of weights with detectron2."""

from ..layers.registry import operator_names
from ..weights import register_addresses
from .classifier import ImageClassifier
from .exact_attention import use_exact_attention
from .initialisation import initialise
from .norm import NORMS, make_norm
from .rcnn import LesaRCNN, SemanticRCNN
from .resnet import (
    SlotBottleneck,
    build_lesa_resnet,
    build_lesa_resnet_backbone,
    build_lesa_resnet_fpn_backbone,
    build_retinanet_lesa_resnet_fpn_backbone,
    make_lesa_stages,
)
from .roi_heads import CascadeMaskHead, FusedSemanticHead, HybridTaskCascadeHeads
from .rpn import InsideRPN
from .statistics import estimate_statistics

register_addresses()

__all__ = [
    "NORMS",
    "CascadeMaskHead",
    "FusedSemanticHead",
    "HybridTaskCascadeHeads",
    "ImageClassifier",
    "InsideRPN",
    "LesaRCNN",
    "SemanticRCNN",
    "SlotBottleneck",
    "build_lesa_resnet",
    "build_lesa_resnet_backbone",
    "build_lesa_resnet_fpn_backbone",
    "build_retinanet_lesa_resnet_fpn_backbone",
    "estimate_statistics",
    "initialise",
    "make_lesa_stages",
    "make_norm",
    "operator_names",
    "use_exact_attention",
]
