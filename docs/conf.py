"""The documentation site: ``make docs`` builds it from the repository's root, and a warning is an error."""

from importlib.metadata import version as version_of

project = "LESA-D2"
author = "the LESA-D2 authors"
release = version = version_of("lesa_d2")

# Pages link to each other by their places in the repository, so that they can be read there as well.
root_doc = "docs/index"
include_patterns = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs/*", "projects/LESA/*.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # of torch

html_theme = "furo"
html_title = f"LESA-D2 {release}"
html_show_sourcelink = False
html_show_copyright = False
templates_path = ["templates"]
html_additional_pages = {"index": "to_index.html"}
