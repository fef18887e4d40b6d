"""Describe problems of data sets, and list them in one error."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DatasetError

MAX_SHOWN = 20  # entries of one kind in an error's text
# Kinds without ids that leaving out entries takes care of; of the malformed ones the ids may be what is wrong.
OF_ENTRIES = (
    "malformed image",
    "malformed annotation",
    "class of crowds only",
    "malformed YOLO line",
    "malformed VOC file",
    "malformed LabelMe file",
)


@dataclass(frozen=True)
class Problem:
    """Describe one problem; ``kind`` groups problems, and ``fix`` says what to do about all of its kind."""

    kind: str
    file: str
    what: str
    fix: str
    image_id: int | str | None = None
    annotation_id: int | str | None = None

    @property
    def is_of_entry(self) -> bool:
        """Tell whether leaving out one image or annotation fixes it; else it is a problem of the whole file."""
        return self.image_id is not None or self.annotation_id is not None or self.kind in OF_ENTRIES

    @property
    def where(self) -> str:
        """Return the file, and the ids of the image and the annotation as far as they are known."""
        ids = (("image", self.image_id), ("annotation", self.annotation_id))
        return ", ".join([self.file, *(f"{name} {value}" for name, value in ids if value is not None)])

    def __str__(self) -> str:
        return f"{self.where}: {self.kind}: {self.what}. {self.fix}"


class DatasetProblemsError(DatasetError):
    """Report a data set that cannot be used; ``problems`` has all problems, the text some of each kind."""

    def __init__(self, directory: str, problems: Sequence[Problem]) -> None:
        self.directory = directory
        self.problems = list(problems)
        super().__init__(directory, self.problems)

    def __str__(self) -> str:
        by_kind: dict[str, list[Problem]] = defaultdict(list)
        for problem in self.problems:
            by_kind[problem.kind].append(problem)
        count = len(self.problems)
        lines = [f"{count} problem{'s' if count > 1 else ''} in {self.directory}"]
        for kind, group in by_kind.items():
            lines.append(f"{kind} ({len(group)}): {group[0].fix}")
            lines += [f"  {problem.where}: {problem.what}" for problem in group[:MAX_SHOWN]]
            if len(group) > MAX_SHOWN:
                lines.append(f"  and {len(group) - MAX_SHOWN} more")
        return "\n".join(lines)
