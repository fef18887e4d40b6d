"""Make the copy of detectron2 in the PyPI package LabGym importable as ``detectron2``.

detectron2 has no release on PyPI.  LabGym contains a complete, pure-Python copy as the subpackage
``LabGym.detectron2``, whose files import each other under that longer name.  ``install_detectron2.py``
copies this module into an environment's site-packages beside a ``.pth`` line that calls :func:`arm` when
the interpreter starts; from then on ``import detectron2`` works there as after a real installation.

Only the standard library is used, and nothing is imported before a program imports ``detectron2``: every start of
Python in that environment runs this file.
"""

import importlib
import sys
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from pathlib import Path

REAL, CARRIED = "detectron2", "LabGym.detectron2"


class RenamingLoader(SourceFileLoader):
    """Load a file of LabGym's copy as if it had been written for ``detectron2``.

    Saved configs and pickles name classes by module, so the modules must have the names
    ``detectron2.…``.  Cached bytecode is not used: it belongs to the source with the longer names.
    """

    def get_code(self, fullname):
        """Compile the source with the longer name replaced."""
        path = self.get_filename(fullname)
        source = self.get_data(path).decode("utf-8")
        return self.source_to_code(source.replace(CARRIED, REAL), path)


class AliasLoader:
    """Make ``LabGym.detectron2.x`` the same module as ``detectron2.x``.

    The config files in the copy's model zoo are executed, not imported, and use the longer name.  A second copy of the
    modules would have a second registry and a second event storage.
    """

    def create_module(self, spec):
        """Return None, which lets Python create the module."""

    def exec_module(self, module):
        """Replace the module by the one with the shorter name."""
        name = module.__spec__.name
        sys.modules[name] = importlib.import_module(REAL + name[len(CARRIED) :])


class Detectron2Finder:
    """Find ``detectron2`` and its submodules in LabGym, unless another detectron2 is installed."""

    def find_spec(self, fullname, path=None, target=None):
        """Return the spec of a module of ``detectron2`` or ``LabGym.detectron2``; None for all others."""
        if _is_within(fullname, REAL):
            return self._find_carried(fullname)
        if _is_within(fullname, CARRIED) and not real_detectron2_installed():
            return ModuleSpec(fullname, AliasLoader(), is_package=True)  # type: ignore[arg-type]
        return None

    def _find_carried(self, fullname):
        if real_detectron2_installed():
            return None
        root = carried_folder()
        if root is None:
            return None
        location = root.joinpath(*fullname.split(".")[1:])
        if (location / "__init__.py").is_file():
            source, folders = location / "__init__.py", [str(location)]
        elif location.with_suffix(".py").is_file() and location != root:
            source, folders = location.with_suffix(".py"), None
        else:
            return None
        loader = RenamingLoader(fullname, str(source))
        return spec_from_file_location(fullname, source, loader=loader, submodule_search_locations=folders)


def _is_within(name, package):
    return name == package or name.startswith(package + ".")


def real_detectron2_installed():
    """Tell whether another finder finds ``detectron2``; called at the import, when ``sys.path`` is complete."""
    for finder in sys.meta_path:
        if isinstance(finder, Detectron2Finder) or not hasattr(finder, "find_spec"):
            continue
        spec = finder.find_spec(REAL, None)
        if spec is not None and spec.origin is not None:
            return True
    return False


def carried_folder():
    """Return the folder of ``LabGym.detectron2``, or None if LabGym is not installed."""
    spec = PathFinder.find_spec(CARRIED.split(".")[0])
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(folder) / REAL / "__init__.py").is_file():
            return Path(folder) / REAL
    return None


def arm():
    """Add the finder once, before all others: Python's own would load submodules under the longer name."""
    if not any(isinstance(finder, Detectron2Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, Detectron2Finder())
