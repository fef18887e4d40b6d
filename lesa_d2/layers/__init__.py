"""The operators of the slot and their modules; torch and torchvision only."""

from .baselines import AttentionAugmentation, SelfAttention, StaticLESA
from .deform import DeformableConv2d
from .inspection import InspectableAttention
from .lesa import LESA
from .norm import EvalBatchNorm2d
from .registry import OPERATORS, find_operator, operator_names, register_operator
from .slot import SlotOperator

register_operator("self_attention")(SelfAttention)
register_operator("static_lesa")(StaticLESA)
register_operator("lesa")(LESA)
register_operator("attention_augmentation")(AttentionAugmentation)

__all__ = [
    "LESA",
    "OPERATORS",
    "AttentionAugmentation",
    "DeformableConv2d",
    "EvalBatchNorm2d",
    "InspectableAttention",
    "SelfAttention",
    "SlotOperator",
    "StaticLESA",
    "find_operator",
    "operator_names",
    "register_operator",
]
