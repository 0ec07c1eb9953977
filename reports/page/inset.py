"""What other modules may set into the page of results."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup


@dataclass(frozen=True, slots=True, kw_only=True)
class Inset:
    """A section of HTML with the id ``pictures``, escaped already, and the rules of style that it needs."""

    body: Markup
    style: str
