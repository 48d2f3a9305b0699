"""What numbers a setting may be: refused where they are given, and NaN is never one."""

from __future__ import annotations

import math

from v2f_core.errors import InputError


def check_positive(settings: object, *names: str) -> None:
    """Refuse settings that are not finite numbers above 0.

    Example:
        >>> from types import SimpleNamespace
        >>> check_positive(SimpleNamespace(learning_rate=float("nan")), "learning_rate")
        Traceback (most recent call last):
        v2f_core.errors.InputError: learning_rate=nan: expected a positive number
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 < value < math.inf:
            raise InputError(f"{name}={value}: expected a positive number")


def check_not_negative(settings: object, *names: str) -> None:
    """Refuse settings that are not finite numbers of at least 0.

    Example:
        >>> from types import SimpleNamespace
        >>> check_not_negative(SimpleNamespace(weight_decay=0.0), "weight_decay")
    """
    for name in names:
        value = getattr(settings, name)
        if not 0 <= value < math.inf:
            raise InputError(f"{name}={value}: expected a number of at least 0")
