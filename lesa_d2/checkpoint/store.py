"""Our own weights, read as ``lesa://NAME.pth`` through detectron2's PathManager.

They lie in a folder, or behind the address that the catalog has for their name.
"""

import os
from pathlib import Path
from typing import Any

from detectron2.utils.file_io import PathHandler, PathManager

from ..config.files import config_files
from ..errors import CheckpointError
from .catalog import NAME, NAME_FORM, PREFIX, Entry, known_sha256, read_catalog

FOLDER_VARIABLE = "LESA_MODELS"
START = "start_"  # names of what detectron2's own checkpointer can start a detector from
RELEASED = {
    **dict.fromkeys(("imagenet_lesa_r50", "imagenet_lesa_wr50"), "official-imagenet"),
    **dict.fromkeys(("imagenet_conv_r50", "imagenet_conv_wr50"), "torchvision"),
    **dict.fromkeys(
        (
            "mask_rcnn_lesa_dconv_r50_20e",
            "htc_lesa_dconv_wr50_20e_1280",
            "htc_lesa_dconv_wr50_20e_1280_fixed",
        ),
        "official-detector",
    ),
}
"""Names of which others have trained weights, and the conversion that reads them."""
CLASSIFIERS = ("imagenet_", "quickstart_classifier")


def models_folder() -> Path:
    """The folder named by ``LESA_MODELS``; ``./models`` when that is not set."""
    return Path(os.getenv(FOLDER_VARIABLE, "models")).expanduser()


class LesaModelsHandler(PathHandler):
    """Resolves ``lesa://NAME.pth``: a file in :func:`models_folder`, else a download of the catalog's.

    Raises:
        CheckpointError: the address is not of this form; neither is there, which says how to make or convert
            the weights; the download fails; or the file is not the one of the catalog's digest.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        name, entry = _look_up(path)
        file = models_folder() / name
        if not file.is_file():
            if not entry.url:
                raise CheckpointError(missing_weights(name, file))
            file = _download(name, entry.url, force)
        _check_digest(name, file, entry)
        return str(file)

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, buffering)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        stem = _stem(path)
        return stem is not None and weights_state(stem) != "none"

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path)


def weights_state(name: str) -> str:
    """Where ``lesa://NAME.pth`` comes from: "local", "download", or "none" where it cannot be had."""
    if (models_folder() / f"{name}.pth").is_file():
        return "local"
    return "download" if _look_up(f"{PREFIX}{name}.pth")[1].url else "none"


def _look_up(path: str) -> tuple[str, Entry]:
    """The file's name in the folder, and what the catalog knows of it."""
    stem = _stem(path)
    if stem is None:
        raise CheckpointError(
            f"{path!r} is no address of weights: expected {PREFIX}NAME.pth, with a NAME of {NAME_FORM}. "
            "Correct it, or give the path of a .pth file"
        )
    return f"{stem}.pth", read_catalog(models_folder()).get(stem, Entry())


def _stem(path: str) -> str | None:
    """NAME of ``lesa://NAME.pth``; None for anything else, which might lead out of the folder."""
    name = path.removeprefix(PREFIX)
    stem = name.removesuffix(".pth")
    return stem if stem != name and NAME.fullmatch(stem) else None


def _download(name: str, url: str, force: bool) -> Path:
    """The local copy of ``url``, which PathManager keeps in its cache."""
    try:
        file = Path(PathManager.get_local_path(url, force=force))
    except Exception as error:  # what a download raises depends on its protocol
        raise CheckpointError(
            f"weights {name!r} cannot be downloaded from {url}: {error}. Try again, or put the file into "
            f"{models_folder()} yourself"
        ) from error
    if not file.is_file():
        raise CheckpointError(f"weights {name!r}: the catalog's address {url} leads to no file")
    return file


def _check_digest(name: str, file: Path, entry: Entry) -> None:
    found = known_sha256(file) if entry.sha256 else None
    if found == entry.sha256:
        return
    raise CheckpointError(
        f"weights {name!r}: {file} is damaged or another file.\n"
        f"  expected SHA-256 {entry.sha256}\n  found    SHA-256 {found}\n"
        f"  {_remedy(file, entry.url)}, or, if it was replaced on purpose, record it: "
        f"python -m lesa_d2.model_zoo add {name.removesuffix('.pth')} {file}"
    )


def _remedy(file: Path, url: str | None) -> str:
    """How to get the right content of ``file``, which may be what ``url`` itself names."""
    if not url:
        return "copy it again"
    if os.path.exists(url) and os.path.samefile(url, file):
        return f"put the right file there, where the catalog's address {url} leads"
    return f"delete it to download it again from {url}"


def missing_weights(name: str, file: Path) -> str:
    """What to tell a user who lacks the weights ``name``."""
    present = sorted(path.name for path in file.parent.glob("*.pth")) if file.parent.is_dir() else []
    unset = "" if FOLDER_VARIABLE in os.environ else ", which is not set"
    how = "".join(f"  {line}\n" for line in _ways(Path(name).stem, file))
    return (
        f"no weights {name!r}: expected the file {file} (folder from {FOLDER_VARIABLE}{unset}; "
        f"it holds {present or 'no .pth file'}). They cannot be downloaded: no address is known.\n{how}"
        'or go without: train.init_checkpoint="" (yacs: MODEL.WEIGHTS "", zoo: trained=False)'
    )


def _ways(stem: str, file: Path) -> list[str]:
    """How to get the weights, one way a line."""
    convert = "python projects/LESA/convert_checkpoint.py --from"
    if stem.startswith(START):
        classifier = file.with_name(stem.replace(START, "imagenet_", 1) + ".pth")
        return [f"make them of a classifier: {convert} imagenet-to-detector {classifier} {file}"]
    ways = []
    if stem in config_files():
        ways.append(f"make them: {_training(stem)}, then python -m lesa_d2.model_zoo add {stem} FILE")
    if stem in RELEASED:
        ways.append(f"convert them: {convert} {RELEASED[stem]} SRC {file}")
    return ways or [f"if you have them: python -m lesa_d2.model_zoo add {stem} FILE"]


def _training(stem: str) -> str:
    """The command that trains the config ``stem``, and the file it leaves."""
    if not stem.startswith(CLASSIFIERS):
        return f"python train_net.py --config-file configs/{stem}.py (FILE is its model_final.pth)"
    data = " --data DIR" if stem.startswith("imagenet_") else ""
    return (
        f"python projects/LESA/pretrain_imagenet.py --config-file configs/{stem}.py{data} "
        "(FILE is its model_best.pth)"
    )


def register_models_folder() -> None:
    """Teach detectron2's PathManager the prefix; calling it again changes nothing."""
    PathManager.register_handler(LesaModelsHandler(), allow_override=True)
