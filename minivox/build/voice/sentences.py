"""The twelve sentences of MiniVox: plain, neutral, about two seconds each.

Their phonemes (International Phonetic Alphabet, American and British) were made once by espeak-ng and are stored in
``sentences.json``, so that a build does not need it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

AMERICAN, BRITISH = "us", "gb"


@dataclass(frozen=True)
class Sentence:
    """One sentence: its text, and its phonemes by accent."""

    text: str
    ipa: dict[str, str]


def _read() -> tuple[Sentence, ...]:
    rows = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
    return tuple(Sentence(row["text"], {AMERICAN: row["us"], BRITISH: row["gb"]}) for row in rows)


SENTENCES = _read()
