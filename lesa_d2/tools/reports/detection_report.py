"""The report of a detector's evaluation: ``evaluation.md``, curves, confusions, the first, best and worst pictures.

It is made from the results of the evaluation; the model does not run again.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import Boxes, BoxMode, Instances
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tabulate import tabulate

from ...data.registration import readable_name, remarks_of
from ...data.statistics import limits_of_ap
from ...evaluation import CocoEvaluator
from ...evaluation.matching import (
    IOU,
    Counts,
    ImageMatches,
    best_threshold,
    by_quality,
    confusion_matrix,
    count,
    match_image,
    quality,
)
from ...storage import write_text
from .detection_plots import plot_confusion, plot_precision_recall
from .drawing import MOST_DRAWN
from .markdown import escaped
from .pictures import PHOTO_WIDTH, TILE_WIDTH, detections_tile, truth_tile, write_sheet

REPORT_FILE, CURVES_FILE, CONFUSION_FILE = "evaluation.md", "precision_recall.png", "confusion.png"
FIRST_FILE, BEST_FILE, WORST_FILE = "predictions.png", "best.png", "worst.png"
PICTURES = (CURVES_FILE, CONFUSION_FILE, FIRST_FILE, BEST_FILE, WORST_FILE)
FIRST = 12  # pictures on the sheet of the first ones
SHOWN = 6  # pictures on the other sheets
CONFUSIONS = 10  # pairs of classes that the report names
USABLE = 0.3  # least F1 of a model whose scores have a good threshold
KINDS = {"bbox": "box", "segm": "mask"}
NOT_USABLE = "**Not usable yet.**"
ADVICE = (
    "Train longer (train.max_iter), check the learning rate and data_samples.png, or label more pictures."
)
NO_PICTURES = (
    "Plots and pictures are drawn at the last evaluation; train.report.pictures=every draws them each time."
)


def write_detection_report(
    folder: str | Path,
    evaluator: CocoEvaluator,
    *,
    score_threshold: float | None = None,
    pictures: bool = True,
) -> str:
    """Write the report and its pictures into ``folder``, replacing earlier ones; return its text.

    Args:
        folder: an existing folder.
        evaluator: after its ``evaluate()``, on the main process.
        score_threshold: least score for everything except AP and AR; None takes the one with the best F1.
        pictures: also plots, and the first, the best and the worst pictures; else none is left in the folder.
    """
    folder = Path(folder)
    for name in PICTURES:
        (folder / name).unlink(missing_ok=True)
    title = readable_name(evaluator.dataset_name)
    evaluations = {kind: e for kind, e in evaluator.evaluations.items() if kind in KINDS}
    kept = {kind: e for kind, e in evaluations.items() if e is not None}
    if not evaluations:
        text = "The data set has no annotations, or nothing was evaluated: there is nothing to report."
    elif not kept:
        text = f"{NOT_USABLE} {no_detections(None)}"
    else:
        report = _Report(kept, evaluator.dataset_name, title, score_threshold)
        text = report.text(folder if pictures else None)
    text = f"# Evaluation on {escaped(title)}\n\n{text}"
    write_text(folder / REPORT_FILE, text + "\n")
    return text


class _Report:
    """Make the report from evaluations with detections; counts and curves are of masks where there are any.

    Args:
        evaluations: by kind.
        dataset_name: as registered.
        title: of the data set.
        threshold: given by the user; None for the best.
    """

    def __init__(
        self, evaluations: dict[str, COCOeval], dataset_name: str, title: str, threshold: float | None
    ) -> None:
        self.evaluations, self.dataset_name, self.title = evaluations, dataset_name, title
        self.evaluation = evaluations.get("segm") or evaluations["bbox"]
        self.kind = KINDS[self.evaluation.params.iouType]
        cats = self.evaluation.cocoGt.cats
        self.classes = [cats[i]["name"] for i in self.evaluation.params.catIds]
        self.matches = match_evaluation(self.evaluation)
        self.best = best_threshold(self.matches)
        self.best_f1 = self._at(self.best).f1
        self.is_given = threshold is not None
        self.threshold = self.best if threshold is None else threshold
        self.kept = [image.above(self.threshold) for image in self.matches]
        self.matrix = confusion_matrix(self.kept, len(self.classes))

    def _at(self, score: float) -> Counts:
        return count([image.above(score) for image in self.matches])

    def text(self, folder: Path | None) -> str:
        """Return the text; write the pictures into ``folder`` if there is one."""
        sections = [self.verdict(), metrics_table(self.evaluations, self.classes)]
        said = map(escaped, remarks_of([self.dataset_name]))
        if limits := [*said, *limits_of_ap(*_images(self.evaluation))]:
            sections += ["\n".join(f"- {limit}" for limit in limits)]
        if folder:
            curves = curves_at_half(self.evaluation)
            title = self._about("precision and recall")
            plot_precision_recall(*curves, self.classes, title, folder / CURVES_FILE)
        if not any(len(image.scores) for image in self.kept):
            highest = max(float(image.scores[0]) for image in self.matches if len(image.scores))
            return "\n\n".join([*sections, no_detections(self.threshold, highest)])
        sections.append(f"## At a score of at least {self.threshold:g}\n\n{self.counts()}")
        if worst := most_frequent_confusions(self.matrix, self.classes):
            sections.append("Most frequent confusions: " + "; ".join(worst) + ".")
        if folder:
            title = self._about("confusions", f", scores from {self.threshold:g}")
            plot_confusion(self.matrix, self.classes, title, folder / CONFUSION_FILE)
            sections.append(self._draw_sheets(folder))
        else:
            sections.append(NO_PICTURES)
        return "\n\n".join(sections)

    def _about(self, what: str, more: str = "") -> str:
        """Return the title of a plot or of a sheet of pictures."""
        return f"{self.title}: {what}, {self.kind} IoU from {IOU:g}{more}"

    def verdict(self) -> str:
        """Say whether any score is a good threshold."""
        if self.best_f1 >= USABLE:
            text = f"A good threshold of scores is **{self.best:g}**: it has the best F1, {self.best_f1:.2f}."
        elif self.best_f1:
            best = f"The best F1 of any threshold is {self.best_f1:.2f}, at a score of {self.best:g}."
            text = f"{NOT_USABLE} {best} {ADVICE}"
        else:
            text = f"{NOT_USABLE} Not a single detection is right, whatever the threshold. {ADVICE}"
        given = " Everything but AP and AR is at the threshold given (train.report.score_threshold)."
        return text + given * self.is_given

    def counts(self) -> str:
        """Describe how many detections and objects there are, and how many are right."""
        counts, classes = count(self.kept), self.matrix[:-1, :-1]
        wrong = int(classes.sum() - np.trace(classes))
        return (
            f"{counts.detections} detections of {counts.objects} objects, matched by {self.kind} IoU of at "
            f"least {IOU:g} whatever the classes: {counts.correct} right, {wrong} of the wrong class, "
            f"{self.matrix[-1].sum()} where nothing is (or is found twice), {self.matrix[:, -1].sum()} objects "
            f"missed. Precision {counts.precision:.2f}, recall {counts.recall:.2f}, F1 {counts.f1:.2f}."
        )

    def _draw_sheets(self, folder: Path) -> str:
        """Draw the first, the best and the worst pictures; return a text about the pictures of the report."""
        ranked = by_quality(self.kept)
        half = ranked[len(ranked) // 2 :]  # so that no picture of a small data set is on both sheets
        worst = ranked[:SHOWN] if len(ranked) >= 2 * SHOWN else ranked[: max(1, len(ranked) // 2)]
        sheets = (
            (FIRST_FILE, "the first pictures", self.kept[:FIRST], 4, TILE_WIDTH),
            (WORST_FILE, "worst pictures", worst, 3, PHOTO_WIDTH),
            (BEST_FILE, "best pictures", half[::-1][:SHOWN], 3, PHOTO_WIDTH),
        )
        records = {record["image_id"]: record for record in DatasetCatalog.get(self.dataset_name)}
        for file, what, images, columns, width in sheets:
            title = self._about(what, f", scores from {self.threshold:g}")
            tiles = [self._tile(image, records[image.image_id], width) for image in images]
            write_sheet(tiles, min(columns, len(images)), folder / file, title)
        return (
            f"Pictures: {CURVES_FILE}, {CONFUSION_FILE} (counts by class), {FIRST_FILE}, {BEST_FILE} and {WORST_FILE} "
            f"(truth above, detections below, at most the {MOST_DRAWN} of the highest scores in a picture). Quality is "
            "F1 of the picture times the mean IoU of its right detections; pictures without either have none."
        )

    def _tile(self, image: ImageMatches, record: dict, width: int) -> np.ndarray:
        """Draw a picture with its objects, and below it with its detections: (h, width, 3) RGB."""
        classes = MetadataCatalog.get(self.dataset_name).thing_classes
        detections = to_instances(self.evaluation, record, self.threshold)
        below = detections_tile(record, classes, detections, _caption(image), width)
        return np.concatenate([truth_tile(record, classes, width), below])


def _caption(image: ImageMatches) -> str:
    counts = count([image])
    missed = len(image.object_classes) - int((image.objects >= 0).sum())
    wrong = counts.detections - counts.correct
    return f"quality {quality(image) or 0:.2f}, {counts.correct} right, {wrong} wrong, {missed} missed"


def _images(evaluation: COCOeval) -> tuple[int, list[int], int]:
    """Return the number of evaluated images, the objects of each without crowds, and the detections that count."""
    of_images = [evaluation.cocoGt.imgToAnns.get(i, []) for i in evaluation.params.imgIds]
    objects = [sum(not a.get("iscrowd") for a in annotations) for annotations in of_images]
    return len(objects), objects, evaluation.params.maxDets[-1]


def no_detections(threshold: float | None, highest: float = 0) -> str:
    """Explain why there is nothing to show, and what to try."""
    if threshold is None:
        reached = "No detection reaches the model's test_score_thresh."
    else:
        reached = f"No detection reaches {threshold:g}: the highest score is {highest:.3g}."
    return (
        f"{reached} {ADVICE} Or lower the threshold (train.report.score_threshold, test_score_thresh of the "
        "model's box predictor)."
    )


# ---------------------------------------------------------------------------------------- AP and AR


def class_metrics(evaluation: COCOeval) -> np.ndarray:
    """Return AP, AP50 and AR of each class, (K, 3) in percent, over all sizes; not a number without objects."""
    precision = evaluation.eval["precision"][:, :, :, 0, -1]  # (T, R, K)
    recall = evaluation.eval["recall"][:, :, 0, -1]  # (T, K)
    at_half = _at_half(evaluation)
    rows = [
        [_mean(precision[:, :, k]), _mean(precision[at_half, :, k]), _mean(recall[:, k])]
        for k in range(precision.shape[2])
    ]
    return np.array(rows) * 100


def _mean(values: np.ndarray) -> float:
    known = values[values > -1]
    return float(known.mean()) if known.size else float("nan")


def _at_half(evaluation: COCOeval) -> int:
    return int(np.argmin(np.abs(evaluation.params.iouThrs - 0.5)))


def curves_at_half(evaluation: COCOeval) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return precision (R, K) and recall (R,) at IoU 0.5, and AP50 (K,) in percent."""
    precision = evaluation.eval["precision"][_at_half(evaluation), :, :, 0, -1]
    return precision, evaluation.params.recThrs, class_metrics(evaluation)[:, 1]


def metrics_table(evaluations: dict[str, COCOeval], classes: Sequence[str]) -> str:
    """Return a Markdown table: objects, and AP, AP50 and AR of boxes and masks, overall and for each class."""
    by_kind = [class_metrics(evaluation) for evaluation in evaluations.values()]
    objects = class_objects(next(iter(evaluations.values())))
    headers = ["class", "objects"]
    headers += [f"{KINDS[kind]} {metric}" for kind in evaluations for metric in ("AP", "AP50", "AR")]
    metrics = np.concatenate(by_kind, axis=1)
    has_objects = np.isfinite(metrics).all(1)
    overall = metrics[has_objects].mean(0) if has_objects.any() else np.full(metrics.shape[1], np.nan)
    rows = [["**all**", sum(objects), *map(_percent, overall)]]
    rows += [[escaped(name), objects[k], *map(_percent, metrics[k])] for k, name in enumerate(classes)]
    align = ("left", *["right"] * (len(headers) - 1))
    return tabulate(rows, headers, "github", colalign=align, disable_numparse=True)


def _percent(value: float) -> str:
    return f"{value:.1f}" if np.isfinite(value) else "-"


def class_objects(evaluation: COCOeval) -> list[int]:
    """Return the number of objects of each class, without crowds."""
    coco: COCO = evaluation.cocoGt
    ids = [a["category_id"] for a in coco.anns.values() if not a.get("iscrowd")]
    return [ids.count(category) for category in evaluation.params.catIds]


# --------------------------------------------------------------------------- matches and their counts


def match_evaluation(evaluation: COCOeval) -> list[ImageMatches]:
    """Match the detections and objects of every image of an evaluation, whatever their classes."""
    index = {category: k for k, category in enumerate(evaluation.params.catIds)}
    return [_match(evaluation, image_id, index) for image_id in evaluation.params.imgIds]


def _match(evaluation: COCOeval, image_id: int | str, index: dict[int, int]) -> ImageMatches:
    truth = evaluation.cocoGt.imgToAnns.get(image_id, [])
    detections = evaluation.cocoDt.imgToAnns.get(image_id, [])
    crowd = np.array([bool(a.get("iscrowd")) for a in truth], bool)
    return match_image(
        image_id,
        np.array([d["score"] for d in detections], float),
        np.array([index[d["category_id"]] for d in detections], int),
        np.array([index[a["category_id"]] for a in truth], int),
        _overlaps(evaluation, detections, truth, crowd),
        crowd,
    )


def _overlaps(
    evaluation: COCOeval, detections: list[dict], truth: list[dict], crowd: np.ndarray
) -> np.ndarray:
    """Return the IoU, (D, G), of the boxes or masks that the evaluation is about."""
    if not detections or not truth:
        return np.zeros((len(detections), len(truth)))
    if evaluation.params.iouType == "segm":
        shapes: list[Any] = [
            [coco.annToRLE(a) for a in annotations]
            for coco, annotations in ((evaluation.cocoDt, detections), (evaluation.cocoGt, truth))
        ]
    else:
        shapes = [np.array([a["bbox"] for a in annotations], float) for annotations in (detections, truth)]
    return np.asarray(mask_util.iou(*shapes, crowd.astype(np.uint8).tolist()))


def most_frequent_confusions(matrix: np.ndarray, classes: Sequence[str]) -> list[str]:
    """Return the pairs of classes that are confused with each other, the most frequent first."""
    pairs = [
        (int(matrix[i, j]), i, j)
        for i in range(len(classes))
        for j in range(len(classes))
        if i != j and matrix[i, j]
    ]
    pairs.sort(key=lambda pair: -pair[0])
    return [
        f"{escaped(classes[i])} as {escaped(classes[j])} ({number})" for number, i, j in pairs[:CONFUSIONS]
    ]


# ------------------------------------------------------------------------------------------ pictures


def to_instances(evaluation: COCOeval, record: dict, threshold: float) -> Instances:
    """Return the detections of an image with at least this score, for drawing."""
    index = {category: k for k, category in enumerate(evaluation.params.catIds)}
    every = evaluation.cocoDt.imgToAnns.get(record["image_id"], [])
    detections = [d for d in every if d["score"] >= threshold]
    instances = Instances((record["height"], record["width"]))
    boxes = np.array([d["bbox"] for d in detections], float).reshape(-1, 4)
    instances.pred_boxes = Boxes(BoxMode.convert(boxes, BoxMode.XYWH_ABS, BoxMode.XYXY_ABS))
    instances.scores = torch.tensor([d["score"] for d in detections])
    instances.pred_classes = torch.tensor([index[d["category_id"]] for d in detections], dtype=torch.long)
    if evaluation.params.iouType == "segm":
        masks = [mask_util.decode(d["segmentation"]) for d in detections]
        instances.pred_masks = torch.from_numpy(
            np.stack(masks).astype(bool) if masks else np.zeros((0, record["height"], record["width"]), bool)
        )
    return instances
