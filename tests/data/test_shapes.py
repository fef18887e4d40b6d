"""The generated data set: labels are exact, sizes are spread, everything follows from the seed."""

import itertools
import json

import cv2
import numpy as np
import pytest
from detectron2.config import LazyCall as L
from detectron2.config import instantiate
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image
from pycocotools import mask as mask_util
from pycocotools.coco import COCO

from lesa_d2.data import (
    SEM_SEG_CLASSES,
    SHAPE_CLASSES,
    STUFF_CLASSES,
    check_coco_json,
    generate_shapes,
    shapes,
    shapes_split,
)
from lesa_d2.errors import ConfigError, DatasetError

SIZE, COUNT = 160, 120

# pycocotools under NumPy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("shapes") / "set"
    return generate_shapes(path, num_images=COUNT, image_size=SIZE, seed=5)


@pytest.fixture(scope="module")
def coco(folder):
    return COCO(str(folder / "annotations.json"))


def masks_of(coco, image_id):
    annotations = coco.imgToAnns[image_id]
    return annotations, [coco.annToMask(a).astype(bool) for a in annotations]


def test_files(folder, coco):
    assert len(list((folder / "images").iterdir())) == len(list((folder / "stuff").iterdir())) == COUNT
    assert sorted(path.name for path in folder.iterdir()) == ["annotations.json", "images", "stuff"]
    assert list(folder.parent.iterdir()) == [folder]  # no draft is left behind
    assert {c["id"]: c["name"] for c in coco.dataset["categories"]} == dict(enumerate(SHAPE_CLASSES, 1))
    with Image.open(folder / "images" / "000007.jpg") as image:
        assert image.size == (SIZE, SIZE)
        assert image.mode == "RGB"


def test_passes_the_checks(folder):
    assert check_coco_json(folder / "annotations.json", folder / "images") == []


def test_ids_are_unique_and_start_at_one(coco):
    ids = [a["id"] for a in coco.dataset["annotations"]]
    assert ids == list(range(1, len(ids) + 1))


def test_boxes_and_areas_are_those_of_the_masks(coco):
    for image_id in coco.imgs:
        for annotation, mask in zip(*masks_of(coco, image_id), strict=True):
            ys, xs = np.nonzero(mask)
            tight = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
            assert annotation["bbox"] == tight
            assert annotation["area"] == mask.sum() == mask_util.area(annotation["segmentation"])
            assert annotation["iscrowd"] == 0


def test_no_pixel_belongs_to_two_objects(coco):
    for image_id in coco.imgs:
        assert np.sum(masks_of(coco, image_id)[1], axis=0).max() <= 1


def test_stuff_map_agrees_with_masks(folder, coco):
    for image_id in coco.imgs:
        stuff = np.array(Image.open(folder / "stuff" / f"{image_id:06d}.png"))
        assert stuff.dtype == np.uint8
        things = np.zeros_like(stuff, dtype=bool)
        for annotation, mask in zip(*masks_of(coco, image_id), strict=True):
            assert (stuff[mask] == annotation["category_id"] - 1).all()
            things |= mask
        background = stuff[~things]
        assert (background >= len(SHAPE_CLASSES)).all()
        assert (background < len(SEM_SEG_CLASSES)).all()


@pytest.fixture
def flat_paint(monkeypatch):
    """Black background, object k of the uniform grey 40 (k + 1): the picture tells whose a pixel is."""
    used = itertools.count(1)

    def background(rng, image_size, textures):
        return np.zeros((image_size, image_size, 3), np.float32), np.zeros((image_size,) * 2, np.uint8), []

    def fill(rng, image_size, colours):
        grey = np.full(3, 40 * next(used), dtype=np.float32)
        return grey, grey

    monkeypatch.setattr(shapes, "NOISE_SIGMA", 0)
    monkeypatch.setattr(shapes, "_background", background)
    monkeypatch.setattr(shapes, "_fill", fill)
    return lambda: next(used) - 1


@pytest.mark.parametrize("index", range(8))
def test_masks_are_what_the_picture_shows(flat_paint, index):
    scene = shapes.draw_scene(np.random.default_rng([1, index]), 128)
    assert flat_paint() == len(scene.labels)
    covered = scene.masks.any(axis=0)
    for k, mask in enumerate(scene.masks, 1):
        # Away from all outlines, where two colours mix, the grey says exactly which object is on top.
        core = cv2.erode(mask.astype(np.uint8), np.ones((5, 5)), borderValue=0) > 0
        assert (scene.image[core] == 40 * k).all()
    # A pixel is labelled when at least half of it is covered; black is the background.
    assert scene.image[covered].min() >= 20
    assert scene.image[~covered].max() <= 20 * len(scene.labels)


def test_shape_is_drawn_where_it_was_placed():
    class Fixed:
        def uniform(self, low, high, size=None):
            return 0.3 if size is None else np.array([40.25, 55.5])

    for label in range(len(SHAPE_CLASSES)):
        alpha, area = shapes._draw_shape(Fixed(), label, 30.0, 100)
        x = (alpha.sum(0) * (np.arange(100) + 0.5)).sum() / alpha.sum()
        y = (alpha.sum(1) * (np.arange(100) + 0.5)).sum() / alpha.sum()
        assert (x, y) == (pytest.approx(40.25, abs=0.1), pytest.approx(55.5, abs=0.1))
        assert area == 900


def test_counts_and_sizes_are_spread(coco):
    per_image = [len(coco.imgToAnns[i]) for i in coco.imgs]
    assert set(per_image) == set(range(1, shapes.MAX_OBJECTS + 1))
    areas = np.array([a["area"] for a in coco.dataset["annotations"]])
    small, large = np.mean(areas < 32**2), np.mean(areas > 96**2)
    assert 0.3 < small < 0.55
    assert 0.04 < large < 0.25
    assert areas.min() >= shapes.MIN_VISIBLE_PIXELS
    labels = np.bincount([a["category_id"] for a in coco.dataset["annotations"]], minlength=5)[1:]
    assert labels.min() > 0.7 * labels.mean()


def test_some_objects_hide_others(coco):
    """Overlapping boxes with disjoint masks: in crowded pictures something is in front of something."""
    overlaps = 0
    for image_id in coco.imgs:
        boxes = np.array([a["bbox"] for a in coco.imgToAnns[image_id]], dtype=float)
        ious = mask_util.iou(boxes, boxes, [0] * len(boxes))
        overlaps += int((ious[np.triu_indices(len(boxes), 1)] > 0.05).any())
    assert overlaps > 0.2 * COUNT


def test_an_occluder_leaves_enough_to_recognise():
    owner = np.full((20, 20), -1)
    owner[:10] = 0
    owner[10:] = 1
    whole = int(200 / shapes.MIN_VISIBLE)  # of which just enough is visible
    assert shapes._all_recognisable(owner, [whole, 200])
    owner[9, 0] = 1
    assert not shapes._all_recognisable(owner, [whole, 200])


def test_few_pixels_are_never_enough():
    owner = np.full((20, 20), -1)
    owner[0, :20] = 0
    assert not shapes._all_recognisable(owner, [20])


@pytest.mark.parametrize(("name", "corners"), [("triangle", 3), ("square", 4), ("star", 10), ("circle", 64)])
def test_outlines_have_area_one(name, corners):
    outline = shapes._unit_outline(name)
    assert outline.shape == (corners, 2)
    x, y = outline.T
    assert 0.5 * abs(np.sum(x * np.roll(y, -1) - y * np.roll(x, -1))) == pytest.approx(1)
    assert np.abs(outline.mean(0)).max() < 1e-9


def test_placed_shape_covers_its_area():
    """Whole shapes inside the image; OpenCV also fills the outline's own subpixels, up to 8 % at 12 px."""
    rng = np.random.default_rng(0)
    for label in range(len(SHAPE_CLASSES)):
        covers = [shapes._draw_shape(rng, label, 12.0, 200)[0].sum() for _ in range(20)]
        assert 0.99 * 144 < np.median(covers) < 1.08 * 144


@pytest.mark.parametrize("size", [32, 50, 161])
def test_other_image_sizes(size):
    for index in range(10):
        scene = shapes.draw_scene(np.random.default_rng([0, index]), size)
        assert scene.image.shape == (size, size, 3)
        assert scene.masks.shape == (len(scene.labels), size, size)
        assert len(scene.labels) >= 1


def test_same_arguments_give_the_same_bytes(folder, tmp_path):
    again = generate_shapes(tmp_path / "again", num_images=COUNT, image_size=SIZE, seed=5)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        assert (again / path.relative_to(folder)).read_bytes() == path.read_bytes()


def test_image_depends_on_seed_and_index_only(folder, tmp_path):
    """A shorter set is a prefix of a longer one; another seed shares no picture."""
    short = generate_shapes(tmp_path / "short", num_images=3, image_size=SIZE, seed=5)
    other = generate_shapes(tmp_path / "other", num_images=3, image_size=SIZE, seed=6)
    for index in range(3):
        name = f"images/{index:06d}.jpg"
        assert (short / name).read_bytes() == (folder / name).read_bytes()
        assert all((other / name).read_bytes() != p.read_bytes() for p in (folder / "images").iterdir())


def test_existing_set_is_kept(folder):
    before = (folder / "annotations.json").stat().st_mtime_ns
    generate_shapes(folder, num_images=COUNT, image_size=SIZE, seed=5)
    assert (folder / "annotations.json").stat().st_mtime_ns == before


def test_folder_with_something_else_is_an_error(folder, tmp_path):
    with pytest.raises(DatasetError, match="holds something else"):
        generate_shapes(folder, num_images=COUNT, image_size=SIZE, seed=6)
    (tmp_path / "notes.txt").write_text("precious")
    with pytest.raises(DatasetError, match=r"no annotations\.json"):
        generate_shapes(tmp_path, num_images=1, image_size=SIZE, seed=6)
    assert (tmp_path / "notes.txt").read_text() == "precious"


def test_interrupted_run_leaves_nothing(tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_annotations", fail)
    with pytest.raises(KeyboardInterrupt):
        generate_shapes(tmp_path / "set", num_images=2, image_size=64, seed=0)
    assert list(tmp_path.iterdir()) == []


def test_losing_the_race_takes_the_winners_set(tmp_path, monkeypatch):
    """Another process finishes the same set while this one still draws."""
    write, arguments = shapes._write, {"num_images": 2, "image_size": 64, "seed": 0}

    def write_slowly(*args):
        monkeypatch.setattr(shapes, "_write", write)
        generate_shapes(tmp_path / "set", **arguments)
        write(*args)

    monkeypatch.setattr(shapes, "_write", write_slowly)
    assert generate_shapes(tmp_path / "set", **arguments) == tmp_path / "set"
    assert list(tmp_path.iterdir()) == [tmp_path / "set"]


@pytest.mark.parametrize(
    "changes", [{"num_images": 0}, {"image_size": 31}, {"image_size": 64.0}, {"seed": -1}, {"seed": None}]
)
def test_bad_arguments(tmp_path, changes):
    with pytest.raises(ConfigError, match=next(iter(changes))):
        generate_shapes(tmp_path / "set", **{"num_images": 1, "image_size": 64, "seed": 0, **changes})


# -------------------------------------------------------------------------------------- registration

ARGUMENTS = {"split": "train", "num_images": 2, "image_size": 64, "seed": 3}


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    return tmp_path


def test_split_is_generated_registered_and_loads(datasets):
    name = instantiate(L(shapes_split)(**ARGUMENTS))
    folder = datasets / "shapes" / "train_2x64px_seed3"
    records = DatasetCatalog.get(name)
    assert [r["file_name"] for r in records] == [str(folder / f"images/00000{i}.jpg") for i in range(2)]
    assert [r["sem_seg_file_name"] for r in records] == [
        str(folder / f"stuff/00000{i}.png") for i in range(2)
    ]
    expected = json.loads((folder / "annotations.json").read_text())["annotations"]
    found = [a for record in records for a in record["annotations"]]
    assert [a["category_id"] + 1 for a in found] == [a["category_id"] for a in expected]
    assert [a["segmentation"] for a in found] == [a["segmentation"] for a in expected]


def test_metadata(datasets):
    metadata = MetadataCatalog.get(shapes_split(**ARGUMENTS))
    folder = datasets / "shapes" / "train_2x64px_seed3"
    assert metadata.thing_classes == SHAPE_CLASSES
    assert metadata.stuff_classes == SHAPE_CLASSES + STUFF_CLASSES
    assert metadata.json_file == str(folder / "annotations.json")
    assert metadata.image_root == str(folder / "images")
    assert metadata.evaluator_type == "coco"


def test_registering_again_changes_nothing(datasets):
    name = shapes_split(**ARGUMENTS)
    entry, records = DatasetCatalog[name], DatasetCatalog.get(name)
    assert shapes_split(**ARGUMENTS) == name
    assert DatasetCatalog[name] is entry
    assert DatasetCatalog.get(name) == records


def test_another_root_replaces_the_entry(datasets, monkeypatch):
    name = shapes_split(**ARGUMENTS)
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets / "elsewhere"))
    assert shapes_split(**ARGUMENTS) == name
    assert DatasetCatalog.get(name)[0]["file_name"].startswith(str(datasets / "elsewhere"))


def test_default_root_is_detectron2s(tmp_path, monkeypatch):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    shapes_split(**ARGUMENTS)
    assert (tmp_path / "datasets" / "shapes" / "train_2x64px_seed3" / "annotations.json").is_file()
