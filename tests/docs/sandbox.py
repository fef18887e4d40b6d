"""A copy of the repository in which documented commands run as they stand, in seconds.

Its configs are the shipped ones, shrunk by a line at their end; its ``.venv`` is the environment of the
tests, with everything imported; what the documents call DIR, FILE.pth and so on is there.
"""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import torch
import yaml
from coco_tree import write_coco_tree
from detectron2.config import instantiate
from shrink import SIDE
from warm_python import WarmPython

from lesa_d2.checkpoint import to_official
from lesa_d2.config import load_any_config, load_config
from lesa_d2.modeling import build_lesa_resnet
from lesa_d2.modeling.build import build_yacs_model

ROOT = Path(__file__).resolve().parents[2]
HELPERS = ROOT / "tests/helpers"
COPIED = ("configs", "docs", "projects", "train_net.py", "setup.py", "README.md", "pyproject.toml")
STARTS = ("imagenet_lesa_r50", "imagenet_lesa_wr50", "imagenet_conv_r50")
CLASSIFIER = dict(num_classes=5, base_channels=16, stem_channels=8, image_size=64)  # with the released blocks
YACS = {
    "MODEL": {
        "LESA": {"IMAGE_SIZE": [SIDE, SIDE], "NUM_HEADS": 4, "BLOCKS": [1, 1, 2, 1]},
        "RESNETS": {"STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 32},
        "FPN": {"OUT_CHANNELS": 32},
        "ROI_BOX_HEAD": {"FC_DIM": 16},
        "ROI_MASK_HEAD": {"CONV_DIM": 16},
    },
    "INPUT": {
        "MIN_SIZE_TRAIN": [SIDE],
        **dict.fromkeys(("MAX_SIZE_TRAIN", "MIN_SIZE_TEST", "MAX_SIZE_TEST"), SIDE),
    },
}


class Sandbox:
    """The copy, in ``folder``."""

    def __init__(self, folder):
        self.folder = folder
        self.env = {
            **os.environ,
            "PYTHONPATH": f"{ROOT}{os.pathsep}{HELPERS}",
            "PATH": f"{folder / '.venv/bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONWARNINGS": "ignore",
            "DETECTRON2_DATASETS": str(folder / "datasets"),
            "LESA_MODELS": str(folder / "models"),
        }
        self.warm_python = WarmPython(folder, self.env)
        copy_repository(folder)
        self._make_environment()
        make_data(folder)
        make_weights(folder)

    def _make_environment(self):
        binaries = self.folder / ".venv/bin"
        binaries.mkdir(parents=True)
        self.warm_python.write_command(binaries / "python")
        self.warm_python.write_command(binaries / "python3")
        self.warm_python.write_command(binaries / "lesa", "-m", "lesa_d2.cli")

    def close(self):
        self.warm_python.close()

    def run(self, script, *, python=False):
        """Run a block of commands, or of Python, as a reader would; (exit status, everything printed)."""
        command = ["python", "-c", script] if python else ["bash", "-e", "-c", script]
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout


def copy_repository(folder):
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, target)
    for file in (folder / "configs").glob("*.py"):
        file.write_text(f"{file.read_text()}\n\nfrom shrink import shrink\n\nshrink(globals())\ndel shrink\n")
    small = folder / "configs/yacs/mask_rcnn_lesa_r50.yaml"
    small.write_text(yaml.safe_dump(merged(yaml.safe_load(small.read_text()), YACS)))


def merged(config, changes):
    """Nested dicts in one."""
    for key, value in changes.items():
        config[key] = merged(config.get(key, {}), value) if isinstance(value, dict) else value
    return config


def make_data(folder):
    rng = np.random.default_rng(0)
    write_coco_tree(folder / "datasets")
    write_own_data(folder / "own_data")
    shapes = folder / "datasets/shapes/val_200x160px_seed2/images"  # what the quick start draws
    for place in (folder / "photos", shapes):
        place.mkdir(parents=True)
        for index in range(2):
            cv2.imwrite(str(place / f"{index}.jpg"), rng.integers(0, 256, (120, 160, 3), np.uint8))
    shutil.copy(folder / "photos/0.jpg", folder / "photo.jpg")
    for split in ("train", "val"):
        for name in ("cat", "dog"):
            place = folder / "image_folder" / split / name
            place.mkdir(parents=True)
            for index in range(2):
                cv2.imwrite(str(place / f"{index}.jpg"), rng.integers(0, 256, (90, 80, 3), np.uint8))
    clip = cv2.VideoWriter(str(folder / "clip.mp4"), cv2.VideoWriter.fourcc(*"mp4v"), 10, (64, 48))
    for index in range(3):
        clip.write(np.full((48, 64, 3), 60 * index, np.uint8))
    clip.release()


def write_own_data(folder):
    """A folder with a JSON to be split and one for test, whose objects are bright rectangles."""
    (folder / "images").mkdir(parents=True)
    write_part(folder, "labels.json", range(10))
    write_part(folder, "test.json", range(10, 12))


def write_part(folder, name, indices):
    images, annotations = [], []
    for index in indices:
        x, y = 5 + 2 * index, 8 + index
        picture = np.full((60, 80, 3), 60, np.uint8)
        picture[y : y + 20, x : x + 30] = (40, 200, 220) if index % 2 else (220, 90, 40)
        cv2.imwrite(str(folder / f"images/{index}.png"), picture)
        images.append({"id": index, "file_name": f"{index}.png", "width": 80, "height": 60})
        polygon = [x, y, x + 30, y, x + 30, y + 20, x, y + 20]
        ids = {"id": index + 1, "image_id": index, "category_id": 1 + index % 2, "iscrowd": 0}
        annotations.append({**ids, "bbox": [x, y, 30, 20], "area": 600, "segmentation": [polygon]})
    categories = [{"id": 1, "name": "blue"}, {"id": 2, "name": "yellow"}]
    data = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    (folder / name).write_text(json.dumps(data))


def make_weights(folder):
    models, sources = folder / "models", folder / "sources"
    models.mkdir()
    sources.mkdir()
    (folder / "converted").mkdir()
    for name in STARTS:
        torch.save({"model": built(folder, name).state_dict()}, models / f"{name}.pth")
    ours, conv = (build_lesa_resnet(operator, **CLASSIFIER).state_dict() for operator in ("lesa", "conv"))
    sources_of = {
        "official-imagenet": {"net": to_official(ours)},
        "torchvision": to_official(conv),
        "imagenet-to-detector": {"model": ours},
    }
    for name, content in sources_of.items():
        torch.save(content, sources / f"{name}.pth")


def built(folder, name):
    """The model of a shrunk config."""
    return instantiate(load_config(str(folder / f"configs/{name}.py")).model)


def weights_for(folder, config):
    """A checkpoint that fits a config of the sandbox, made once."""
    file = folder / "weights" / f"{config.replace('/', '_')}.pth"
    if not file.is_file():
        file.parent.mkdir(exist_ok=True)
        path = str(folder / config)
        if "yacs" in config:
            model = build_yacs_model(load_any_config(path, ["MODEL.DEVICE=cpu"]))
        else:
            model = built(folder, Path(config).stem)
        torch.save({"model": model.state_dict()}, file)
    return file


def filled_in(block, folder):
    """A block of commands with what its placeholders stand for."""
    block = re.sub(r"\\\n\s*", " ", block)
    block = block.replace("/path/to/datasets", str(folder / "datasets"))
    block = block.replace("/path/to/models", str(folder / "models"))
    block = block.replace("--dataset DIR", "--dataset own_data").replace("--data DIR", "--data image_folder")
    block = re.sub(r"train\.max_iter=\d+", "train.max_iter=2", block)  # all that is not word for word
    block = re.sub(r"\bCONFIG\b", "configs/mask_rcnn_lesa_r50.py", block)
    return "\n".join(_once_more(_with_files(line, folder)) for line in block.splitlines())


def _once_more(line):
    """A training that may replace what another page, with the same folder, has trained."""
    if "--resume" in line or "--eval-only" in line:
        return line
    return re.sub(r"(train_net\.py|pretrain_imagenet\.py|lesa (?:pre)?train)(?= )", r"\1 --overwrite", line)


def _with_files(line, folder):
    config = re.search(r"--config-file (\S+)", line)
    if "FILE.pth" in line and config:
        line = line.replace("FILE.pth", str(weights_for(folder, config[1])))
    kind = re.search(r"--from (\S+) SRC", line)
    if kind:
        line = line.replace("SRC", f"sources/{kind[1]}.pth").replace("$LESA_MODELS", "converted")
        line = line.replace("DST", "converted/DST")
    return line
