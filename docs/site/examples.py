"""Docstrings here say Example where Google's style says Examples, and leave no line between sections."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension


class Examples(Extension):
    """Makes every ``Example:`` a section of examples, with its title if it has one; parts all sections by a line."""

    def on_object(self, *, obj: Any, **_: Any) -> None:
        """Change an object's docstring before it is parsed."""
        if obj.docstring:
            text = re.sub(r"^Example:", "Examples:", obj.docstring.value, flags=re.M)
            obj.docstring.value = re.sub(r"(?<!\n)\n(Args|Attributes|Returns|Raises|Examples):", r"\n\n\1:", text)
