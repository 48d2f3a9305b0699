"""The page of measures names functions that exist, and figures that they return."""

import re
from importlib import import_module
from pathlib import Path

from v2f_core.evaluation.metrics import discordance, paired_persons, paired_power

PAGE = (Path(__file__).parents[2] / "docs" / "measures.md").read_text(encoding="utf-8")


def test_every_function_that_is_named_exists_and_is_documented():
    named = set(re.findall(r"`([a-z]\w+)\.([\w.]+)`", PAGE))
    assert len(named) > 20
    for module, path in named:
        found = import_module(f"v2f_core.{'studies' if module == 'spaces' else 'evaluation'}.{module}")
        for part in path.split("."):
            found = getattr(found, part)
        assert found.__doc__, path


def test_the_numbers_of_persons_are_those_that_the_functions_give():
    gain, unrelated = 0.321 - 0.298, discordance(0.321, 0.298)
    assert f"{paired_persons(gain, unrelated):,} persons" in PAGE
    assert f"still takes {paired_persons(gain, 0.1):,}" in PAGE
    assert [round(10 * paired_power(378, gain, share)) for share in (unrelated, 0.1)] == [1, 3]
