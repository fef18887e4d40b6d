"""The folder of our own weights, read as ``lesa://NAME.pth`` through detectron2's PathManager."""

import os
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathHandler, PathManager

from ..errors import CheckpointError

FOLDER_VARIABLE = "LESA_MODELS"
PREFIX = "lesa://"
START = "start_"  # names of what detectron2's own checkpointer can start a detector from
RELEASED = {"lesa": "official-imagenet", "conv": "torchvision"}
"""Operators of which others have trained classifiers, and the conversion that reads them."""


def models_folder() -> Path:
    """The folder named by ``LESA_MODELS``; ``./models`` when that is not set."""
    return Path(os.getenv(FOLDER_VARIABLE, "models")).expanduser()


class LesaModelsHandler(PathHandler):
    """Resolves ``lesa://NAME.pth`` to a file in :func:`models_folder`.

    Raises:
        CheckpointError: the file is not there; says how to make or convert it.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name = path.removeprefix(PREFIX)
        file = models_folder() / name
        if not file.is_file():
            raise CheckpointError(missing_weights(name, file))
        return str(file)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, buffering)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        return (models_folder() / path.removeprefix(PREFIX)).is_file()

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path)


def missing_weights(name: str, file: Path) -> str:
    """What to tell a user who lacks the weights ``name``."""
    present = sorted(path.name for path in file.parent.glob("*.pth")) if file.parent.is_dir() else []
    stem = Path(name).stem
    unset = "" if FOLDER_VARIABLE in os.environ else ", which is not set"
    how = _start(stem, file) if stem.startswith(START) else _classifier(stem, file)
    return (
        f"no weights {name!r}: expected the file {file} (folder from {FOLDER_VARIABLE}{unset}; "
        f"it holds {present or 'no .pth file'}). They cannot be downloaded.\n{how}"
        'or start from scratch: train.init_checkpoint="" (yacs: MODEL.WEIGHTS "")'
    )


def _start(stem: str, file: Path) -> str:
    """How to make the start of a yacs detector."""
    classifier = file.with_name(stem.replace(START, "imagenet_", 1) + ".pth")
    return (
        "  make them of a classifier: python projects/LESA/convert_checkpoint.py --from imagenet-to-detector "
        f"{classifier} {file}\n"
    )


def _classifier(stem: str, file: Path) -> str:
    """How to get the weights of a classifier."""
    return (
        "  make them: python projects/LESA/pretrain_imagenet.py "
        f"--config-file configs/{stem}.py --data DIR, then copy its model_best.pth there\n"
        f"{_conversion(stem, file)}"
    )


def _conversion(stem: str, file: Path) -> str:
    """How to convert somebody else's weights to ``imagenet_OPERATOR_…``, where there are any."""
    kind = next((RELEASED[part] for part in stem.split("_") if part in RELEASED), None)
    if kind is None:
        return ""
    return f"  convert them: python projects/LESA/convert_checkpoint.py --from {kind} SRC {file}\n"


def register_models_folder() -> None:
    """Teach detectron2's PathManager the prefix; calling it again changes nothing."""
    PathManager.register_handler(LesaModelsHandler(), allow_override=True)
