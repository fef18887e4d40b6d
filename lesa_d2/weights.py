"""Weights by address: ``lesa://NAME.pth`` with published results, and ``torchvision://NAME``.

Both addresses are registered with detectron2's PathManager by ``import lesa_d2.modeling``.
"""

import difflib
import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torchvision
from detectron2.utils.file_io import PathHandler, PathManager

from .errors import CheckpointError, listed

PREFIX, TORCHVISION = "lesa://", "torchvision://"
FOLDER_VARIABLE = "LESA_MODELS"
ADDRESS = re.compile(rf"{PREFIX}(\w[\w.-]*(?<!\.pth))\.pth")  # a NAME leads out of no folder


class Download(NamedTuple):
    """Say where weights are and how the SHA-256 digest of the file begins, in hexadecimal digits."""

    url: str
    sha256: str


@dataclass(frozen=True)
class Result:
    """Hold the published results of a model.

    AP on COCO and top-1 accuracy on ImageNet's validation set are in percent; None is unknown.  ``source``
    says whose results they are: "paper" and "release" are the authors', "torchvision" those of its weights of
    version 1, which the paper compares with.
    """

    source: str | None = None
    box_ap: float | None = None
    mask_ap: float | None = None
    top1: float | None = None


DOWNLOADS: dict[str, Download] = {}
"""Weights by name that can be downloaded; none are published yet."""

RESULTS = {
    "imagenet_conv_r50": Result("torchvision", top1=76.13),
    "imagenet_conv_wr50": Result("torchvision", top1=78.47),
    "imagenet_aa_r50": Result("paper", top1=78.74),
    "imagenet_sa_r50": Result("paper", top1=78.69),
    "imagenet_sa_wr50": Result("paper", top1=79.7),
    "imagenet_static_lesa_r50": Result("paper", top1=79.12),
    "imagenet_lesa_r50": Result("release", top1=79.55),
    "imagenet_lesa_wr50": Result("release", top1=80.18),
    "mask_rcnn_conv_r50": Result("paper", box_ap=37.8, mask_ap=34.5),
    "mask_rcnn_sa_r50": Result("paper", box_ap=38.5, mask_ap=34.7),
    "mask_rcnn_lesa_r50": Result("paper", box_ap=40.3, mask_ap=36.5),
    "mask_rcnn_conv_wr50": Result("paper", box_ap=40.9, mask_ap=36.9),
    "mask_rcnn_sa_wr50": Result("paper", box_ap=42.0, mask_ap=37.6),
    "mask_rcnn_lesa_wr50": Result("paper", box_ap=44.8, mask_ap=39.9),
    "mask_rcnn_dconv_r50_20e": Result("paper", box_ap=43.0, mask_ap=38.6),
    "mask_rcnn_lesa_dconv_r50_20e": Result("paper", box_ap=44.0, mask_ap=39.2),
    "mask_rcnn_dconv_wr50_20e": Result("paper", box_ap=44.7, mask_ap=39.8),
    "mask_rcnn_lesa_dconv_wr50_20e": Result("paper", box_ap=46.3, mask_ap=40.9),
    "htc_dconv_wr50_20e": Result("paper", box_ap=47.4, mask_ap=41.9),
    "htc_lesa_dconv_wr50_20e": Result("paper", box_ap=48.8, mask_ap=43.0),
    "htc_dconv_wr50_20e_1280": Result("paper", box_ap=48.5, mask_ap=42.8),
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


class _WeightsHandler(PathHandler):
    """Open what subclasses find: ``_get_local_path`` of an address, and ``_isfile`` without a download."""

    def _open(self, path: str, mode: str = "r", buffering: int = -1, **kwargs: Any) -> Any:
        return open(self._get_local_path(path), mode, buffering)

    def _exists(self, path: str, **kwargs: Any) -> bool:
        return self._isfile(path)


class LesaModelsHandler(_WeightsHandler):
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
            return _download(name, DOWNLOADS[name], file.name, force)
        raise CheckpointError(_how_to_get(file))

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        name = _name(path)
        return name is not None and weights_state(name) != "none"


class TorchvisionHandler(_WeightsHandler):
    """Find the weights that torchvision publishes: ``torchvision://resnet50/IMAGENET1K_V2``.

    Without the part behind the name they are the first that torchvision lists, ``IMAGENET1K_V1`` for ResNets:
    those of the paper's baselines.  Address and digest are torchvision's.  The file is looked for under its own
    name in :func:`models_folder` and in the cache of ``torch.hub``, and else downloaded into PathManager's cache.

    Raises:
        CheckpointError: torchvision has no such weights, the download fails, or the file is damaged.
    """

    def _get_supported_prefixes(self) -> list[str]:
        return [TORCHVISION]

    def _get_local_path(self, path: str, force: bool = False, **kwargs: Any) -> str:
        url = torchvision_url(path)
        name = url.rpartition("/")[2]
        digest = re.search(r"-([0-9a-f]{8,})\.", name)
        source = Download(url, digest[1] if digest else "")
        for folder in (models_folder(), Path(torch.hub.get_dir()) / "checkpoints"):
            if (folder / name).is_file():
                return _checked(str(folder / name), path, source)
        return _download(path, source, name, force)

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            torchvision_url(path)
        except CheckpointError:
            return False
        return True


def torchvision_url(address: str) -> str:
    """Return where the weights of ``torchvision://NAME`` or ``torchvision://NAME/WEIGHTS`` are published.

    Raises:
        CheckpointError: torchvision has no such model, or no such weights of it; names those it has.
    """
    name, _, wanted = address.removeprefix(TORCHVISION).partition("/")
    try:
        weights = torchvision.models.get_model_weights(name)
    except ValueError:
        near = difflib.get_close_matches(name, torchvision.models.list_models(), n=3)
        raise CheckpointError(
            f"{address!r}: torchvision has no model {name!r}"
            + (f"; did you mean {' or '.join(near)}?" if near else "; expected a name such as resnet50")
        ) from None
    members = weights.__members__
    if (wanted and wanted not in members) or not members:
        raise CheckpointError(
            f"{address!r}: torchvision has these weights of {name}: {listed(list(members))}"
        )
    return (members[wanted] if wanted else next(iter(weights))).url


def _name(path: str) -> str | None:
    match = ADDRESS.fullmatch(path)
    return match[1] if match else None


def _download(name: str, source: Download, file_name: str, force: bool) -> str:
    try:
        file = PathManager.get_local_path(source.url, force=force)
    except Exception as error:  # what a download raises depends on its protocol
        raise CheckpointError(
            f"weights {name!r} cannot be downloaded from {source.url}: {error}. Try again, or put the file "
            f"into {models_folder()} as {file_name}"
        ) from error
    if not os.path.isfile(file):
        raise CheckpointError(
            f"weights {name!r} cannot be downloaded from {source.url}: there is no such file. Put the file into "
            f"{models_folder()} as {file_name}"
        )
    return _checked(file, name, source)


def _checked(file: str, name: str, source: Download) -> str:
    """Return the file; CheckpointError where its digest does not begin as it should."""
    digest = _sha256(file)
    if not digest.startswith(source.sha256):
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
        f"{listed(present) or 'no .pth file'}; there is no download.\n"
        + "\n".join(f"  {start}" for start in _ways_to_start(file.stem))
    )


def _ways_to_start(name: str) -> list[str]:
    """Return the ways to begin without the weights of this name, the shortest first (docs/training.md)."""
    scratch = "train.init_checkpoint='' model.backbone.bottom_up.norm=BN model.backbone.bottom_up.freeze_at=0"
    unloaded = "(yacs: MODEL.WEIGHTS '', model zoo: trained=False)"
    if not name.startswith("imagenet_"):
        return [
            "train them (lesa train; classifiers: lesa pretrain) or convert them (lesa convert --help lists what it "
            "takes), and put the file there",
            f"go without: {scratch} {unloaded}",
        ]
    network = "wide_resnet50_2" if "wr50" in name else "resnet50"
    file = models_folder() / f"{name}.pth"
    return [
        f"from a trained convolution, which is downloaded: train.init_checkpoint={TORCHVISION}{network}",
        f"from own pre-training: lesa pretrain --config-file configs/{name}.py --data DIR, whose model_final.pth "
        f"becomes {file}",
        f"from the authors' file: lesa convert --from official-imagenet FILE {file}",
        f"from nothing: {scratch} {unloaded}",
    ]


def register_addresses() -> None:
    """Register ``lesa://`` and ``torchvision://`` with detectron2's PathManager; a second call changes nothing."""
    for handler in (LesaModelsHandler(), TorchvisionHandler()):
        PathManager.register_handler(handler, allow_override=True)
