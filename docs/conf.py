"""Configuration of the documentation: `sphinx-build -W docs docs/_build`. Nothing is fetched from elsewhere."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "models"), str(ROOT / "tasks"), str(Path(__file__).parent)]

import api_pages  # noqa: E402
import docstrings  # noqa: E402

project = "metalearn"
author = "The metalearn authors"
copyright = "The metalearn authors, Apache-2.0"
release = version_of("metalearn")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.coverage",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "results"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "exclude-members": "set_fit_request, set_score_request"}
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # fields of NamedTuples are described once, by the docstring of their class
napoleon_attr_annotations = False  # their types stand in the signature of the class
coverage_modules = api_pages.PACKAGES
coverage_ignore_modules = [r"_\w+"]
coverage_show_missing_items = True
coverage_statistics_to_stdout = True
coverage_ignore_pyobjects = [r".*\._\w+", r".*\.set_(fit|score)_request", *api_pages.unlisted()]

html_theme = "furo"
html_title = "metalearn"
html_static_path: list[str] = []

suppress_warnings = ["ref.python"]  # names in type hints that several modules define

api_pages.write(Path(__file__).parent / "api")


def setup(app):
    """Sphinx's own name for a function that extends it."""
    docstrings.setup(app.connect)
