"""The page itself: the template, filled in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...detection.explanation import shown
from ...errors import UserError
from .content import Content

TEMPLATE = Path(__file__).parent / "page.html"


def render(content: Content) -> str:
    """HTML, complete in itself. Whatever comes out of the data is escaped.

    Raises:
        UserError: When Jinja2 is missing.
    """
    try:
        import jinja2
        import markupsafe
    except ImportError:
        raise UserError("a report needs Jinja2: pip install 'vae_lightning[report]'") from None
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters |= {"number": shown, "label": _label}
    environment.globals["zip"] = zip
    # of figures.py alone, which matplotlib has escaped
    pictures = {name: markupsafe.Markup(picture) for name, picture in content.pictures.items()}
    return environment.from_string(TEMPLATE.read_text()).render(**{**vars(content), "pictures": pictures})


def _label(row: Any) -> str:
    return f"{row:,}"
