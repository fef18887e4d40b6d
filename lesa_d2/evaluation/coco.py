"""detectron2's COCO evaluator, which for test-dev also writes what COCO's server takes."""

import json
import os
import re
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

BOX, MASK = "bbox", "segmentation"


class CocoEvaluator(COCOEvaluator):
    """COCOEvaluator that keeps what it computed, and splits results without annotations for upload.

    COCO's server scores one kind at a time and takes a result with a box for a box.  Beside detectron2's
    ``coco_instances_results.json`` the output folder gets ``detections_SPLIT_bbox_results.json`` and, for
    detectors with masks, ``detections_SPLIT_segm_results.json``.

    Attributes:
        evaluations: after :meth:`evaluate`, on the main process: "bbox" and "segm" -> accumulated COCOeval;
            None where there was not a single detection; empty for data without annotations.
    """

    evaluations: dict[str, COCOeval | None]

    def __init__(self, dataset_name: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(dataset_name, *args, **kwargs)
        # coco_2017_test-dev is test-dev2017 to the server
        self._split = re.sub(r"^coco_(\d+)_(.+)$", r"\2\1", dataset_name)
        self.dataset_name = dataset_name
        self.evaluations = {}

    @property
    def truth(self) -> COCO:
        """The annotations that detections are scored against."""
        return self._coco_api

    def reset(self) -> None:
        super().reset()
        self.evaluations = {}

    def _derive_coco_results(
        self, coco_eval: COCOeval | None, iou_type: str, **kwargs: Any
    ) -> dict[str, float]:
        self.evaluations[iou_type] = coco_eval
        return super()._derive_coco_results(coco_eval, iou_type, **kwargs)

    def _eval_predictions(self, predictions: list[dict], img_ids: list[int] | None = None) -> None:
        super()._eval_predictions(predictions, img_ids)
        if self._do_evaluation or not self._output_dir:
            return
        with PathManager.open(os.path.join(self._output_dir, "coco_instances_results.json")) as file:
            results = json.load(file)
        for kind, key, other in (("bbox", BOX, MASK), ("segm", MASK, BOX)):
            # without any result nobody can tell whether the detector has masks: both files, then
            if kind == "bbox" or not results or any(MASK in result for result in results):
                self._write(kind, [{k: v for k, v in r.items() if k != other} for r in results if key in r])

    def _write(self, kind: str, results: list[dict]) -> None:
        path = os.path.join(self._output_dir, f"detections_{self._split}_{kind}_results.json")
        with PathManager.open(path, "w") as file:
            json.dump(results, file)
        self._logger.info("No annotations to score against; to upload: %s", path)
