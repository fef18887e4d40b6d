"""COCO files with random mistakes: one of the documented errors, or data that train and evaluate.

``make mutations`` runs 10,000 files and trains on 200 of those that pass the check; the tests run 300 and 5.
"""

import copy
import json
import os

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from runs import ROOT, TINY, train

from lesa_d2.data import folder_split, open_folder
from lesa_d2.errors import ConfigError, DatasetError

FILES = int(os.environ.get("LESA_MUTATIONS", 300))
TRAINED = int(os.environ.get("LESA_MUTATIONS_TRAINED", 5))
DEEP = "a value nested 100,000 deep"
VALUES = [
    *(None, True, False, 0, 1, -1, 0.0, 1.0, 0.5, -0.5, 3, 7, 20, 1e9, -1e9, 1e300, -1e300, 1e-300),
    *(float("nan"), float("inf"), -float("inf"), 10**18, 10**30, -(10**30), 10**400, 2**53 + 1),
    *(
        "",
        "0",
        "1",
        "nut",
        "a",
        "é",
        "\ud800",
        "\0",
        "x" * 3000,
        "2.png",
        "../2.png",
        "images/2.png",
        "a%20b.png",
    ),
    *(
        [],
        [[]],
        [[], []],
        {},
        [1],
        [1, 2, 3, 4],
        ["1", "2", "3", "4"],
        [[1, 2], [3, 4]],
        [None],
        {"a": 1},
        DEEP,
    ),
    [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]] * 300,
    {"size": [16, 20], "counts": [100, 20, 200]},
    {"size": [16, 20], "counts": "o" * 500},
    {"size": [10**9, 10**9], "counts": [0]},
]
POLYGON = [[2.0, 3.0, 12.0, 3.0, 12.0, 9.0, 2.0, 9.0]]
RLE = {"size": [16, 20], "counts": [100, 20, 200]}
SAMPLES = []


def base():
    """Five images with polygons, RLE, crowds, keypoints and a second class."""
    annotations = []
    for number in range(1, 11):
        entry = {
            "id": number,
            "image_id": (number + 1) // 2,
            "category_id": 1 + number % 2,
            "area": 60,
            "iscrowd": 0,
        }
        entry |= {"bbox": [2, 3, 10, 6], "segmentation": POLYGON}
        annotations.append(entry)
    annotations[1] |= {"segmentation": RLE, "bbox": [6, 4, 2, 12], "iscrowd": 1}
    annotations[4] |= {"segmentation": RLE, "bbox": [6, 4, 2, 12]}
    annotations[5]["keypoints"] = [3, 4, 2, 5, 6, 1]
    names = ("nut", "fig")
    data = {
        "info": {},
        "images": [{"id": i, "file_name": f"{i}.png", "width": 20, "height": 16} for i in range(1, 6)],
        "annotations": annotations,
        "categories": [{"id": i, "name": name, "supercategory": "food"} for i, name in enumerate(names, 1)],
    }
    return json.loads(json.dumps(data))  # the entries share their masks until here


def places(node, path=()):
    """All paths into a JSON structure; of long lists of numbers only some."""
    yield path
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, child in children:
        yield from places(child, (*path, key))


PLACES = [path for path in places(base()) if path]
CHANGES = st.tuples(
    st.sampled_from(PLACES),
    st.sampled_from(["set", "set", "set", "delete", "repeat", "swap"]),
    st.sampled_from(VALUES),
)


def change(data, path, action, value):
    """Apply one mutation in place; a path that an earlier one has removed is passed over."""
    *above, last = path
    try:
        for key in above:
            data = data[key]
        if action == "set":
            data[last] = copy.deepcopy(value)
        elif action == "delete":
            del data[last]
        elif action == "repeat" and isinstance(data, list):
            data.append(copy.deepcopy(data[last]))
        elif action == "swap" and isinstance(data, list):
            data[last], data[0] = data[0], data[last]
    except (LookupError, TypeError):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("mutations")
    (made / "images").mkdir()
    for number in range(1, 6):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 20, 3), np.uint8)
        Image.fromarray(pixels).save(made / f"images/{number}.png")
    return made


def write(folder, changes):
    data = base()
    for one in changes:
        change(data, *one)
    text = json.dumps(data).replace(json.dumps(DEEP), "[" * 100_000 + "]" * 100_000)
    (folder / "labels.json").write_text(text)


@settings(
    max_examples=FILES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    database=None,
)
@given(changes=st.lists(CHANGES, min_size=1, max_size=3), drop_invalid=st.booleans())
def test_documented_errors_or_data(folder, changes, drop_invalid):
    write(folder, changes)
    names = []
    try:
        opened = open_folder(folder)
        opened.description()
        opened.remarks()
        if not drop_invalid:
            opened.check()
        for split in ("train", "val"):
            names.append(folder_split(str(folder), split, drop_invalid=drop_invalid))
            records = DatasetCatalog.get(names[-1])
            assert any(not a["iscrowd"] for record in records for a in record["annotations"])
        SAMPLES.append((changes, drop_invalid))
    except (DatasetError, ConfigError):
        pass
    finally:
        for name in set(names):
            DatasetCatalog.remove(name)
            MetadataCatalog.remove(name)


def test_what_passes_trains_and_evaluates(folder, tmp_path):
    assert len(SAMPLES) >= TRAINED
    for index in range(TRAINED):
        changes, drop_invalid = SAMPLES[index * len(SAMPLES) // TRAINED]
        write(folder, changes)
        options = [option for option in TINY if ".names." not in option]
        flags = ["--config-file", str(ROOT / "configs/quickstart_lesa.py"), "--dataset", str(folder)]
        flags += ["--drop-invalid"] if drop_invalid else []
        output = f"train.output_dir={tmp_path / str(index)}"
        assert train([*flags, *options, "train.max_iter=1", "train.init_checkpoint=''", output]) == 0, changes
        assert (tmp_path / str(index) / "evaluation.md").is_file()
