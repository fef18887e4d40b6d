"""A folder of predictions: what is done, what remains, and the files that come out."""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import orjson

from ...errors import LesaError
from ...storage import whole_file, write_text, written
from .inputs import Inputs
from .shards import Shards

SHARDS, REMOVED, REMAINING, MODEL = "shards", ".shards", "remaining.json", "model.json"
PREDICTIONS, IMAGES, UNREADABLE = "predictions.json", "images.json", "unreadable.txt"
INPUTS, RESULTS = "inputs_sha256", "predictions_sha256"
"""Names in ``info`` of the images: by them a complete folder is known to be of these pictures, and whole."""


class Job:
    """Predictions for some pictures by one model, in a folder.

    Args:
        folder: of the output.
        inputs: the pictures.
        categories: of the model's classes in order; empty where they have no names, so that ids count from 1.
        model: what the predictions depend on; JSON.
    """

    def __init__(
        self, folder: Path, inputs: Inputs, categories: Sequence[dict[str, Any]], model: dict[str, Any]
    ) -> None:
        self.folder, self.inputs, self.categories, self.model = folder, inputs, categories, model

    def start(self, overwrite: bool = False) -> list[str]:
        """Return the files that remain to be predicted; also written, for the other processes.

        Raises:
            LesaError: the folder holds predictions of another model or, complete, for other pictures or damaged.
            StorageError: it cannot be written.
        """
        if overwrite:
            self._remove()
        self._check_model()
        if (self.folder / PREDICTIONS).exists() and not (self.folder / SHARDS).exists():
            self._check_complete()
            return []
        write_text(self.folder / MODEL, json.dumps(self.model, indent=1))
        with written(self.folder / SHARDS):
            (self.folder / SHARDS).mkdir(exist_ok=True)
        done = Shards(self.folder / SHARDS).done
        remaining = [file for file in self.inputs.files if file not in done]
        with whole_file(self.folder / SHARDS / REMAINING) as file:
            file.write_bytes(orjson.dumps(remaining))
        return remaining

    def finish(self) -> dict[str, str]:
        """Put the shards together, and return by file the reason why it has no predictions.

        Results are in the order of the pictures.  While some cannot be read, the shards stay: another start tries
        these alone.

        Raises:
            LesaError: a picture has neither predictions nor a reason.
            StorageError: a file cannot be written.
        """
        if not (self.folder / SHARDS).exists():  # it was complete
            return {}
        shards = Shards(self.folder / SHARDS)
        files = self.inputs.files
        lost = [file for file in files if file not in shards.done and file not in shards.errors]
        if lost:
            raise LesaError(
                f"{len(lost)} pictures have no predictions yet, such as {lost[0]}; start the command again"
            )
        errors = {file: shards.errors[file] for file in files if file in shards.errors}
        self._write(shards)
        if errors:
            write_text(self.folder / UNREADABLE, "\n".join(errors.values()) + "\n")
        else:
            with written(self.folder):
                (self.folder / UNREADABLE).unlink(missing_ok=True)
                shutil.rmtree(self.folder / REMOVED, ignore_errors=True)
                (self.folder / SHARDS).rename(self.folder / REMOVED)  # in one step
            shutil.rmtree(self.folder / REMOVED, ignore_errors=True)
        return errors

    def _write(self, shards: Shards) -> None:
        """Write the images, and then the predictions, which are complete once their file is there."""
        images = []
        with (
            shards.reader() as line_of,
            whole_file(self.folder / PREDICTIONS) as file,
            file.open("wb") as out,
        ):
            predictions, separator = hashlib.sha256(), b"[\n"

            def write(text: bytes) -> None:
                out.write(text)
                predictions.update(text)

            for picture in self.inputs.pictures:
                if picture.file not in shards.done:
                    continue
                line = line_of(picture.file)
                size = {"width": line["width"], "height": line["height"]}
                images.append({"id": picture.id, "file_name": picture.name, **size})
                for result in line["results"]:
                    ids = {"image_id": picture.id, "category_id": self._category_id(result["category_id"])}
                    write(separator + orjson.dumps({**result, **ids}))
                    separator = b",\n"
            write(b"\n]\n" if separator == b",\n" else b"[]\n")
            info = {INPUTS: self._inputs_digest(), RESULTS: predictions.hexdigest()}
            with whole_file(self.folder / IMAGES) as listed:
                content = {"info": info, "images": images, "categories": list(self.categories)}
                listed.write_bytes(orjson.dumps(content))

    def _category_id(self, index: int) -> int:
        return self.categories[index]["id"] if self.categories else index + 1

    def _check_model(self) -> None:
        if not (self.folder / MODEL).exists():
            return
        before = _read(self.folder / MODEL)
        if different := [key for key in self.model if before.get(key) != self.model[key]]:
            changes = "; ".join(f"{key}: {before.get(key)} then, {self.model[key]} now" for key in different)
            raise LesaError(
                f"{self.folder} holds predictions made otherwise ({changes}); give another --output, or --overwrite "
                "to begin anew"
            )

    def _check_complete(self) -> None:
        """Check that the folder holds what would be written for these pictures."""
        info = _read(self.folder / IMAGES).get("info")
        before = info if isinstance(info, dict) else {}
        if before.get(INPUTS) != self._inputs_digest():
            raise LesaError(
                f"{self.folder} holds the predictions for other pictures, or with other ids of images or categories; "
                "give another --output, or --overwrite to begin anew"
            )
        if before.get(RESULTS) != digest(self.folder / PREDICTIONS):
            raise LesaError(
                f"{self.folder / PREDICTIONS} is not as it was written; give another --output, or --overwrite to "
                "begin anew"
            )

    def _inputs_digest(self) -> str:
        return hashlib.sha256(
            orjson.dumps([list(map(list, self.inputs.pictures)), list(self.categories)])
        ).hexdigest()

    def _remove(self) -> None:
        Shards(self.folder / SHARDS)  # nobody writes to them
        shutil.rmtree(self.folder / SHARDS, ignore_errors=True)
        with written(self.folder):
            for name in (PREDICTIONS, IMAGES, UNREADABLE, MODEL):
                (self.folder / name).unlink(missing_ok=True)


def read_remaining(folder: Path) -> list[str]:
    """Return what :meth:`Job.start` of the main process has written; nothing where all is done."""
    file = folder / SHARDS / REMAINING
    return orjson.loads(file.read_bytes()) if file.exists() else []


def digest(file: str | Path) -> str:
    """Return the SHA-256 of a file."""
    result = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            result.update(block)
    return result.hexdigest()


def _read(file: Path) -> dict[str, Any]:
    try:
        content = orjson.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise LesaError(f"{file} cannot be read ({error}); give another --output, or --overwrite") from error
    return content if isinstance(content, dict) else {}
