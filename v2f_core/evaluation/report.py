"""The report: put together from systems and tables, checked against a schema, written as JSON, Markdown and HTML."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float, Shaped

from v2f_core.artefacts.files import atomic_write
from v2f_core.errors import InputError
from v2f_core.evaluation import exhibits, metrics, person_values, tables
from v2f_core.evaluation.leaks import Control
from v2f_core.evaluation.protocols import Protocol
from v2f_core.evaluation.report_html import LIMIT, page
from v2f_core.evaluation.report_markdown import markdown
from v2f_core.evaluation.report_rows import flat, plain, records
from v2f_core.evaluation.scorer import Faces
from v2f_core.evaluation.stage1_report import Ceiling
from v2f_core.evaluation.systems import System

if TYPE_CHECKING:
    from v2f_core.evaluation.perception import Perception

SCHEMA = Path(__file__).with_name("report_schema.json")
PLOTTED = 6  # rank curves in one chart


@dataclass(frozen=True)
class Evaluated:
    """Everything that the report tells of.

    Attributes:
        about: profile, dataset, drawing, hashes, versions, notice; ``main`` names the system whose faces are shown.
        persons, sexes: of the test, in the order of every array here.
        captions: a few words on each person.
        systems: the rows.
        gallery: everybody's first photograph.
        mean_face: of the training persons.
        reference: whose ẑ has skill 0, by gallery.
        ceilings, ceiling_curves: where the world is known.
        attributes: a column an attribute, for groups.
        probed: see `exhibits.failures`.
        controls: judged.
        left_out: ``persons``, ``files`` and ``notes``.
        perception: for FID and LPIPS, where they are asked for.
    """

    about: Mapping[str, Any]
    persons: Sequence[str]
    sexes: Shaped[np.ndarray, " n"]
    captions: Sequence[str]
    systems: Sequence[System]
    gallery: Faces
    mean_face: Float[np.ndarray, " dim"]
    reference: Mapping[str, System]
    attributes: pd.DataFrame
    controls: Sequence[Control]
    left_out: Mapping[str, Any]
    ceilings: Mapping[str, Ceiling] = field(default_factory=dict)
    ceiling_curves: Mapping[str, Mapping[str, list[float]]] = field(default_factory=dict)
    probed: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = field(default_factory=dict)
    perception: Perception | None = None

    @property
    def main(self) -> System:
        """The system whose faces are shown.

        Raises:
            InputError: ``about["main"]`` names none of the systems.
        """
        for system in self.systems:
            if system.name == self.about["main"]:
                return system
        raise InputError(f"{self.about['main']}: none of the systems {[system.name for system in self.systems]}")


def assemble(evaluated: Evaluated, resamples: int = 4000) -> dict[str, Any]:
    """The report as JSON can hold it, NaN as null, checked against the schema."""
    e, galleries = evaluated, person_values.protocols(evaluated.persons, evaluated.sexes)
    likeness = tables.likeness(e.systems, e.gallery, galleries, e.reference, e.ceilings, resamples)
    fair = [e.main, *(s for s in e.systems if s.name == "another real photo")]
    report = {
        "format": 1,
        "about": {
            **e.about,
            "persons": len(e.persons),
            "women": int((e.sexes == "f").sum()),
            "men": int((e.sexes == "m").sum()),
        },
        "systems": [
            {
                "name": s.name,
                "what": s.what,
                "draws": len(s.faces),
                "asked": int(len(e.persons) if s.asked is None else s.asked.sum()),
                "undetected": s.undetected,
            }
            for s in e.systems
        ],
        "likeness": records(likeness),
        "chance": {protocol.name: _chance(protocol) for protocol in galleries},
        "ceilings": {
            where: {"cosine": best.cosine, "R@10": best.recall, "1:2 matching": best.matching}
            for where, best in e.ceilings.items()
        },
        "sets": records(tables.sets(e.systems, e.gallery, e.perception), nested=False),
        "fairness": records(tables.fairness(fair, e.gallery, e.attributes, resamples)),
        "controls": [control._asdict() for control in e.controls],
        "curves": {
            protocol.name: {"systems": _curves(e, protocol), **_named_ceiling(e, protocol.name)}
            for protocol in galleries
        },
        "histogram": _histogram(e),
        "exhibits": _exhibits(e),
        "failures": _failures(e),
        "left_out": dict(e.left_out),
    }
    found: dict[str, Any] = plain(report)
    check(found)
    return found


def check(report: Mapping[str, Any]) -> None:
    """Hold a report against ``report_schema.json``.

    Raises:
        InputError: it differs; the message names the place.

    Example:
        >>> check({"format": 2})
        Traceback (most recent call last):
        v2f_core.errors.InputError: report.json at ...
    """
    import jsonschema

    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    worst = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(schema).iter_errors(dict(report)))
    if worst is not None:
        raise InputError(f"report.json at {worst.json_path}: {worst.message[:200]}; expected what {SCHEMA.name} says")


def save(report: Mapping[str, Any], folder: str | Path, media: Mapping[str, str]) -> None:
    """Write report.json, report.md, report.html, systems.csv, sets.csv and fairness.csv, each whole or not at all.

    Raises:
        InputError: the page would be larger than 6 MB, or the folder cannot be written to.
    """
    folder = Path(folder)
    written = page(report, media)
    if len(written.encode()) > LIMIT:
        raise InputError(
            f"report.html: {len(written.encode()) / 1e6:.1f} MB, more than {LIMIT / 1e6:.0f}; show fewer faces"
        )
    texts = {
        "report.json": json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "report.md": markdown(report),
        "report.html": written,
    }
    for name, text in texts.items():
        with atomic_write(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    for name, key in (("systems.csv", "likeness"), ("sets.csv", "sets"), ("fairness.csv", "fairness")):
        with atomic_write(folder / name) as temporary:
            pd.DataFrame([flat(row) for row in report[key]]).to_csv(temporary, index=False, float_format="%.6g")


def _chance(protocol: Protocol) -> dict[str, Any]:
    size = person_values.gallery_size(protocol)
    return {"faces": size, "1:2 matching": 0.5} | {f"R@{k}": protocol.chance(k) for k in person_values.KS if k < size}


def _named_ceiling(e: Evaluated, where: str) -> dict[str, Any]:
    return {"ceiling": e.ceiling_curves[where]} if where in e.ceiling_curves else {}


def _answers(system: System) -> list[np.ndarray]:
    if system.faces:
        return [draw.identities for draw in system.faces]
    return [] if system.predicted is None else [system.predicted]


def _curves(e: Evaluated, protocol: Protocol) -> dict[str, list[float]]:
    order = [e.main, *(s for s in e.systems[::-1] if s.name != e.main.name)]
    chosen = [s for s in order if s.shuffles is None and _answers(s)][:PLOTTED]
    return {s.name: exhibits.rank_curve(_answers(s), e.gallery.identities, protocol, s.asked) for s in chosen}


def _histogram(e: Evaluated) -> dict[str, Any]:
    return exhibits.histograms(_answers(e.main), e.gallery.identities, e.sexes) if _answers(e.main) else {}


def _exhibits(e: Evaluated) -> dict[str, Any]:
    found: dict[str, Any] = {"faces": {}, "retrieval": {}}
    truth, main = e.gallery.identities, e.main
    if main.faces:
        drawn = main.faces[0].identities
        likeness, ranks = metrics.cosine(drawn, truth), metrics.rank(metrics.score_matrix(drawn, truth))
        for name, rows in exhibits.by_rank(likeness).items():
            found["faces"][name] = [
                {
                    **{"person": e.persons[i], "caption": e.captions[i], "cosine": float(likeness[i])},
                    **{"rank": int(ranks[i]), "of": len(truth)},
                }
                for i in rows
            ]
    if main.predicted is not None:
        scores = metrics.score_matrix(main.predicted, truth)
        nearness = -metrics.rank(scores).astype(float)
        for name, rows in exhibits.by_rank(nearness, 2).items():
            found["retrieval"][name] = [_named(e, exhibits.retrieval(scores, i)) for i in rows]
    return found


def _named(e: Evaluated, query: dict[str, Any]) -> dict[str, Any]:
    top = [{**face, "person": e.persons[face["person"]]} for face in query["top"]]
    return {**query, "top": top, "person": e.persons[query["person"]], "caption": e.captions[query["person"]]}


def _failures(e: Evaluated) -> list[dict[str, Any]]:
    if not e.main.faces:
        return []
    found = exhibits.failures(e.main.faces[0].identities, e.gallery.identities, e.mean_face, e.probed, e.main.asked)
    return [{**kind, "examples": [e.persons[i] for i in kind["examples"]]} for kind in found]
