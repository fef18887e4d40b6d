"""Find the pictures that a COCO file names: the folder that its file names are relative to, and near names in it."""

import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from urllib.parse import unquote

from ...trust import may_read
from .parts import part_of_folder

_USUAL = ("images", "imgs", "data", "jpegimages", "default")  # names of folders of pictures
_ASKED = 200  # file names from which the folder is found
_QUERY = re.compile(r"\?[^/]*=[^/]*$")
Parts = tuple[str, ...]


@dataclass(frozen=True)
class Located:
    """Say where pictures are.

    Attributes:
        image_root: the folder that the names are relative to.
        names: by the name in the file, the name below ``image_root``; a name without a picture maps to itself.
        missing: names without a picture, with the near names that were not used because there are several.
        near: names for which a file of a slightly different name, or in another folder, is used.
        also: another folder that has files of all these names; empty if there is none.
        outside: names that lead out of the data set's folder, to a file that is there but may not be read.
    """

    image_root: Path
    names: dict[str, str]
    missing: dict[str, list[str]] = field(default_factory=dict)
    near: dict[str, str] = field(default_factory=dict)
    also: str = ""
    outside: set[str] = field(default_factory=set)


def key_of(name: str) -> Parts:
    """Return the parts of a file name without what tools and systems write differently.

    That is: backslashes, percent-encoding, Unicode's composed and decomposed forms, case, blanks around, and the query
    of an address.
    """
    plain = unicodedata.normalize("NFC", unquote(name).replace("\\", "/")).casefold()
    plain = _QUERY.sub("", plain)
    return tuple(part.strip() for part in plain.split("/") if part.strip() not in ("", "."))


class PictureIndex:
    """Hold the files below a folder, without those whose name or folder begins with a dot.

    Args:
        root: the folder.
        beside: further folders, beside ``root``, which are looked through as well.
    """

    def __init__(self, root: Path, beside: Sequence[Path] = ()) -> None:
        self.root = root
        self.files: dict[str, list[tuple[Parts, str]]] = defaultdict(list)  # by the key of the last part
        self.parts: set[str | None] = set()  # for which there is a folder
        for place, names in (found for folder in (root, *beside) for found in _walk(folder)):
            above = os.path.relpath(place, root)
            self.parts.add(part_of_folder(above))
            for name in names:
                key = key_of(os.path.join(above, name))
                self.files[key[-1]].append((key, os.path.join(place, name)))

    def locate(self, names: Iterable[str], json_file: Path, part: str | None) -> Located:
        """Find the pictures that ``json_file``, which is for ``part``, names."""
        unique = list(dict.fromkeys(names))
        image_root, also = self._image_root(unique[:: max(1, len(unique) // _ASKED)], json_file, part)
        located = Located(image_root, {}, also=also)
        below = _relative_files(image_root)
        for name in unique:
            if name in below:
                located.names[name] = name
            else:
                self._locate_near(name, located, part)
        return located

    def _image_root(self, names: Sequence[str], json_file: Path, part: str | None) -> tuple[Path, str]:
        """Return the folder under which most of the names exist, and another one that has as many, if there is one.

        In doubt it is that of the part, that of the JSON file, one with a usual name, or the nearest to the JSON file.
        """
        votes: Counter[str] = Counter()
        dropped: Counter[str] = Counter()
        for name in names:
            for folder, lost in self._folders_of(name).items():
                if self._may_hold(folder, part):
                    votes[folder] += 1
                    dropped[folder] += lost
        if not votes:
            return self._guess(json_file), ""

        def preference(folder: str) -> tuple:
            is_usual = folder == str(json_file.parent) or os.path.basename(folder).lower() in _USUAL
            near = len(os.path.relpath(folder, json_file.parent).split(os.sep))
            is_own = self._part_of(folder) == part
            return -votes[folder], dropped[folder], not is_own, not is_usual, near, folder

        best, *others = sorted(votes, key=preference)
        is_equal = others and votes[others[0]] == votes[best]
        return Path(best), os.path.relpath(others[0], self.root) if is_equal else ""

    def _part_of(self, folder: str) -> str | None:
        return part_of_folder(os.path.relpath(folder, self.root))

    def _may_hold(self, folder: str, part: str | None) -> bool:
        """Tell whether a folder can hold the pictures of a part: not one of another part beside one of its own."""
        return self._part_of(folder) in (None, part) or part is None or part not in self.parts

    def _guess(self, json_file: Path) -> Path:
        folders = (json_file.parent / "images", self.root / "images", json_file.parent)
        return next(folder for folder in folders if folder.is_dir())

    def _folders_of(self, name: str) -> dict[str, int]:
        """Return the folders relative to which the name exists, and how many of its parts are dropped for that."""
        wanted = key_of(name)
        folders: dict[str, int] = {}
        for key, file in self.files.get(wanted[-1], ()) if wanted else ():
            common = _common_end(wanted, key)
            folder = str(Path(file).parents[common - 1])
            lost = len(wanted) - common
            folders[folder] = min(folders.get(folder, lost), lost)
        return folders

    def _locate_near(self, name: str, located: Located, part: str | None) -> None:
        wanted, root = key_of(name), located.image_root
        found = self.files.get(wanted[-1], []) if wanted else []
        below = [(key, file) for key, file in found if file.startswith(f"{root}{os.sep}")]
        if not below:
            below = [(key, file) for key, file in found if self._may_hold(os.path.dirname(file), part)]
        common = [_common_end(wanted, key) for key, _ in below]
        best = [file for count, (_, file) in zip(common, below, strict=True) if count == max(common)]
        path = os.path.join(root, name)
        if is_there(path) and may_read(
            path, self.root
        ):  # a folder, say: the check of the pictures says what it is
            located.names[name] = name
        elif len(best) == 1:
            located.names[name] = os.path.relpath(best[0], root)
            same_name = PurePosixPath(name.replace("\\", "/")).name == os.path.basename(best[0])
            if not same_name or located.names[name].startswith(".."):
                located.near[name] = located.names[name]
        elif is_there(path):
            located.names[name] = name
            located.outside.add(name)
        else:
            located.names[name] = name
            near = best or [file for _, file in found] or self._with_stem(wanted)
            located.missing[name] = [os.path.relpath(file, root) for file in near[:3]]

    def _with_stem(self, wanted: Parts) -> list[str]:
        """Return the files of the same name with another extension."""
        if not wanted:
            return []
        stem = os.path.splitext(wanted[-1])[0]
        return [file for key in self.files if os.path.splitext(key)[0] == stem for _, file in self.files[key]]


def is_file(path: str | Path) -> bool:
    """Tell whether a path is a file that can be read to its end; a name that no file can have is none."""
    try:
        return os.path.isfile(path)
    except ValueError:  # a zero byte, half of a surrogate pair
        return False


def is_there(path: str) -> bool:
    """Tell whether anything has this name."""
    try:
        return os.path.lexists(path)
    except ValueError:
        return False


def _walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the folders below one with their files, without names that begin with a dot; links are followed."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True):
        state = os.stat(place)
        if (state.st_dev, state.st_ino) in seen:  # a link to a folder above
            folders.clear()
            continue
        seen.add((state.st_dev, state.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield place, sorted(name for name in files if not name.startswith("."))


def folders_state(folder: Path) -> int:
    """Return a number that changes when a file below a folder comes, goes or changes its name."""
    return hash(tuple((place, os.stat(place).st_mtime_ns) for place, _ in _walk(folder)))


def _relative_files(folder: Path) -> set[str]:
    start = len(str(folder)) + 1
    return {
        os.path.join(place, name)[start:].replace(os.sep, "/")
        for place, names in _walk(folder)
        for name in names
    }


def _common_end(wanted: Parts, key: Parts) -> int:
    """Return how many parts two names have in common at their end."""
    count = 0
    for one, other in zip(reversed(wanted), reversed(key), strict=False):
        if one != other:
            break
        count += 1
    return count
