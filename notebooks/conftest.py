"""Makes a bare ``pytest --nbval`` strict and fair: text and tables are compared, what no two machines share is not."""

import os

import pytest

os.environ["V2F_PROFILE"] = "mini"  # kernels inherit it
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # with ipywidgets these are outputs, not stderr

SANITIZE = {
    r"data:(audio|image)/\w+;base64,[\w+/=]+": "embedded",  # encoders differ in their last bits
}


def pytest_collectstart(collector: pytest.Collector) -> None:
    """Set up nbval's comparison of every notebook."""
    if collector.path.suffix == ".ipynb":
        collector.skip_compare += ("stderr",)  # progress bars and their rates
        collector.sanitize_patterns.update(SANITIZE)
