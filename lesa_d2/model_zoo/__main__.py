"""``python -m lesa_d2.model_zoo``: the table of models; ``add`` and ``verify`` for a folder of weights."""

import argparse
import sys
from pathlib import Path

from tabulate import tabulate

from ..checkpoint import models_folder
from ..checkpoint.catalog import add_weights, known_sha256, own_entries, read_catalog
from ..errors import LesaError
from .zoo import available, weights_name


def parse_args(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m lesa_d2.model_zoo", description=__doc__)
    commands = parser.add_subparsers(dest="command", metavar="{add,verify}")
    add = commands.add_parser(
        "add", help="copy weights into the folder of LESA_MODELS and record their digest"
    )
    add.add_argument("name", metavar="NAME", help="lesa://NAME.pth will read them")
    add.add_argument("file", metavar="FILE", type=Path, help="a .pth file of plain tensors")
    add.add_argument("--url", help="where others can download the file")
    add.add_argument("--force", action="store_true", help="replace other weights of this name")
    commands.add_parser("verify", help="compare every file of the folder with its recorded digest")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for; returns 1 where ``verify`` found damage, 2 after an error."""
    args = parse_args(arguments)
    try:
        if args.command == "add":
            return add(args)
        return verify() if args.command == "verify" else show()
    except LesaError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def show() -> int:
    """Print the table, and which other weights the folder and its catalog have."""
    zoo, folder = available(), models_folder()
    print(zoo)
    names = {file.stem for file in folder.glob("*.pth")} | own_entries(folder).keys()
    others = sorted(names - {weights_name(name) for name in zoo})
    print(f"\nWeights are looked for in {folder} (LESA_MODELS).")
    if others:
        print(f"Others known there: {', '.join(others)}")
    return 0


def add(args: argparse.Namespace) -> int:
    """``add NAME FILE``."""
    entry = add_weights(args.name, args.file, models_folder(), args.url, args.force)
    name = args.name.removesuffix(".pth")
    print(f"lesa://{name}.pth is {models_folder() / name}.pth, {entry.size:,} bytes, SHA-256 {entry.sha256}")
    return 0


def verify() -> int:
    """Print the state of every file; 1 where one is not what its digest says."""
    folder = models_folder()
    catalog = read_catalog(folder)
    recorded = {name for name, entry in catalog.items() if entry.sha256}
    names = sorted(recorded | {file.stem for file in folder.glob("*.pth")})
    states = {
        name: _state(folder / f"{name}.pth", catalog[name].sha256 if name in recorded else None)
        for name in names
    }
    if not states:
        print(f"{folder} holds no weights, and no digest is recorded.")
    else:
        print(tabulate(states.items(), headers=("name", "state")))
    return 1 if "damaged" in states.values() else 0


def _state(file: Path, expected: str | None) -> str:
    if not file.is_file():
        return "not here"
    if expected is None:
        return "no digest recorded: python -m lesa_d2.model_zoo add records it"
    return "ok" if known_sha256(file) == expected else "damaged"


if __name__ == "__main__":
    sys.exit(main())
