"""What the quick start's classifier and detectors share: a network for two CPU cores, and its optimizer."""

import torch
from detectron2.config import LazyCall as L
from detectron2.solver.build import get_default_optimizer_params

# About a third of ResNet-50's width and few blocks; norms use batch statistics and nothing is frozen.
small_backbone = dict(base_channels=24, stem_channels=32, blocks=[2, 2, 3, 2], norm="BN", freeze_at=0)

optimizer = L(torch.optim.AdamW)(
    params=L(get_default_optimizer_params)(base_lr="${..lr}", weight_decay_norm=0.0),
    lr=1e-3,
    betas=[0.9, 0.99],
    weight_decay=0.05,
    fused=True,
)
