"""The commands of ``lesa``, one module each, with a function ``main(arguments) -> exit status``."""


def description(docstring: str | None) -> str:
    """Return what a module's docstring says of its command, as ``--help`` shows it: without the command's name."""
    text = (docstring or "").replace("``", "").partition(": ")[2].strip()
    return text[:1].upper() + text[1:]
