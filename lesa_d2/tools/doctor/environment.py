"""What the environment is like: versions, detectron2, devices, folders."""

import importlib
import importlib.metadata
import os
import platform
import re
import sys
from collections.abc import Callable

from .findings import Finding, pip

DISTRIBUTION = "lesa_d2"
MODULES = {"opencv-python": "cv2", "Pillow": "PIL", "hydra-core": "hydra", "setuptools": "pkg_resources"}
"""Import names that differ from the distribution's."""


def check_environment() -> list[Finding]:
    """Every check in order; nothing is raised."""
    findings = [Finding("python", platform.python_version()), *check_requirements()]
    checks: list[Callable[[], Finding]] = [
        check_torch_pair,
        check_detectron2,
        check_lesa,
        check_device,
        check_data,
        check_weights,
    ]
    return findings + [check() for check in checks]


def check_requirements() -> list[Finding]:
    """One finding for every dependency that setup.py declares."""
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return [Finding(DISTRIBUTION, "is not installed", pip("--editable ."))]
    return [check_package(requirement) for requirement in declared if "extra ==" not in requirement]


def check_package(requirement: str) -> Finding:
    """Whether a distribution, such as ``numpy<3,>=1.26``, is installed in range and imports."""
    name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
    mend = pip("torch torchvision" if name in ("torch", "torchvision") else f'"{requirement}"')
    try:
        module = importlib.import_module(MODULES.get(name, name))
        # without a distribution of this name it is another build, such as opencv's headless one
        version = installed_version(name) or module.__version__
    except Exception as error:  # a broken installation fails in many ways
        return Finding(name, f"does not import: {type(error).__name__}: {error}", mend)
    if not in_range(version, requirement[len(name) :]):
        return Finding(name, f"{version} is outside {requirement[len(name) :]}", mend)
    return Finding(name, version)


def installed_version(distribution: str) -> str | None:
    """The version pip knows, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def in_range(version: str, limits: str) -> bool:
    """Whether ``version`` lies within limits such as ``<3,>=1.26``."""
    from packaging.specifiers import SpecifierSet

    return SpecifierSet(limits).contains(version, prereleases=True)


def check_torch_pair() -> Finding:
    """Whether torchvision's operators were built for this torch."""
    name = "torchvision operators"
    mend = pip("--upgrade --force-reinstall torch torchvision")
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        return Finding(name, f"do not run: {str(error).splitlines()[0]}", mend)
    return Finding(name, "run")


def check_detectron2() -> Finding:
    """Which detectron2 is imported, and whether its model zoo works."""
    mend = f"{sys.executable} tools/install_detectron2.py"
    try:
        import detectron2
        from detectron2 import model_zoo

        model_zoo.get_config("common/models/mask_rcnn_fpn.py")
    except ModuleNotFoundError as error:
        missing = (error.name or "detectron2").split(".")[0]
        if missing != "detectron2":  # one of its dependencies
            mend = pip('"setuptools<82"' if missing == "pkg_resources" else missing)
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

        from ... import __version__
        from ...modeling import build_lesa_resnet

        with torch.device("meta"):
            build_lesa_resnet()
    except Exception as error:
        return Finding("lesa_d2", f"does not work: {type(error).__name__}: {error}", pip("--editable ."))
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
        from ...checkpoint import models_folder
    except Exception:
        return Finding("LESA_MODELS", "unknown without detectron2")
    folder = models_folder()
    present = sorted(path.name for path in folder.glob("*.pth"))
    return Finding("LESA_MODELS", f"{folder}: {', '.join(present) or 'no weights there yet'}")
