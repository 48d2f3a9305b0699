"""What worker processes are told to do: a module of its own, since a spawned process imports it by its name."""

import os
import signal


def read_or_be_killed(path):
    """The path itself; whoever finds a "mine" beside file "9" is killed by it, as for want of memory: once."""
    mine = path.parent / "mine"
    if path.name == "9" and mine.exists():
        mine.unlink()
        os.kill(os.getpid(), signal.SIGKILL)
    return path
