"""Make ``import detectron2`` work in the environment of the Python that runs this module.

A detectron2 that can be imported is not changed.  Otherwise the copy in the PyPI package LabGym is installed without
LabGym's dependencies, and a ``.pth`` file activates the import hook of ``detectron2_from_labgym.py``.

With ``--share VENV``, the environment of this Python is shared with the virtual environment VENV where it has PyTorch
and a detectron2 of its own: what is installed here can be imported there, and is not installed again.
"""

import argparse
import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

LABGYM = "labgym==3.1.2"
COMMAND = f"{sys.executable} -m lesa_d2.install_detectron2"
HOOK = Path(__file__).with_name("detectron2_from_labgym.py")


def install_hook(site_packages: Path) -> None:
    """Copy the hook into ``site_packages``, and activate it at every start of Python in that environment."""
    shutil.copy(HOOK, site_packages / HOOK.name)
    line = f"import {HOOK.stem}; {HOOK.stem}.arm()\n"
    (site_packages / HOOK.name).with_suffix(".pth").write_text(line)


def share(venv: Path) -> bool:
    """Let ``venv`` import what this environment has, if it has PyTorch and detectron2; tell whether it does.

    A virtual environment made from another one would see the packages of the interpreter below both.
    """
    if not is_installed() or importlib.util.find_spec("torch") is None:
        return False
    folders = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    lines = [f"import site; site.addsitedir({folder!r})\n" for folder in folders]
    (site_packages,) = venv.glob("lib/python*/site-packages")
    (site_packages / "of_the_active_environment.pth").write_text("".join(lines))
    return True


def is_installed() -> bool:
    """Tell whether a detectron2 other than LabGym's copy can be imported."""
    spec = importlib.util.find_spec("detectron2")
    return spec is not None and spec.origin is not None and "LabGym" not in Path(spec.origin).parts


def main() -> int:
    """Install detectron2 if needed, and return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--share", type=Path, metavar="VENV", help="install nothing; see above")
    args = parser.parse_args()
    if args.share:
        if share(args.share):
            print(f"using the PyTorch and the detectron2 of {sys.prefix}")
        return 0
    if is_installed():
        print("detectron2: using the one that is installed")
        return 0
    # --ignore-requires-python and --no-deps: LabGym's own limits concern its other code.
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--ignore-requires-python"]
    subprocess.run([*pip, LABGYM], check=True)
    install_hook(Path(sysconfig.get_paths()["purelib"]))
    check = (
        "import detectron2.layers; print('detectron2', detectron2.__version__, 'from', detectron2.__file__)"
    )
    return subprocess.run([sys.executable, "-W", "ignore", "-c", check]).returncode


if __name__ == "__main__":
    sys.exit(main())
