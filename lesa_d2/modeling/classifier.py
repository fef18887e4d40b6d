"""Image classification with the very backbone that detectors use."""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.modeling.backbone import ResNet
from detectron2.utils.events import get_event_storage, has_event_storage
from torch import Tensor, nn
from torchvision.transforms import v2

from .initialisation import initialise


class ImageClassifier(nn.Module):
    """A classifier: normalisation, backbone with its ``linear``, and the loss.

    Args:
        backbone: :func:`build_lesa_resnet` with ``num_classes``.
        pixel_mean: a value a channel, for pixels of 0..255.
        pixel_std: a value a channel, for pixels of 0..255.
        input_format: "RGB" or "BGR"; of the pictures it is given, for whoever reads them.
        label_smoothing: share of the target that is spread over all classes.
        mixup: α of the Beta distribution that mixing weights are drawn from, 0 for none; with ``cutmix`` too,
            each batch gets one of the two.
        cutmix: as ``mixup``.
        init: how weights start, as in :func:`.initialise`.

    Raises:
        ValueError: a backbone without classifier, numbers out of range, or an unknown ``init``.
    """

    pixel_mean: Tensor
    pixel_std: Tensor

    def __init__(
        self,
        backbone: ResNet,
        *,
        pixel_mean: tuple[float, ...],
        pixel_std: tuple[float, ...],
        input_format: str = "RGB",
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        init: str = "detectron2",
    ) -> None:
        super().__init__()
        if backbone.num_classes is None:
            raise ValueError("a classifier needs num_classes: a backbone for detection has no linear layer")
        if not 0 <= label_smoothing < 1 or min(mixup, cutmix) < 0:
            raise ValueError(
                "label_smoothing must lie in [0, 1) and mixup, cutmix must not be negative, got "
                f"{label_smoothing}, {mixup}, {cutmix}"
            )
        if len(pixel_mean) != len(pixel_std):
            raise ValueError(
                "pixel_mean and pixel_std must have a value a channel each, got "
                f"{len(pixel_mean)} and {len(pixel_std)}"
            )
        self.backbone = backbone
        self.input_format = input_format
        self.label_smoothing = label_smoothing
        self.mix = _mixing(mixup, cutmix, backbone.num_classes)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), persistent=False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), persistent=False)
        initialise(self, init)

    def forward(self, batch: dict[str, Tensor]) -> Any:
        """Compute {"image": (N, 3, H, W) uint8, "label": (N,)} -> losses by name in training, else logits (N, K)."""
        images = self.preprocess(batch)
        if not self.training:
            return self.backbone(images)["linear"]
        labels = batch["label"].to(images.device, non_blocking=True)
        mixed, targets = (images, labels) if self.mix is None else self.mix(images, labels)
        logits = self.backbone(mixed)["linear"].float()
        if has_event_storage():
            hits = (logits.detach().argmax(1) == labels).float().mean()  # of the unmixed labels
            get_event_storage().put_scalar("train_top1", 100 * hits)
        return {"loss_cls": F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)}

    def preprocess(self, batch: dict[str, Tensor]) -> Tensor:
        """Return the batch's images (N, 3, H, W), normalised, on the model's device."""
        images = batch["image"].to(self.pixel_mean.device, non_blocking=True)
        return (images - self.pixel_mean) / self.pixel_std


def _mixing(mixup: float, cutmix: float, num_classes: int) -> nn.Module | None:
    chosen: list[nn.Module] = []
    if mixup:
        chosen.append(v2.MixUp(alpha=float(mixup), num_classes=num_classes))
    if cutmix:
        chosen.append(v2.CutMix(alpha=float(cutmix), num_classes=num_classes))
    return v2.RandomChoice(chosen) if chosen else None
