"""The README.md of a saved pipeline: what it is and is not, what it is made of, whose terms hold, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from v2f_core.artefacts.files import SYNTHETIC, atomic_write, folder_hash, versions
from v2f_core.artefacts.weights import ORIGINS

PARTS = {
    "speech_encoder": "hears the voice",
    "aligner": "g_φ: from the voice's embedding to an identity on ArcFace's sphere",
    "posterior": "p(z | v): the identities that a voice allows",
    "text_encoder": "P(·): from the identity to the tokens that the UNet attends to",
    "unet": "draws",
    "vae": "decodes what was drawn",
}

CARD = """---
library_name: diffusers
license: {licence}
tags:
- voice-to-face
- vox2face
- synthetic
---

# {title}

A `Vox2FacePipeline`: from a recorded voice, an identity; from the identity, faces. Written by v2f-core {version}.

**{synthetic}** Of two people who sound alike it draws the same faces. What a voice does not tell, such as hair and
skin, the prior makes up. It must not be used to identify, trace, judge or expose anybody, nor to show somebody a
face as if it were a speaker's; nor on a voice whose owner does not agree.

## Use

```python
from v2f_core import Vox2FacePipeline

pipe = Vox2FacePipeline.from_pretrained("{name}")
faces = pipe("voice.wav", num_images=4).images
```

It needs the v2f-core package. The diffusion parts lie in Stable Diffusion's layout; schedulers, adapters and offloading
work as with any diffusers pipeline.

## What it is made of

| part | what it does | SHA-256 of its folder |
|---|---|---|
{parts}

Settings: {settings}.

How the aligner was trained, as its own file tells it:

```json
{provenance}
```

## Licence and terms

{terms}
"""


def write_card(folder: Path, name: str, provenance: Mapping[str, Any]) -> None:
    """Write the README.md of a pipeline that was just saved.

    Args:
        folder: where it was saved; its parts are hashed and its ``model_index.json`` is read.
        name: what it will be loaded by: a hub id or a folder.
        provenance: the aligner's.
    Raises:
        InputError: a part's folder is missing, or the card cannot be written.
    """
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(_card(folder, name, provenance), encoding="utf-8")


def _card(folder: Path, name: str, provenance: Mapping[str, Any]) -> str:
    config = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    shown = ("encoder", "guidance", "num_steps", "clip_seconds")
    parts = {part: does for part, does in PARTS.items() if part != "posterior" or (folder / part).is_dir()}
    return CARD.format(
        licence="apache-2.0" if config.get("profile") == "mini" else "other",
        title=Path(name).name,
        version=versions("v2f-core")["v2f-core"],
        synthetic=SYNTHETIC,
        name=name,
        parts="\n".join(f"| {part} | {does} | `{folder_hash(folder / part)}` |" for part, does in parts.items()),
        settings=", ".join(f"{key} {config[key]}" for key in shown),
        provenance=json.dumps(provenance, indent=2, sort_keys=True, ensure_ascii=False),
        terms=_terms(config.get("profile"), config["encoder"]),
    )


def _terms(profile: str | None, encoder: str) -> str:
    if profile == "mini":
        return "Apache-2.0. All parts are v2f-core's miniatures, or were trained from them on synthetic persons."
    if profile != "full":
        return "**Not known to the program that wrote this card**: whoever shares this names each part's origin here."
    rows = [
        f"| {o.name} | {o.licence} | {o.consent or '–'} | {o.page} |" for o in (*ORIGINS[encoder], *ORIGINS["prior"])
    ]
    return "\n".join(
        [
            "The parts come from others, whose terms go on to hold, also for what was trained from them. Who shares",
            "this makes sure that these, and those of the data the aligner was trained on, allow it.",
            "",
            "| from | licence, as its publisher states it | to be agreed to | page |",
            "|---|---|---|---|",
            *rows,
        ]
    )
