"""Name the format of a folder that is not read, and the command that converts it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .files import find_files

_HEAD = 4096  # bytes of a file that are looked at
_DATUMARO = "pip install datumaro; datum convert -i DIR -if {name} -f coco_instances -o NEW -- --save-media"


@dataclass(frozen=True)
class Known:
    """Describe a format: files of which pattern, which text at their beginning, and how to convert it."""

    name: str
    pattern: str
    text: str
    convert: str


KNOWN = (
    Known(
        "CVAT for images", "*.xml", r"<annotations>.*<(version|meta|image)\b", _DATUMARO.format(name="cvat")
    ),
    Known(
        "VGG Image Annotator",
        "*.json",
        r'"(regions|_via_img_metadata)"',
        "in VIA: Annotation, Export as COCO",
    ),
    Known("CreateML", "*.json", r'^\s*\[\s*\{[^]]*"(image|imagefilename)"', "in Roboflow: Export, COCO"),
    Known(
        "Label Studio's own",
        "*.json",
        r'^\s*\[.*"(annotations|completions)".*"data"',
        "in Label Studio: Export, COCO",
    ),
    Known(
        "Datumaro's own",
        "*.json",
        r'"items"\s*:|"label"\s*:\s*\{\s*"labels"',
        _DATUMARO.format(name="datumaro"),
    ),
    Known("FiftyOne's own", "samples.json", "", "in FiftyOne: export as fo.types.COCODetectionDataset"),
    Known("Supervisely", "*.json", r'"objects".*"geometryType"', "in Supervisely: Export to COCO"),
    Known(
        "TensorFlow's CSV",
        "*.csv",
        r"filename,\s*width,\s*height,\s*class",
        "in Roboflow: upload, then Export, COCO",
    ),
    Known("OpenImages", "*.csv", r"ImageID,\s*Source,\s*LabelName", _DATUMARO.format(name="open_images")),
    Known("TFRecord", "*.tfrecord*", "", _DATUMARO.format(name="tf_detection_api")),
    Known("Darknet's YOLO", "*.data", r"\bnames\s*=", _DATUMARO.format(name="yolo")),
    Known("COCO compressed", "*.zip", "", "unzip it: give the folder, not the archive"),
)


def named_formats(root: Path) -> Iterator[str]:
    """Yield a sentence for each format, not one of those that are read, that a folder seems to have."""
    everything = find_files(root, *{Path(known.pattern.rstrip("*")).suffix for known in KNOWN})
    for known in KNOWN:
        files = [file for file in everything if file.match(known.pattern)][:20]
        for file in files:
            if re.search(known.text, file.read_bytes()[:_HEAD].decode("utf-8", "replace"), re.DOTALL):
                yield f"{file.relative_to(root)} looks like {known.name} format. To convert it: {known.convert}"
                break
