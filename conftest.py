"""Settings of every test run, unit tests, doctests and notebooks alike."""

import os
import sys

# Two workers share the cores, so that each does best with one thread; nothing is fetched, no window is opened.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ.pop("V2F_PROFILE", None)


def pytest_runtest_setup() -> None:
    """Keep hypothesis from waking speechbrain's lazy modules.

    It asks every loaded module for its file; a lazy one answers by importing things that are not installed.
    """
    for name, module in list(sys.modules.items()):
        if name.startswith("speechbrain") and "__file__" not in vars(module):
            module.__file__ = None
