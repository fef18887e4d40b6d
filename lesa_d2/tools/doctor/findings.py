"""The findings of a check."""

import sys
from collections.abc import Callable
from dataclasses import dataclass

from ...errors import LesaError


@dataclass(frozen=True)
class Finding:
    """Describe one line of the report; ``fix`` is a command or a step, and is empty when nothing is wrong."""

    name: str
    state: str
    fix: str = ""


def checked(name: str, check: Callable[[], list[Finding]], state: str = "cannot be used") -> list[Finding]:
    """Return the findings of ``check``; an error that it raises becomes one finding called ``name``.

    ``state`` describes a user's error, whose message says what to do.
    """
    try:
        return check()
    except LesaError as error:
        return [Finding(name, state, str(error))]
    except ImportError as error:
        return [Finding(name, f"not checked: {error}", "fix what is missing in the environment first")]
    except Exception as error:
        return [Finding(name, f"fails unexpectedly: {type(error).__name__}: {error}", BUG)]


BUG = "this error is unexpected: please report it, with the output of --bug-report"


def pip(arguments: str) -> str:
    """Return a pip command for the interpreter that runs this program."""
    return f"{sys.executable} -m pip install {arguments}"
