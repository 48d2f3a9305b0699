"""Stop when asked: clusters and cloud machines send SIGTERM some time before they take a machine away."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def until_terminated() -> Iterator[Callable[[], bool]]:
    """Within it, SIGTERM ends nothing; the function that is given tells whether one came. At the block's end it is sent
    on to whom it would have met: by default that ends the process, as its sender expects.

    Outside the main thread signals cannot be caught, and none is.

    Example:
        >>> with until_terminated() as asked:
        ...     asked()
        False
    """
    came: list[int] = []
    try:
        before = signal.signal(signal.SIGTERM, lambda number, _: came.append(number))
    except ValueError:  # not the main thread
        yield lambda: False
        return
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
        if came:
            signal.raise_signal(signal.SIGTERM)


def asked_to_stop(folder: str | Path, step: int) -> str:
    """What a training says when it stops so.

    Example:
        >>> asked_to_stop("runs/stage2", 7)
        'runs/stage2: asked to stop; saved after step 7, run it again to go on'
    """
    return f"{folder}: asked to stop; saved after step {step}, run it again to go on"
