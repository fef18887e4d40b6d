"""Names chosen by users as text in Markdown."""


def escaped(name: str) -> str:
    """Return a name on one line, with the characters escaped that would end a table's cell or start a tag."""
    return " ".join(name.split()).replace("|", r"\|").replace("<", "&lt;")
