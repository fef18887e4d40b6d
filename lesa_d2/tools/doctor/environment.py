"""Checks of the environment: versions, detectron2, devices, folders."""

import importlib
import importlib.metadata
import os
import platform
from collections.abc import Callable

from ...install_detectron2 import COMMAND as INSTALL_DETECTRON2
from .findings import Finding, pip

DISTRIBUTION = "lesa_d2"
MODULES = {"opencv-python": "cv2", "Pillow": "PIL", "hydra-core": "hydra", "setuptools": "pkg_resources"}
"""Import names that differ from the distribution's."""


def check_environment() -> list[Finding]:
    """Return the findings of every check, in order; no check raises an error."""
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
    """Return one finding for every dependency that the package declares."""
    try:
        declared = importlib.metadata.requires(DISTRIBUTION) or []
        return [check_package(requirement) for requirement in declared if "extra ==" not in requirement]
    except importlib.metadata.PackageNotFoundError:
        return [Finding(DISTRIBUTION, "is not installed", pip("--editable ."))]
    except ModuleNotFoundError as error:  # check_package itself needs packaging
        return [Finding("packaging", f"does not import: {error}", pip("packaging"))]


def check_package(requirement: str) -> Finding:
    """Check that a distribution, such as ``numpy<3,>=1.26``, is installed in this range and imports."""
    from packaging.requirements import Requirement

    parsed = Requirement(requirement)
    name, limits = parsed.name, parsed.specifier
    fix = pip("torch torchvision" if name in ("torch", "torchvision") else f'"{requirement}"')
    try:
        module = importlib.import_module(MODULES.get(name, name))
        # a module without a distribution of this name is of another build, such as opencv's headless one
        version = installed_version(name) or module.__version__
    except Exception as error:  # a broken installation fails in many ways
        return Finding(name, f"does not import: {type(error).__name__}: {error}", fix)
    if not limits.contains(version, prereleases=True):
        return Finding(name, f"{version} is outside {limits}", fix)
    return Finding(name, version)


def installed_version(distribution: str) -> str | None:
    """Return the version that pip knows; None where it knows none."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def check_torch_pair() -> Finding:
    """Check that torchvision's operators were built for this torch."""
    name = "torchvision operators"
    fix = pip("--upgrade --force-reinstall torch torchvision")
    try:
        import torch
        from torchvision.ops import nms

        nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except Exception as error:
        return Finding(name, f"do not run: {str(error).splitlines()[0]}", fix)
    return Finding(name, "run")


def check_detectron2() -> Finding:
    """Check which detectron2 is imported, and that its model zoo works."""
    fix = INSTALL_DETECTRON2
    try:
        import detectron2
        from detectron2 import model_zoo

        model_zoo.get_config("common/models/mask_rcnn_fpn.py")
    except ModuleNotFoundError as error:
        missing = (error.name or "detectron2").split(".")[0]
        if missing != "detectron2":  # one of its dependencies
            fix = pip('"setuptools<82"' if missing == "pkg_resources" else missing)
        return Finding("detectron2", f"does not import: {error}", fix)
    except Exception as error:
        return Finding("detectron2", f"does not work: {type(error).__name__}: {error}", fix)
    carried = "LabGym" in (detectron2.__file__ or "")
    return Finding(
        "detectron2", f"{detectron2.__version__} ({'carried by LabGym' if carried else 'installed'})"
    )


def check_lesa() -> Finding:
    """Check that the backbones can be built."""
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
    """List the GPUs; a machine without any is no error."""
    try:
        import torch
    except Exception:
        return Finding("device", "unknown without torch")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return Finding(
        "device", ", ".join(names) if names else f"CPU, {torch.get_num_threads()} threads (no GPU)"
    )


def check_data() -> Finding:
    """Say where data sets are looked for, and list those that are there; a missing one is no error."""
    root = os.getenv("DETECTRON2_DATASETS", "datasets")
    present = sorted(os.listdir(root)) if os.path.isdir(root) else []
    return Finding("DETECTRON2_DATASETS", f"{root}: {', '.join(present) or 'nothing there yet'}")


def check_weights() -> Finding:
    """Say where our own weights are looked for, and list those that are there; missing ones are no error."""
    try:
        from ...checkpoint import models_folder
    except Exception:
        return Finding("LESA_MODELS", "unknown without detectron2")
    folder = models_folder()
    present = sorted(path.name for path in folder.glob("*.pth"))
    return Finding("LESA_MODELS", f"{folder}: {', '.join(present) or 'no weights there yet'}")
