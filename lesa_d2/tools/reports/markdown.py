"""Names that users chose, in Markdown."""


def escaped(name: str) -> str:
    """On one line, without what would end a table's cell or start a tag."""
    return " ".join(name.split()).replace("|", r"\|").replace("<", "&lt;")
