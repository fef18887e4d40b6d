"""detectron2's two-stage detector with a choice of its start, and for heads that learn from a label of every pixel."""

from typing import Any

from detectron2.config import CfgNode, configurable
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor

from ..errors import WITHOUT_SEMANTICS, DatasetError
from .initialisation import initialise
from .roi_heads.semantic_head import FusedSemanticHead


class LabelledImages(ImageList):
    """A batch of images with ``sem_seg`` (N, H, W) int64: the class of each pixel, padded alike."""

    def __init__(self, images: ImageList, sem_seg: Tensor) -> None:
        super().__init__(images.tensor, images.image_sizes)
        self.sem_seg = sem_seg


@META_ARCH_REGISTRY.register()
class LesaRCNN(GeneralizedRCNN):
    """GeneralizedRCNN whose weights start as :func:`.initialise` does by ``init`` (yacs: ``MODEL.LESA.INIT``).

    All other arguments are those of detectron2's class, by name.
    """

    @configurable
    def __init__(self, *, init: str = "detectron2", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        initialise(self, init)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict[str, Any]:
        """Return the arguments that a yacs config gives."""
        return {**super().from_config(cfg), "init": cfg.MODEL.LESA.INIT}


class SemanticRCNN(LesaRCNN):
    """:class:`LesaRCNN` whose RoI heads get the inputs' ``sem_seg`` with the images in training."""

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalise and pad images; in training, return them with their label maps.

        Raises:
            DatasetError: an input without label map, of another size than its image, or with unknown labels.
        """
        images = super().preprocess_image(batched_inputs)
        head = getattr(self.roi_heads, "semantic_head", None)
        if not self.training or head is None:
            return images
        return LabelledImages(images, self._label_maps(batched_inputs, head))

    def _label_maps(self, batched_inputs: list[dict], head: FusedSemanticHead) -> Tensor:
        maps = [_label_map(item, head) for item in batched_inputs]
        return ImageList.from_tensors(
            [labels.to(self.device, non_blocking=True).long() for labels in maps],
            self.backbone.size_divisibility,
            pad_value=head.ignore_label,
            padding_constraints=self.backbone.padding_constraints,
        ).tensor


def _label_map(item: dict, head: FusedSemanticHead) -> Tensor:
    """Return the stuff map of a model input, (H, W).

    Raises:
        DatasetError: it does not fit the image or the classes.
    """
    name = item.get("sem_seg_file_name") or f"stuff map of {item.get('file_name', 'an image')}"
    labels, size = item.get("sem_seg"), tuple(item["image"].shape[-2:])
    if labels is None:
        raise DatasetError(
            f"{name}: the input has no sem_seg, which the semantic branch learns from; use a data set with "
            f"stuff maps and lesa_d2.data.StuffMapper, or set {WITHOUT_SEMANTICS}"
        )
    if tuple(labels.shape) != size:
        raise DatasetError(f"{name}: expected the size of its image, {size}, got {tuple(labels.shape)}")
    used = labels[labels != head.ignore_label]
    if used.numel() and not 0 <= used.min() <= used.max() < head.num_classes:
        raise DatasetError(
            f"{name}: expected labels of 0 to {head.num_classes - 1}, and {head.ignore_label} where there is "
            f"none, got {used.min()} to {used.max()}; model.roi_heads.semantic_head.num_classes must fit"
        )
    return labels
