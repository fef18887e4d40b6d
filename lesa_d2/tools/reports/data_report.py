"""The report of a data set for detection before training: ``data_report.md`` and ``data_samples.png``."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from detectron2.data import DatasetCatalog, MetadataCatalog
from tabulate import tabulate

from ...data.problems import Problem
from ...data.registration import readable_name, remarks_of
from ...data.statistics import PartStatistics, choose_samples, data_remarks, part_statistics
from ...storage import write_text
from .markdown import escaped
from .pictures import truth_tile, write_sheet

REPORT_FILE, SAMPLES_FILE = "data_report.md", "data_samples.png"
SAMPLES, COLUMNS = 12, 3


def write_data_report(
    folder: str | Path,
    train_names: Sequence[str],
    val_names: Sequence[str],
    *,
    left_out: Sequence[Problem] = (),
    seen: tuple[int, int] | None = None,
) -> str:
    """Write both files into ``folder``, and return the report's text.

    Args:
        folder: an existing folder.
        train_names: registered data sets for training.
        val_names: registered data sets for validation, with the same classes.
        left_out: problems whose images and annotations were left out of the data sets.
        seen: (height, width) in pixels that the network sees of every image, if all have one size.
    """
    train, val = (
        [record for name in names for record in DatasetCatalog.get(name)]
        for names in (train_names, val_names)
    )
    classes = MetadataCatalog.get(train_names[0]).thing_classes
    of_train, of_val = (part_statistics(records, len(classes), seen) for records in (train, val))
    titles = [", ".join(map(readable_name, names)) for names in (train_names, val_names)]
    remarks = remarks_of([*train_names, *val_names])
    text = data_report(of_train, of_val, classes, left_out, "; ".join(titles), remarks)
    write_text(Path(folder) / REPORT_FILE, text + "\n")
    draw_samples(train, classes, Path(folder) / SAMPLES_FILE, f"{titles[0]}: samples")
    return text


def data_report(
    train: PartStatistics,
    val: PartStatistics,
    classes: Sequence[str],
    left_out: Sequence[Problem] = (),
    names: str = "",
    of_folder: Sequence[str] = (),
) -> str:
    """Return the report in Markdown: images, objects by class, sizes, and remarks on what to check."""
    title = f"# Data: {escaped(names)}" if names else "# Data"
    sections = [title, _images_table(train, val), "## Objects", _objects_table(train, val, classes)]
    if remarks := [*map(escaped, of_folder), *data_remarks(train, val, [*map(escaped, classes)])]:
        sections += ["## Worth a look", "\n".join(f"- {remark}" for remark in remarks)]
    if left_out:
        counts = Counter(problem.kind for problem in left_out)
        lines = [f"- {kind}: {number}" for kind, number in counts.most_common()]
        sections += ["## Left out (--drop-invalid), by the problem found", "\n".join(lines)]
    return "\n\n".join(sections)


def _images_table(train: PartStatistics, val: PartStatistics) -> str:
    def spread(values: tuple[float, float, float]) -> str:
        return " / ".join(f"{value:g}" for value in values)

    def side(part: PartStatistics) -> str:
        return "-" if part.seen_side is None else f"{part.seen_side:.0f} px"

    def row(name: str, *cells: object) -> list[object]:
        return [name, *cells]

    parts = (train, val)
    rows = [
        row("images", *(p.images for p in parts)),
        row("images without objects (left out of training)", *(p.empty_images for p in parts)),
        row("objects", *(sum(p.objects) for p in parts)),
        row("crowds (neither learnt nor scored)", *(p.crowds for p in parts)),
        row("small objects (below 32² px)", *(p.sizes[0] for p in parts)),
        row("medium objects", *(p.sizes[1] for p in parts)),
        row("large objects (from 96² px)", *(p.sizes[2] for p in parts)),
        row("median side of an object as the network sees it", *map(side, parts)),
        row("image width, least / median / greatest", *(spread(p.widths) for p in parts)),
        row("image height, least / median / greatest", *(spread(p.heights) for p in parts)),
    ]
    align = ("left", "right", "right")
    return tabulate(rows, ["", "training", "validation"], "github", colalign=align, disable_numparse=True)


def _objects_table(train: PartStatistics, val: PartStatistics, classes: Sequence[str]) -> str:
    def cells(part: PartStatistics, k: int) -> str:
        return f"{part.objects[k]} ({part.class_images[k]})"

    rows = [[escaped(name), cells(train, k), cells(val, k)] for k, name in enumerate(classes)]
    headers = ["class", "training: objects (images)", "validation: objects (images)"]
    align = ("left", "right", "right")
    return tabulate(rows, headers, "github", colalign=align, disable_numparse=True)


def draw_samples(records: Sequence[dict], classes: Sequence[str], file: Path, title: str) -> Path:
    """Write a sheet of pictures with their objects, which shows every class if possible; return its file."""
    tiles = [truth_tile(record, classes) for record in choose_samples(records, SAMPLES)]
    return write_sheet(tiles, COLUMNS, file, title)
