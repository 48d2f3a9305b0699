"""Makes a bare ``pytest --nbval`` strict and fair: text and tables are compared, what no two machines share is not."""

import os

import pytest

os.environ["V2F_PROFILE"] = "mini"  # kernels inherit it
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # with ipywidgets these are outputs, not stderr

SANITIZE = {
    r"data:(audio|image)/\w+;base64,[\w+/=]+": "embedded",  # encoders differ in their last bits
}


LONGEST_FIRST = ("05", "04", "02")  # or one worker would still run them when the others have finished


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the notebooks that take longest."""
    items.sort(key=lambda item: item.path.name[:2] not in LONGEST_FIRST)


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Set up nbval's comparison of every notebook."""
    if collector.path.suffix == ".ipynb":
        collector.skip_compare += ("stderr",)  # progress bars and their rates
        collector.sanitize_patterns.update(SANITIZE)
