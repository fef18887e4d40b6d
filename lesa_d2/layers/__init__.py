"""The operators of the slot and their parts; torch and torchvision only."""

from .baselines import AttentionAugmentation, SelfAttention, StaticLESA
from .deform import DeformableConv2d
from .inspection import InspectableAttention
from .lesa import LESA
from .norm import EvalBatchNorm2d
from .slot import SlotOperator

OPERATORS: dict[str, type[SlotOperator]] = {
    "self_attention": SelfAttention,
    "static_lesa": StaticLESA,
    "lesa": LESA,
    "attention_augmentation": AttentionAugmentation,
}

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
]
