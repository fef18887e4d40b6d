"""The report of a detector's evaluation: ``evaluation.md``, curves, confusions, best and worst pictures.

It is made from the results of the evaluation; the model does not run again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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

from ...evaluation import CocoEvaluator
from ...evaluation.matching import (
    IOU,
    ImageMatches,
    best_threshold,
    by_quality,
    confusion_matrix,
    count,
    match_image,
    quality,
)
from .detection_plots import plot_confusion, plot_precision_recall
from .drawing import add_title
from .markdown import escaped
from .pictures import photo_canvas, write_sheet

REPORT_FILE, CURVES_FILE, CONFUSION_FILE = "evaluation.md", "precision_recall.png", "confusion.png"
BEST_FILE, WORST_FILE = "best.png", "worst.png"
PICTURES = (CURVES_FILE, CONFUSION_FILE, BEST_FILE, WORST_FILE)
SHOWN = 6  # pictures on a sheet
CONFUSIONS = 10  # pairs of classes that the report names
KINDS = {"bbox": "box", "segm": "mask"}


def write_detection_report(
    folder: str | Path,
    evaluator: CocoEvaluator,
    *,
    score_threshold: float | None = None,
) -> str:
    """Write the report and its pictures into ``folder``, replacing earlier ones; return its text.

    Args:
        folder: an existing folder.
        evaluator: after its ``evaluate()``, on the main process.
        score_threshold: least score for everything except AP and AR; None takes the one with the best F1.
    """
    folder = Path(folder)
    for name in PICTURES:
        (folder / name).unlink(missing_ok=True)
    if not evaluator.evaluations:
        text = "The data set has no annotations, or nothing was evaluated: there is nothing to report."
    else:
        text = _report(folder, evaluator, score_threshold)
    text = f"# Evaluation on {evaluator.dataset_name}\n\n{text}"
    (folder / REPORT_FILE).write_text(text + "\n", encoding="utf-8")
    return text


def _report(folder: Path, evaluator: CocoEvaluator, threshold: float | None) -> str:
    evaluations = {kind: e for kind, e in evaluator.evaluations.items() if e is not None}
    if not evaluations:
        return no_detections(threshold, None)
    matching = evaluations.get("segm") or evaluations["bbox"]
    classes = [matching.cocoGt.cats[i]["name"] for i in matching.params.catIds]
    sections = [metrics_table(evaluations, classes)]
    curves = evaluations.get("bbox", matching)
    title = f"{KINDS[curves.params.iouType]} IoU from 0.5".capitalize()
    plot_precision_recall(*curves_at_half(curves), classes, title, folder / CURVES_FILE)
    matches = match_evaluation(matching)
    if threshold is None:
        threshold = best_threshold(matches)
        is_right = count([image.above(threshold) for image in matches]).f1 > 0
        why = "the best F1 over all images" if is_right else "no score gives a right detection: train longer"
    else:
        why = "given"
    kept = [image.above(threshold) for image in matches]
    if not any(len(image.scores) for image in kept):
        highest = max(float(image.scores[0]) for image in matches if len(image.scores))
        return "\n\n".join([*sections, no_detections(threshold, highest)])
    matrix = confusion_matrix(kept, len(classes))
    kind = KINDS[matching.params.iouType]
    title = f"Scores from {threshold:g}, {kind} IoU from {IOU:g}"
    plot_confusion(matrix, classes, title, folder / CONFUSION_FILE)
    sections.append(f"## At a score of at least {threshold:g} ({why})\n\n{counts_text(kept, matrix, kind)}")
    if worst := most_frequent_confusions(matrix, classes):
        sections.append("Most frequent confusions: " + "; ".join(worst) + ".")
    sections.append(_draw_extremes(folder, evaluator.dataset_name, matching, kept, threshold))
    return "\n\n".join(sections)


def no_detections(threshold: float | None, highest: float | None) -> str:
    """Explain why there is nothing to show, and what to try."""
    limit = "the model's test_score_thresh" if highest is None else f"{threshold:g}"
    score = "" if highest is None else f": the highest score is {highest:.3g}"
    return (
        f"**No detection reaches {limit}{score}.** Train longer "
        "(train.max_iter), check the learning rate and data_samples.png, or lower the threshold "
        "(train.report.score_threshold, test_score_thresh of the model's box predictor)."
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


def counts_text(kept: Sequence[ImageMatches], matrix: np.ndarray, kind: str) -> str:
    """Describe how many detections and objects there are, and how many are right."""
    counts = count(kept)
    wrong = int(matrix[:-1, :-1].sum() - np.trace(matrix[:-1, :-1]))
    return (
        f"{counts.detections} detections of {counts.objects} objects, matched by {kind} IoU of at least "
        f"{IOU:g} whatever the classes: {counts.correct} right, {wrong} of the wrong class, "
        f"{matrix[-1].sum()} where nothing is (or is found twice), {matrix[:, -1].sum()} objects missed. "
        f"Precision {counts.precision:.2f}, recall {counts.recall:.2f}, F1 {counts.f1:.2f}. "
        f"Counts by class: {CONFUSION_FILE}."
    )


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


@dataclass(frozen=True)
class _Sheet:
    file: str
    images: Sequence[ImageMatches]


def _draw_extremes(
    folder: Path, dataset_name: str, evaluation: COCOeval, kept: Sequence[ImageMatches], threshold: float
) -> str:
    ranked = by_quality(kept)
    half = ranked[len(ranked) // 2 :]  # so that no picture of a small data set is on both sheets
    sheets = [_Sheet(WORST_FILE, ranked[:SHOWN]), _Sheet(BEST_FILE, half[::-1][:SHOWN])]
    if len(ranked) < 2 * SHOWN:
        sheets[0] = _Sheet(WORST_FILE, ranked[: max(1, len(ranked) // 2)])
    records = {record["image_id"]: record for record in DatasetCatalog.get(dataset_name)}
    classes = MetadataCatalog.get(dataset_name).thing_classes
    for sheet in sheets:
        tiles = []
        for image in sheet.images:
            record = records[image.image_id]
            name = Path(record["file_name"]).name
            detections = to_instances(evaluation, record, threshold)
            verdict = f"quality {quality(image) or 0:.2f}, {_mistakes(image)}"
            above = add_title(photo_canvas(record, classes).draw_truth(record), f"{name}: truth")
            below = add_title(photo_canvas(record, classes).draw_detections(detections), verdict)
            tiles.append(np.concatenate([above, below]))
        write_sheet(tiles, min(3, len(tiles)), folder / sheet.file)
    return (
        f"Pictures: {BEST_FILE}, {WORST_FILE}, truth above and detections below. Quality is F1 of the "
        "picture times the mean IoU of its right detections; pictures without either have none."
    )


def _mistakes(image: ImageMatches) -> str:
    counts = count([image])
    missed = len(image.object_classes) - int((image.objects >= 0).sum())
    return f"{counts.correct} right, {counts.detections - counts.correct} wrong, {missed} missed"


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
