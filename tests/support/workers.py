"""A decoder for worker processes, in a module of its own, because a spawned process imports it by name."""

import os
import signal


def read_or_be_killed(path):
    """The path itself; file "9" kills the worker once, if there is a file "mine" beside it."""
    mine = path.parent / "mine"
    if path.name == "9" and mine.exists():
        mine.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return path
