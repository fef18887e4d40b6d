"""The small backbone of the quick start: a network for two CPU cores, for classifier and detector alike."""

# About a third of ResNet-50's width and few blocks; norms use batch statistics and nothing is frozen.
small_backbone = dict(base_channels=24, stem_channels=32, blocks=[2, 2, 3, 2], norm="BN", freeze_at=0)
