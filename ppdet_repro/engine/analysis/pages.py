"""HTML pages that contain their images and need no network, made from the templates in this folder."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from ppdet_repro.utils.files import write_output

LOADER = FileSystemLoader(Path(__file__).parent)
TEMPLATES = Environment(loader=LOADER, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
TEMPLATES.filters["base64"] = lambda data: base64.b64encode(data).decode()


def write_page(path: Path, template: str, **variables: Any) -> None:
    """Render a template to a file. UserError: it cannot be written."""
    page = TEMPLATES.get_template(template).render(**variables)
    write_output(path, page.encode(errors="backslashreplace"))  # names of files may not be UTF-8
