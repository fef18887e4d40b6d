"""``lesa predict``: what it writes, and that nothing is lost or twice after kills."""

import contextlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import cv2
import forks
import numpy as np
import pytest
import torch
from pycocotools import mask as mask_util
from pycocotools.coco import COCO
from runs import ROOT, TINY, lesa

from lesa_d2.commands.predict import Pictures
from lesa_d2.config import load_config
from lesa_d2.engine import build_model
from lesa_d2.errors import DatasetError
from lesa_d2.predictor import Predictor
from lesa_d2.tools.predictions import Shard, Shards, read_inputs

TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "lesa_d2.cli"]
OPTIONS = [*TINY, "train.device=cpu", "model.roi_heads.box_predictor.test_topk_per_image=5"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Weights that detect something, and pictures of several sizes."""
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(0)
    torch.save({"model": build_model(load_config("quickstart_lesa", OPTIONS)).state_dict()}, folder / "w.pth")
    (folder / "photos").mkdir()
    for index in range(12):
        pixels = np.random.default_rng(index).integers(0, 255, (40 + index % 3, 56, 3), np.uint8)
        cv2.imwrite(str(folder / f"photos/{index:02d}.png"), pixels)
    return folder


def arguments(place, output, *more, given=None):
    options = ["--weights", place / "w.pth", "--num-workers", 0, "--output", output, *more]
    given = ["--input", place / "photos"] if given is None else given
    return list(map(str, ["predict", "--config-file", "quickstart_lesa", *options, *given, *OPTIONS]))


@pytest.fixture(scope="module")
def finished(place):
    result = lesa(*arguments(place, place / "finished"))
    assert result.returncode == 0, result.stderr
    return place / "finished"


def content(folder):
    return [(folder / name).read_bytes() for name in ("predictions.json", "images.json")]


def test_results_are_those_of_the_predictor_as_coco_reads_them(place, finished):
    assert {path.name for path in finished.iterdir()} == {"predictions.json", "images.json", "model.json"}
    coco = COCO(finished / "images.json")
    results = coco.loadRes(str(finished / "predictions.json"))
    assert [image["id"] for image in coco.dataset["images"]] == list(range(1, 13))
    assert coco.cats[1]["name"] == "circle"
    predictor = Predictor(load_config("quickstart_lesa", OPTIONS), place / "w.pth")
    for image in coco.dataset["images"]:
        instances = predictor(cv2.imread(image["file_name"]))["instances"]
        ours = results.imgToAnns[image["id"]]
        assert len(ours) == len(instances) > 0
        assert [one["category_id"] - 1 for one in ours] == instances.pred_classes.tolist()
        masks = np.stack([mask_util.decode(one["segmentation"]) for one in ours])
        np.testing.assert_array_equal(masks, instances.pred_masks.numpy())
        assert masks.shape[1:] == (image["height"], image["width"])


def test_two_processes_killed_and_started_again_lose_nothing(place, tmp_path):
    """SIGKILL to torchrun and both of its processes, with some of the pictures done."""
    (tmp_path / "photos").mkdir()
    for index in range(100):
        (tmp_path / f"photos/{index}.png").symlink_to(place / f"photos/{index % 12:02d}.png")
    given, output = ["--input", tmp_path / "photos"], tmp_path / "out"
    command = [sys.executable, *TORCHRUN, *arguments(place, output, given=given)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    run = dict(cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    process = subprocess.Popen(command, **run)
    while lines_in(output) < 3:
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.001)
    process.kill()
    end_processes_with(output)
    process.wait()
    done = lines_in(output)
    assert 3 <= done < 100
    assert not (output / "predictions.json").exists()
    second = subprocess.run(command, **run)
    assert second.returncode == 0, second.stdout
    assert f"100 pictures, {done} of them done before" in second.stdout
    assert lesa(*arguments(place, tmp_path / "one", given=given)).returncode == 0
    assert content(output) == content(tmp_path / "one")


def lines_in(output):
    return sum(file.read_bytes().count(b"\n") for file in (output / "shards").glob("*.jsonl"))


def end_processes_with(output):
    """Kill the processes of torchrun, which outlive it; their command line has the folder."""
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str(output) in (entry / "cmdline").read_text():
                os.kill(int(entry.name), signal.SIGKILL)


@pytest.mark.parametrize("end", [b'{"file": "/ha', b"\0" * 5000, b'{"file": 3}\n', b"7\n"])
def test_what_was_not_written_to_its_end_is_done_again(place, finished, tmp_path, end):
    first = lesa(*arguments(place, tmp_path, given=["--input", place / "photos/00.png", tmp_path / "no.png"]))
    assert first.returncode == 2  # there is no such file
    (tmp_path / "no.png").write_bytes(b"text")
    first = lesa(*arguments(place, tmp_path, given=["--input", place / "photos/00.png", tmp_path / "no.png"]))
    shard = tmp_path / "shards/0.jsonl"
    lines = shard.read_bytes()
    shard.write_bytes(lines + end)
    second = lesa(*arguments(place, tmp_path))
    assert second.returncode == 0, second.stderr
    assert "12 pictures, 1 of them done before" in second.stdout
    assert content(tmp_path) == content(finished)
    assert not shard.exists()


def test_pictures_that_cannot_be_read_are_named_and_tried_again(place, finished, tmp_path):
    names = [tmp_path / "empty.jpg", tmp_path / "text.png", tmp_path / "gone.png", place / "photos/03.png"]
    names[0].touch()
    names[1].write_text("text")
    (tmp_path / "list.txt").write_text("\n".join(map(str, names)))
    given = ["--input", tmp_path / "list.txt"]
    result = lesa(*arguments(place, tmp_path / "out", given=given))
    assert result.returncode == 2
    words = (
        "3 of 4 pictures cannot be read",
        "the other 1 are complete",
        str(tmp_path / "out/unreadable.txt"),
    )
    for told in (*words, "empty.jpg", "no known format", "gone.png does not exist"):
        assert told in result.stderr
    assert len((tmp_path / "out/unreadable.txt").read_text().splitlines()) == 3
    assert [image["id"] for image in json.loads((tmp_path / "out/images.json").read_bytes())["images"]] == [4]
    for name in names[:3]:
        name.write_bytes((place / "photos/00.png").read_bytes())
    result = lesa(*arguments(place, tmp_path / "out", given=given))
    assert result.returncode == 0, result.stderr
    assert "4 pictures, 1 of them done before" in result.stdout
    assert not (tmp_path / "out/unreadable.txt").exists()
    results = json.loads((tmp_path / "out/predictions.json").read_bytes())
    assert {one["image_id"] for one in results} == {1, 2, 3, 4}


def coco_file(place, **changes):
    images = [{"id": 70 + index, "file_name": f"{index:02d}.png"} for index in (3, 1)]
    names = ["triangle", "star", "ring", "circle", "square", "other"]
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(names, start=1)]
    file = place / "coco.json"
    file.write_text(json.dumps({"images": images, "categories": categories, **changes}))
    return ["--input", file, "--image-root", place / "photos"]


def test_coco_file_gives_ids_of_images_and_categories(place, finished, tmp_path):
    classes = [one["name"] for one in json.loads((finished / "images.json").read_bytes())["categories"]]
    categories = [{"id": 10 * number, "name": name} for number, name in enumerate(reversed(classes), start=1)]
    given = coco_file(place, categories=categories)
    result = lesa(*arguments(place, tmp_path, given=given))
    assert result.returncode == 0, result.stderr
    of = {
        number: json.loads((folder / "predictions.json").read_bytes())
        for number, folder in (("ours", tmp_path), ("before", finished))
    }
    assert [one["image_id"] for one in of["ours"]] == [73] * 5 + [71] * 5
    expected = [one for image in (4, 2) for one in of["before"] if one["image_id"] == image]
    for ours, before in zip(of["ours"], expected, strict=True):
        assert ours["category_id"] == 10 * (len(classes) + 1 - before["category_id"])
        assert ours["segmentation"] == before["segmentation"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"categories": [{"id": 1, "name": "circle"}]}, "lack these classes of the model"),
        ({"images": [{"id": 1, "file_name": "../w.pth"}]}, "is outside of"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}]}, "is outside of"),
        ({"images": [{"id": 1, "file_name": "a"}, {"id": 1, "file_name": "b"}]}, "have the same id"),
        ({"images": [{"id": True, "file_name": "a"}]}, 'expected images with "id"'),
        ({"images": 3}, "is no COCO file"),
        ({"images": []}, "names no picture"),
        ({"categories": 3}, "expected categories"),
    ],
)
def test_bad_coco_files_are_one_message(place, tmp_path, changes, message):
    result = lesa(*arguments(place, tmp_path, given=coco_file(place, **changes)))
    assert result.returncode == 2
    assert message in result.stderr
    assert result.stderr.count("error: ") == 1


def test_a_folder_of_other_predictions_is_kept(place, finished):
    before = content(finished)
    for more in (["--amp", "bfloat16"], ["--input", place / "photos/01.png"]):
        given = more if more[0] == "--input" else None
        result = lesa(*arguments(place, finished, *(() if given else more), given=given))
        assert result.returncode == 2
        assert "--overwrite" in result.stderr
    assert content(finished) == before
    again = lesa(*arguments(place, finished))  # complete: nothing to do
    assert again.returncode == 0
    assert content(finished) == before


@pytest.mark.parametrize("other", ["pictures", "ids", "categories"])
def test_a_complete_folder_is_of_its_pictures_ids_and_categories(place, tmp_path, other):
    """With the same names of files."""
    before = lesa(*arguments(place, tmp_path / "out", given=coco_file(place)))
    assert before.returncode == 0, before.stderr
    written = content(tmp_path / "out")
    shutil.copytree(place / "photos", tmp_path / "photos")
    given = coco_file(place)
    data = json.loads(given[1].read_text())
    data["images"] = [{**image, "id": image["id"] + (other == "ids")} for image in data["images"]]
    data["categories"] = [{**one, "id": one["id"] + (other == "categories")} for one in data["categories"]]
    given[1].write_text(json.dumps(data))
    if other == "pictures":
        given[3] = tmp_path / "photos"
    result = lesa(*arguments(place, tmp_path / "out", given=given))
    assert result.returncode == 2
    assert "for other pictures, or with other ids" in result.stderr
    assert content(tmp_path / "out") == written


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("images.json", '{"images": [1]}', "for other pictures"),
        ("images.json", '{"info": 3, "images": 4}', "for other pictures"),
        ("images.json", "[1", "images.json cannot be read"),
        ("predictions.json", "[\n{", "predictions.json is not as it was written"),
        ("model.json", "[1", "model.json cannot be read"),
    ],
)
def test_a_complete_folder_that_is_damaged(place, finished, tmp_path, name, text, message):
    folder = shutil.copytree(finished, tmp_path / "out")
    (folder / name).write_text(text)
    result = lesa(*arguments(place, folder))
    assert result.returncode == 2
    assert message in result.stderr
    assert "--overwrite" in result.stderr


LINE = {"width": 3, "height": 2, "results": []}


@pytest.mark.parametrize(
    "line",
    [{}, {**LINE, "width": "3"}, {**LINE, "results": [7]}, {**LINE, "results": [{}]}, {"error": 3}],
)
def test_lines_of_a_shard_that_lack_something_are_no_lines(tmp_path, line):
    shard = Shard(tmp_path, 0)
    for file, content in (("a", LINE), ("b", line), ("c", LINE)):
        shard.write({"file": file, **content})
    shard.close()
    shards = Shards(tmp_path)
    assert (list(shards.done), shards.errors) == (["a"], {})
    assert (tmp_path / "0.jsonl").read_bytes().count(b"\n") == 1


def test_no_room_for_the_results(place, finished, tmp_path):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))

    output = tmp_path / "out"
    run = forks.lesa(*arguments(place, output), log=tmp_path / "log", before=limit)
    assert run.wait() == 2
    text = run.text()
    assert f"{output / 'shards/0.jsonl'} cannot be written: File too large" in text
    assert (text.count("error: "), text.count("Traceback")) == (1, 0)
    assert lesa(*arguments(place, output)).returncode == 0
    assert content(output) == content(finished)


def test_a_file_in_the_place_of_the_shards(place, tmp_path):
    (tmp_path / "shards").write_text("x")
    result = lesa(*arguments(place, tmp_path))
    assert result.returncode == 2
    assert "shards cannot be written: File exists" in result.stderr


@pytest.mark.parametrize(
    "changes",
    [
        {"images": [{"id": 1, "file_name": "\ud800.png"}]},
        {"images": [{"id": "\ud800", "file_name": "a.png"}]},
        {"images": [{"id": 10**30, "file_name": "a.png"}]},
        {"categories": [{"id": 10**30, "name": "a"}]},
        {"categories": [{"id": 1, "name": "a", "supercategory": "\ud800"}]},
    ],
)
def test_what_results_cannot_hold_is_said_before_anything_is_predicted(place, changes):
    given = coco_file(place, **changes)
    with pytest.raises(DatasetError, match=r"results cannot hold .*change it in .*coco\.json"):
        read_inputs([str(given[1])], str(given[3]))


def test_a_name_that_is_not_utf8(tmp_path):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/latin\xe9.png")
    Path(name).write_bytes(b"")
    with pytest.raises(DatasetError, match=r"latin\\udce9\.png.*rename it"):
        read_inputs([str(tmp_path)])


def test_a_link_to_a_name_that_is_not_utf8(tmp_path):
    (tmp_path / "a.png").symlink_to(os.fsdecode(b"latin\xe9.png"))
    _, reason = Pictures([str(tmp_path / "a.png")])[0]
    assert "latin\\udce9.png" in reason


@pytest.mark.parametrize("name", ["list.txt", "coco.json"])
def test_a_list_without_permission(tmp_path, name):
    (tmp_path / name).write_text("{}")
    (tmp_path / name).chmod(0)
    text = forks.without_privileges(partial(read_inputs, [str(tmp_path / name)]), tmp_path / "log")
    assert text == f"{tmp_path / name} cannot be read: Permission denied\n"


def test_overwriting_begins_anew(place, tmp_path):
    given = ["--input", place / "photos/01.png"]
    assert lesa(*arguments(place, tmp_path)).returncode == 0
    assert lesa(*arguments(place, tmp_path, "--overwrite", given=given)).returncode == 0
    assert len(json.loads((tmp_path / "images.json").read_bytes())["images"]) == 1


def test_a_second_run_in_the_same_folder_is_refused(place, tmp_path):
    (tmp_path / "shards").mkdir()
    shard = Shard(tmp_path / "shards", 1)
    result = lesa(*arguments(place, tmp_path))
    assert result.returncode == 2
    assert "is being written by another process" in result.stderr
    shard.close()


def test_readers_and_batches_change_nothing(place, finished, tmp_path):
    result = lesa(*arguments(place, tmp_path, "--num-workers", 2, "--batch-size", 3))
    assert result.returncode == 0, result.stderr
    ours, alone = (json.loads(content(folder)[0]) for folder in (tmp_path, finished))
    assert [one["image_id"] for one in ours] == [one["image_id"] for one in alone]
    np.testing.assert_allclose([o["score"] for o in ours], [a["score"] for a in alone], rtol=1e-4)
