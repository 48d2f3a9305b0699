"""The README.md of a saved pipeline: its purpose and limits, its parts, the licences, how to load it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from v2f_core.artefacts.files import SYNTHETIC, atomic_write, folder_hash, versions
from v2f_core.artefacts.weights import ORIGINS

PARTS = {
    "speech_encoder": "from the recording to the voice's embedding",
    "aligner": "g_φ: from the voice's embedding to an identity on ArcFace's sphere",
    "posterior": "p(z | v): the identities that a voice allows",
    "text_encoder": "P(·): from the identity to the tokens that the UNet attends to",
    "unet": "from noise to the latents of a face",
    "vae": "from latents to the image",
}

GE2E = (
    "The speech encoder is Resemblyzer's (Apache-2.0), trained on real people: VoxCeleb and LibriSpeech, as its author "
    "states. The sex of ẑ was compared with real speakers; age, origin or health must not be read from it."
)

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

**{synthetic}** Two people who sound alike get the same faces. Hair, skin and all else that a voice does not
determine are invented by the prior. It must not be used to identify, trace, judge or expose anybody, to present a
face as the speaker's, or on a voice without its owner's consent.

## Use

```python
from v2f_core import Vox2FacePipeline

pipe = Vox2FacePipeline.from_pretrained("{name}")
faces = pipe("voice.wav", num_images=4).images
```

It needs the v2f-core package. The diffusion parts lie in Stable Diffusion's layout; schedulers, adapters and offloading
work as with any diffusers pipeline.

## What it is made of

| part | task | SHA-256 of its folder |
|---|---|---|
{parts}

Settings: {settings}.

The aligner's training, as recorded in its own folder:

```json
{provenance}
```

## Licence and terms

{terms}
"""


def write_card(folder: Path, name: str, provenance: Mapping[str, Any]) -> None:
    """Write the README.md of a saved pipeline.

    Args:
        folder: the saved pipeline; its parts are hashed and its ``model_index.json`` is read.
        name: the hub id or folder that ``from_pretrained`` will get.
        provenance: the aligner's.
    Raises:
        InputError: a part's folder is missing, or the card cannot be written.
    """
    config = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    shown = ("encoder", "guidance", "num_steps", "clip_seconds")
    parts = {part: task for part, task in PARTS.items() if part != "posterior" or (folder / part).is_dir()}
    card = CARD.format(
        licence="apache-2.0" if config.get("profile") == "mini" else "other",
        title=Path(name).name,
        version=versions("v2f-core")["v2f-core"],
        synthetic=SYNTHETIC,
        name=name,
        parts="\n".join(f"| {part} | {task} | `{folder_hash(folder / part)}` |" for part, task in parts.items()),
        settings=", ".join(f"{key} {config[key]}" for key in shown),
        provenance=json.dumps(provenance, indent=2, sort_keys=True, ensure_ascii=False),
        terms=_terms(config.get("profile"), config["encoder"]),
    )
    with atomic_write(folder / "README.md") as temporary:
        temporary.write_text(card, encoding="utf-8")


def _terms(profile: str | None, encoder: str) -> str:
    if profile == "mini":
        real = f" But {GE2E}" if encoder == "ge2e" else ""
        return f"Apache-2.0. All parts are v2f-core's miniatures, or were trained from them on synthetic persons.{real}"
    if profile != "full":
        return "**Unknown to the program that wrote this card**: name each part's origin here before you share it."
    origins = (*ORIGINS.get(encoder, ()), *ORIGINS["prior"])
    rows = [f"| {o.name} | {o.licence} | {o.consent or '–'} | {o.page} |" for o in origins]
    head = (
        "The parts come from other publishers. Their terms hold for the parts and for weights trained from them.\n"
        "Before you share this, make sure that these terms, and those of the aligner's training data, allow it.\n\n"
        "| publisher's name | licence, as stated there | terms to agree to | page |\n|---|---|---|---|\n"
    )
    return head + "\n".join(rows) + (f"\n\n{GE2E}" if encoder == "ge2e" else "")
