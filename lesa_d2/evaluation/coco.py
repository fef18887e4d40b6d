"""Evaluate by detectron2's COCO evaluator, and write files for COCO's server where there are no annotations."""

import json
import logging
import os
import re
from typing import Any

from detectron2.data import MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools.cocoeval import COCOeval

logger = logging.getLogger(__name__)

BOX, MASK = "bbox", "segmentation"


class CocoEvaluator(COCOEvaluator):
    """Evaluate as COCOEvaluator, keep what it computed, and split results without annotations for upload.

    COCO's server scores one kind at a time and takes a result with a box for a box.  Beside detectron2's
    ``coco_instances_results.json`` the output folder gets ``detections_SPLIT_bbox_results.json`` and, for
    detectors with masks, ``detections_SPLIT_segm_results.json``.

    Args:
        dataset_name: of a registered data set.
        tasks: "bbox", "segm", "keypoints"; None for those of the results.
        distributed: gather the results of all processes.
        output_dir: the folder for results; None to write none.
        options: further arguments of COCOEvaluator.

    Attributes:
        evaluations: after :meth:`evaluate`, on the main process: "bbox" and "segm" -> accumulated COCOeval;
            None where there was not a single detection; empty for data without annotations.
    """

    evaluations: dict[str, COCOeval | None]

    def __init__(
        self,
        dataset_name: str,
        tasks: Any = None,
        distributed: bool = True,
        output_dir: str | None = None,
        **options: Any,
    ) -> None:
        super().__init__(dataset_name, tasks, distributed, output_dir, **options)
        self.dataset_name, self.output_dir = dataset_name, output_dir
        self.evaluations = {}

    def reset(self) -> None:
        """Forget the results of an earlier evaluation."""
        super().reset()
        self.evaluations = {}

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, Any]:
        """Return the metrics on the main process; without annotations, write the files for upload."""
        metrics = super().evaluate(img_ids)
        if not metrics and comm.is_main_process() and self.output_dir and not self._has_annotations():
            results_file = os.path.join(self.output_dir, "coco_instances_results.json")
            if PathManager.isfile(results_file):
                with PathManager.open(results_file) as file:
                    self._split(json.load(file), self.output_dir)
        return metrics

    def _has_annotations(self) -> bool:
        with PathManager.open(MetadataCatalog.get(self.dataset_name).json_file) as file:
            return "annotations" in json.load(file)

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, **kwargs: Any
    ) -> dict[str, float]:
        self.evaluations[iou_type] = coco_eval  # no public method gets it
        return super()._derive_coco_results(coco_eval, iou_type, **kwargs)

    def _split(self, results: list[dict], folder: str) -> None:
        """Write a file for each kind of result."""
        split = re.sub(r"^coco_(\d+)_(.+)$", r"\2\1", self.dataset_name)  # test-dev2017 to the server
        for kind, key, other in (("bbox", BOX, MASK), ("segm", MASK, BOX)):
            # without any result nobody can tell whether the detector has masks: both files, then
            if kind == "bbox" or not results or any(MASK in result for result in results):
                path = os.path.join(folder, f"detections_{split}_{kind}_results.json")
                kept = [{k: v for k, v in r.items() if k != other} for r in results if key in r]
                with PathManager.open(path, "w") as file:
                    json.dump(kept, file)
                logger.info("No annotations to score against; to upload: %s", path)
