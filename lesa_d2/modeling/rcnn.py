"""detectron2's two-stage detector for RoI heads that also learn from a label of every pixel."""

import torch
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.structures import ImageList
from torch import Tensor

from ..errors import DatasetError
from .roi_heads.semantic_head import IGNORE_LABEL


class LabelledImages(ImageList):
    """A batch of images with ``sem_seg`` (N, H, W) int64: the class of every pixel, padded like the images."""

    def __init__(self, images: ImageList, sem_seg: Tensor) -> None:
        super().__init__(images.tensor, images.image_sizes)
        self.sem_seg = sem_seg


@META_ARCH_REGISTRY.register()
class SemanticRCNN(GeneralizedRCNN):
    """GeneralizedRCNN whose RoI heads find the inputs' ``sem_seg`` at the images in training."""

    def preprocess_image(self, batched_inputs: list[dict]) -> ImageList:
        """Normalised, padded images; in training with their label maps.

        Raises:
            DatasetError: an input without label map, or with one of another size than its image.
        """
        images = super().preprocess_image(batched_inputs)
        return LabelledImages(images, self._label_maps(batched_inputs)) if self.training else images

    def _label_maps(self, batched_inputs: list[dict]) -> Tensor:
        maps = []
        for item in batched_inputs:
            size, name = tuple(item["image"].shape[-2:]), item.get("file_name", "an image")
            if "sem_seg" not in item:
                raise DatasetError(
                    f"{name} came without a stuff map (sem_seg), which the semantic branch learns from: register "
                    "the data set with stuff maps, or set model.roi_heads.semantic_head=null "
                    "model.roi_heads.semantic_pooler=null"
                )
            if tuple(item["sem_seg"].shape) != size:
                raise DatasetError(
                    f"{name}: the stuff map must have the image's size {size}, got {tuple(item['sem_seg'].shape)}"
                )
            maps.append(item["sem_seg"].to(self.device, torch.long))
        return ImageList.from_tensors(
            maps,
            self.backbone.size_divisibility,
            pad_value=IGNORE_LABEL,
            padding_constraints=self.backbone.padding_constraints,
        ).tensor
