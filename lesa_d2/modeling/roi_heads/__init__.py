"""Hybrid Task Cascade as RoI heads of detectron2."""

from .hybrid_task_cascade import HybridTaskCascadeHeads
from .mask_head import CascadeMaskHead
from .semantic_head import FusedSemanticHead

__all__ = ["CascadeMaskHead", "FusedSemanticHead", "HybridTaskCascadeHeads"]
