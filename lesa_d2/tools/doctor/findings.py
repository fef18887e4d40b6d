"""What a check finds."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import LesaError


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``mend`` is a command or a step, empty when nothing is wrong."""

    name: str
    state: str
    mend: str = ""


def checked(name: str, check: Callable[[], list[Finding]], state: str = "cannot be used") -> list[Finding]:
    """What ``check`` finds; whatever it raises is one finding called ``name``.

    ``state`` describes a user's error, whose message says what to do.
    """
    try:
        return check()
    except LesaError as error:
        return [Finding(name, state, str(error))]
    except ImportError as error:
        return [Finding(name, f"not checked: {error}", "mend what is missing in the environment first")]
    except Exception as error:
        return [Finding(name, f"fails unexpectedly: {type(error).__name__}: {error}", BUG)]


BUG = "nobody foresaw this: please report it, with what --bug-report prints"


def pip(arguments: str) -> str:
    """A pip command for this very interpreter."""
    return f"{sys.executable} -m pip install {arguments}"
