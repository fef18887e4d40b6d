"""Weights by name, ``lesa://NAME.pth``, and the published results of the models of that name."""

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from detectron2.utils.file_io import PathHandler, PathManager

from ..errors import CheckpointError, listed

PREFIX = "lesa://"
FOLDER_VARIABLE = "LESA_MODELS"
ADDRESS = re.compile(rf"{PREFIX}(\w[\w.-]*(?<!\.pth))\.pth")  # a NAME leads out of no folder


class Download(NamedTuple):
    """Say where weights are and what SHA-256 digest, in hexadecimal digits, the file has."""

    url: str
    sha256: str


@dataclass(frozen=True)
class Result:
    """Hold the published results of a model.

    AP on COCO and top-1 accuracy on ImageNet's validation set are in percent; None is unknown.  ``source``
    says whose results they are: "paper" and "release" are the authors'.
    """

    source: str | None = None
    box_ap: float | None = None
    mask_ap: float | None = None
    top1: float | None = None


DOWNLOADS: dict[str, Download] = {}
"""Weights by name that can be downloaded; none are published yet."""

RESULTS = {
    "imagenet_lesa_r50": Result("release", top1=79.55),
    "imagenet_lesa_wr50": Result("release", top1=80.18),
    "mask_rcnn_lesa_dconv_r50_20e": Result("paper", box_ap=44.0, mask_ap=39.2),
    "htc_lesa_dconv_wr50_20e_1280": Result("paper", box_ap=50.1, mask_ap=43.9),
}


def models_folder() -> Path:
    """Return the folder that ``LESA_MODELS`` names, or ``./models`` where that is not set."""
    return Path(os.getenv(FOLDER_VARIABLE, "models")).expanduser()


def weights_state(name: str) -> str:
    """Return where ``lesa://NAME.pth`` comes from: "local", "download", or "none" where it is nowhere."""
    if (models_folder() / f"{name}.pth").is_file():
        return "local"
    return "download" if name in DOWNLOADS else "none"


class LesaModelsHandler(PathHandler):
    """Find ``lesa://NAME.pth`` in :func:`models_folder`, or else download it as ``DOWNLOADS`` says.

    PathManager keeps downloads in its cache.  The digest of a downloaded file is compared at every use.

    Raises:
        CheckpointError: the address has another form, the weights are neither here nor to be downloaded, the
            download fails, or its digest differs.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = _name(path)
        if name is None:
            raise CheckpointError(
                f"{path!r} is no address of weights: expected {PREFIX}NAME.pth, with a NAME of letters, "
                "digits, '_', '-' and '.'. Correct it, or give the path of a .pth file"
            )
        file = models_folder() / f"{name}.pth"
        if file.is_file():
            return str(file)
        if name in DOWNLOADS:
            return _download(name, DOWNLOADS[name], force)
        raise CheckpointError(_how_to_get(file))

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, buffering)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        name = _name(path)
        return name is not None and weights_state(name) != "none"

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path)


def _name(path: str) -> str | None:
    match = ADDRESS.fullmatch(path)
    return match[1] if match else None


def _download(name: str, source: Download, force: bool) -> str:
    try:
        file = PathManager.get_local_path(source.url, force=force)
        digest = _sha256(file)
    except Exception as error:  # what a download raises depends on its protocol
        raise CheckpointError(
            f"weights {name!r} cannot be downloaded from {source.url}: {error}. Try again, or put the file "
            f"into {models_folder()} as {name}.pth"
        ) from error
    if digest != source.sha256:
        raise CheckpointError(
            f"weights {name!r}: {file} from {source.url} is damaged or another file: expected SHA-256 "
            f"{source.sha256}, got {digest}. Delete it to download it again"
        )
    return file


def _sha256(file: str) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as content:
        while chunk := content.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def _how_to_get(file: Path) -> str:
    name, present = file.name, sorted(path.name for path in file.parent.glob("*.pth"))
    return (
        f"no weights {name!r}: expected the file {file}, in the folder of {FOLDER_VARIABLE}, which holds "
        f"{listed(present) or 'no .pth file'}; there is no download. Train them (lesa train; classifiers: "
        "lesa pretrain) or convert them (lesa convert), "
        'and put the file there; or go without: train.init_checkpoint="" (yacs: MODEL.WEIGHTS "", model zoo: '
        "trained=False)"
    )


def register_models_folder() -> None:
    """Register the prefix ``lesa://`` with detectron2's PathManager; a second call changes nothing."""
    PathManager.register_handler(LesaModelsHandler(), allow_override=True)
