"""Read stuff maps, which have a class for every pixel, from PNG files beside the objects of COCO."""

import os
from functools import partial
from pathlib import PurePath

from detectron2.data import DatasetCatalog, DatasetMapper, MetadataCatalog
from detectron2.utils.file_io import PathManager

from ..errors import WITHOUT_SEMANTICS, DatasetError
from .pictures import PictureError, open_picture
from .registration import register_dataset

IGNORE_LABEL = 255  # a map's value where there is no label

STUFF_FILE = "sem_seg_file_name"
"""The key of a record for its map, by detectron2's name."""


def coco_with_stuff_maps(name: str, folder: str) -> str:
    """Register a data set with a stuff map for every image, and return the new name, ``NAME_stuff``.

    A LazyConfig node:
    ``names=L(coco_with_stuff_maps)(name="coco_2017_train", folder="coco/stuffthingmaps/train2017")``.

    Args:
        name: of a registered data set.
        folder: has a PNG with the name of each image, under ``$DETECTRON2_DATASETS`` (default ``./datasets``)
            unless it is absolute.  The 8-bit grey values are classes, 255 is no label.

    Raises:
        DatasetError: the data set is not registered; on loading, images without a map.
    """
    if name not in DatasetCatalog:
        raise DatasetError(
            f"data set {name!r} is not registered with detectron2, so it cannot get stuff maps"
        )
    root = os.path.join(os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets")), folder)
    metadata = {k: v for k, v in MetadataCatalog.get(name).as_dict().items() if k != "name"}
    return register_dataset(
        f"{name}_stuff",
        partial(_with_maps, name, root),
        **{**metadata, "sem_seg_root": root, "ignore_label": IGNORE_LABEL},
    )


def _with_maps(name: str, root: str) -> list[dict]:
    """Return the records of a data set, each with its map."""
    records = DatasetCatalog.get(name)
    present = set(PathManager.ls(root)) if PathManager.isdir(root) else set()
    files = [PurePath(record["file_name"]).stem + ".png" for record in records]
    if missing := [file for file in files if file not in present]:
        raise DatasetError(
            f"{len(missing)} of {len(files)} images of {name!r} have no stuff map, the first is "
            f"{os.path.join(root, missing[0])}; COCO's are in stuffthingmaps_trainval2017.zip of "
            f"COCO-Stuff; to train without the semantic branch: {WITHOUT_SEMANTICS} "
            f"dataloader.train.dataset.names={name}"
        )
    return [
        {**record, STUFF_FILE: os.path.join(root, file)} for record, file in zip(records, files, strict=True)
    ]


class StuffMapper(DatasetMapper):
    """Map records as DatasetMapper does, check their stuff maps, and name the file of a label map in the result.

    Raises:
        DatasetError: names the map that is missing, unreadable, of another size or kind.
    """

    def __call__(self, dataset_dict: dict) -> dict:
        """Check the stuff map of a record, and map the record."""
        file = dataset_dict.get(STUFF_FILE)
        if file is None:  # a semantic branch of the detector reports that it is missing
            return super().__call__(dataset_dict)
        check_stuff_map(file, dataset_dict["height"], dataset_dict["width"])
        return {**super().__call__(dataset_dict), STUFF_FILE: file}


def check_stuff_map(file: str, height: int, width: int) -> None:
    """Check that ``file`` is a map of 8-bit grey values of this size.

    Raises:
        DatasetError: it is missing, unreadable, or of another size or kind.
    """
    expected = f"expected a PNG of 8-bit grey values, {width}×{height} pixels like its image"
    try:
        with open_picture(file) as image:
            mode, size = image.mode, image.size
            image.load()
    except PictureError as error:
        raise DatasetError(f"stuff map {error}; {expected}") from error
    if mode != "L" or size != (width, height):
        raise DatasetError(f"stuff map {file}: {expected}, got mode {mode}, {size[0]}×{size[1]} pixels")
