"""Evaluate by detectron2's COCO evaluator, and write files for COCO's server where there are no annotations."""

import json
import logging
import re
from pathlib import Path
from typing import Any

from detectron2.evaluation import COCOEvaluator
from detectron2.utils import comm
from pycocotools.cocoeval import COCOeval

from ..compat import keep_evaluations
from ..storage import whole_files, write_text

BOX, MASK = "bbox", "segmentation"

logger = logging.getLogger(__name__)


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
        max_dets_per_image: detections of a class in an image that AP counts, the most confident ones; None: 100.
        options: further arguments of COCOEvaluator.

    Attributes:
        evaluations: after :meth:`evaluate`, on the main process: "bbox" and "segm" -> accumulated COCOeval;
            None where there was not a single detection; empty for data without annotations.
    """

    evaluations: dict[str, COCOeval | None]

    def __init__(
        self,
        dataset_name: str,
        *args: Any,
        output_dir: str | None = None,
        max_dets_per_image: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            dataset_name, *args, output_dir=output_dir, max_dets_per_image=max_dets_per_image, **kwargs
        )
        self.dataset_name = dataset_name
        self.output_dir = output_dir
        self.evaluations = {}
        keep_evaluations(self, lambda kind, evaluation: self.evaluations.update({kind: evaluation}))

    def reset(self) -> None:
        """Forget the predictions and evaluations of an earlier data set."""
        super().reset()
        self.evaluations = {}

    def evaluate(self, img_ids: list[int] | None = None) -> dict[str, dict[str, float]]:
        """Return detectron2's metrics by kind; without annotations, write the files for upload instead."""
        if not self.output_dir or not comm.is_main_process():
            return super().evaluate(img_ids)
        with whole_files(self.output_dir) as folder:
            self._output_dir = str(folder)
            results = super().evaluate(img_ids)
        if not self.evaluations:
            file = Path(self.output_dir, "coco_instances_results.json")
            if file.is_file():
                self._split(json.loads(file.read_text(encoding="utf-8")), file.parent)
        return results

    def _split(self, results: list[dict], folder: Path) -> None:
        # coco_2017_test-dev is test-dev2017 to the server
        split = re.sub(r"^coco_(\d+)_(.+)$", r"\2\1", self.dataset_name)
        for kind, key, other in (("bbox", BOX, MASK), ("segm", MASK, BOX)):
            # without any result nobody can tell whether the detector has masks: both files, then
            if kind == "bbox" or not results or any(MASK in result for result in results):
                file = folder / f"detections_{split}_{kind}_results.json"
                of_kind = [{k: v for k, v in r.items() if k != other} for r in results if key in r]
                write_text(file, json.dumps(of_kind))
                logger.info("No annotations to score against; to upload: %s", file)
