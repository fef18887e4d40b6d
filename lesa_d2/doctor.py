"""``python -m lesa_d2.doctor``: versions, what is missing, and the exact command that mends it."""

import importlib
import importlib.metadata
import importlib.util
import os
import platform
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass

INSTALL_DETECTRON2 = "python tools/install_detectron2.py"


@dataclass(frozen=True)
class Package:
    """A package that must import; ``install`` is what pip gets."""

    module: str
    install: str

    @property
    def distribution(self) -> str:
        return self.install.split("<")[0].split(">")[0]


PACKAGES = (
    Package("torch", "torch torchvision"),
    Package("torchvision", "torch torchvision"),
    Package("numpy", "numpy"),
    Package("fvcore", "fvcore"),
    Package("iopath", "iopath"),
    Package("pycocotools", "pycocotools"),
    Package("cv2", "opencv-python"),
    Package("omegaconf", "omegaconf<2.4"),
    Package("hydra", "hydra-core"),
    Package("cloudpickle", "cloudpickle"),
    Package("yacs", "yacs"),
    Package("PIL", "Pillow"),
    Package("matplotlib", "matplotlib"),
    Package("tabulate", "tabulate"),
    Package("tensorboard", "tensorboard"),
    Package("pkg_resources", "setuptools<82"),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``mend`` is a command, empty when nothing is wrong."""

    name: str
    state: str
    mend: str = ""


def diagnose() -> list[Finding]:
    """Every check in order; nothing is raised."""
    findings = [Finding("python", platform.python_version())]
    findings += [check_package(package) for package in PACKAGES]
    checks: list[Callable[[], Finding]] = [
        check_torch_pair,
        check_detectron2,
        check_lesa,
        check_device,
        check_data,
        check_weights,
    ]
    return findings + [check() for check in checks]


def check_package(package: Package) -> Finding:
    """Whether a package imports, and its version."""
    mend = f'{sys.executable} -m pip install "{package.install}"'
    if " " in package.install:
        mend = f"{sys.executable} -m pip install {package.install}"
    try:
        module = importlib.import_module(package.module)
    except Exception as error:  # a broken installation fails in many ways
        return Finding(package.module, f"does not import: {type(error).__name__}: {error}", mend)
    version = getattr(module, "__version__", None) or installed_version(package.distribution)
    return Finding(package.module, version)


def installed_version(distribution: str) -> str:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return "version unknown"


def check_torch_pair() -> Finding:
    """Whether torchvision's operators were built for this torch."""
    name = "torchvision operators"
    mend = f"{sys.executable} -m pip install --upgrade --force-reinstall torch torchvision"
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        return Finding(name, f"do not run: {str(error).splitlines()[0]}", mend)
    return Finding(name, "run")


def check_detectron2() -> Finding:
    """Which detectron2 is imported, and whether its model zoo works."""
    mend = f"{sys.executable} {INSTALL_DETECTRON2.split(' ', 1)[1]}"
    try:
        import detectron2
        from detectron2 import model_zoo

        model_zoo.get_config("common/models/mask_rcnn_fpn.py")
    except ModuleNotFoundError as error:
        if error.name == "pkg_resources":
            mend = f'{sys.executable} -m pip install "setuptools<82"'
        return Finding("detectron2", f"does not import: {error}", mend)
    except Exception as error:
        return Finding("detectron2", f"does not work: {type(error).__name__}: {error}", mend)
    carried = "LabGym" in (detectron2.__file__ or "")
    return Finding(
        "detectron2", f"{detectron2.__version__} ({'carried by LabGym' if carried else 'installed'})"
    )


def check_lesa() -> Finding:
    """Whether the backbones build."""
    try:
        import torch

        from . import __version__
        from .modeling import build_lesa_resnet

        with torch.device("meta"):
            build_lesa_resnet()
    except Exception as error:
        return Finding("lesa_d2", f"does not work: {type(error).__name__}: {error}", "see the lines above")
    return Finding("lesa_d2", __version__)


def check_device() -> Finding:
    """GPUs; none is not an error."""
    try:
        import torch
    except Exception:
        return Finding("device", "unknown without torch")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding(
        "device", ", ".join(names) if names else f"CPU, {torch.get_num_threads()} threads (no GPU)"
    )


def check_data() -> Finding:
    """Where data sets are looked for; missing ones are not an error."""
    root = os.getenv("DETECTRON2_DATASETS", "datasets")
    present = sorted(os.listdir(root)) if os.path.isdir(root) else []
    return Finding("DETECTRON2_DATASETS", f"{root}: {', '.join(present) or 'nothing there yet'}")


def check_weights() -> Finding:
    """Where our own weights are looked for; missing ones are not an error."""
    try:
        from .checkpoint.store import models_folder
    except Exception:
        return Finding("LESA_MODELS", "unknown without detectron2")
    folder = models_folder()
    present = sorted(path.name for path in folder.glob("*.pth"))
    return Finding("LESA_MODELS", f"{folder}: {', '.join(present) or 'no weights there yet'}")


def main() -> int:
    """Print the report; 1 when something has to be mended."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        findings = diagnose()
    width = max(len(finding.name) for finding in findings)
    for finding in findings:
        print(f"{'!!' if finding.mend else 'ok'}  {finding.name:<{width}}  {finding.state}")
    mends = list(dict.fromkeys(finding.mend for finding in findings if finding.mend))
    if mends:
        print("\nTo mend, run:")
        print("\n".join(f"  {mend}" for mend in mends))
    return 1 if mends else 0


if __name__ == "__main__":
    sys.exit(main())
