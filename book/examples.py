"""Docstrings here say Example where Google's style says Examples; for the site they are told apart from a remark."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension


class Examples(Extension):
    """Makes every ``Example:`` a section of examples, with its title if it has one."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change an object's docstring before it is parsed."""
        if obj.docstring:
            obj.docstring.value = re.sub(r"^Example:", "Examples:", obj.docstring.value, flags=re.M)
