"""The report as one page that needs nothing else: tables, charts, faces and voices, from the report's data and media.

Every drawn face carries the word "synthetic". Pictures and sounds are data URIs; there is no script.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from v2f_core.evaluation.report_charts import Bar, bars, histogram, rank_curves
from v2f_core.evaluation.report_parts import audio, bar, escape, grid, likeness_table, picture, sets_table
from v2f_core.evaluation.report_style import STYLE

LIMIT = 6_000_000  # bytes of a page
KINDS = {"women": "women", "men": "men"}
SECTIONS = {
    "results": "Results",
    "curves": "Curves",
    "faces": "Faces",
    "retrieval": "Retrieval",
    "groups": "By group",
    "failures": "Failures",
    "controls": "Controls",
    "left-out": "Left out",
    "made": "How it was made",
}


def page(report: Mapping[str, Any], media: Mapping[str, str]) -> str:
    """The whole page.

    Args:
        report: as `report.assemble` gives it.
        media: ``true:<person>`` and ``face:<person>`` → picture, ``voice:<person>`` → sound, all as data URIs; what is
            missing is said to be missing.
    """
    about = report["about"]
    head = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        '<link rel="icon" href="data:,">'  # or else browsers ask for one, and complain
        f"<title>From a voice, a face: {escape(about['dataset'])}</title><style>{STYLE}</style></head><body><main>"
    )
    intro = (
        f"<h1>From a voice, a face: how much of it is true?</h1><p>{about['persons']} test persons of "
        f"{escape(about['dataset'])} ({about['women']} women, {about['men']} men), "
        f"profile <code>{escape(about['profile'])}</code>, "
        f"{about['draws']} face a person and system in {about['steps']} steps, "
        f"guidance {'chosen for each row' if about['tuned'] else format(about['guidance'], 'g')}.</p>"
        f'<p class="notice"><b>All faces marked “synthetic” were drawn by a model.</b> {escape(about["notice"])}</p>'
    )
    links = "".join(f'<a href="#{key}">{name}</a>' for key, name in SECTIONS.items())
    parts = {
        "results": _results(report),
        "curves": _curves(report),
        "faces": _faces(report, media),
        "retrieval": _retrieval(report, media),
        "groups": _groups(report),
        "failures": _failures(report, media),
        "controls": _controls(report),
        "left-out": _left_out(report),
        "made": _made(report),
    }
    body = "".join(f'<h2 id="{key}">{SECTIONS[key]}</h2>{inside}' for key, inside in parts.items())
    return f"{head}{intro}<nav>{links}</nav>{body}</main></body></html>\n"


def _results(report: Mapping[str, Any]) -> str:
    text = (
        "<p>Read a score between <i>chance</i> (or the mean face) and the <i>ceiling</i>: skill is the way between "
        "them. <b>By ẑ</b> the predicted identity itself is compared with the gallery; <b>by face</b> what ArcFace "
        "recognises in a drawn face; the <b>second scorer</b> is a net that the generator was not conditioned on. "
        "Small print: 95 % intervals over persons.</p>"
    )
    main, first = report["about"]["main"], True
    for where, chance in report["chance"].items():
        rows = [row for row in report["likeness"] if row["gallery"] == where]
        ceiling = report["ceilings"].get(where, {})
        shown = [row for row in rows if row["by"] != "second scorer" and "R@10" in row["measures"]]
        marks = {"chance": chance["R@10"]} if "R@10" in chance else {}
        marks |= {"ceiling": ceiling["R@10"]} if "R@10" in ceiling else {}
        text += f"<h3>Gallery: {escape(where)}, {chance['faces']} faces</h3>"
        if shown:
            drawn = [
                bar(
                    f"{row['system']}, by {row['by']}", row["measures"]["R@10"], "ours" if row["system"] == main else ""
                )
                for row in shown
            ]
            text += bars(f"R@10, {where}", drawn, marks)
        numbers = likeness_table(rows, chance, ceiling)
        text += f"<details{' open' * first}><summary>All numbers</summary>{numbers}</details>"
        first = False
    if report["sets"]:
        text += (
            "<h3>Sets of faces</h3><p>VFS cannot exceed the number of images of its smallest split, N. Distances are "
        )
        text += "between drawn and real faces, in the second scorer's features; less is better.</p>"
        text += sets_table(report["sets"])
    described = "".join(f"<dt>{escape(s['name'])}</dt><dd>{escape(s['what'])}</dd>" for s in report["systems"])
    return text + f"<details><summary>What each row is</summary><dl>{described}</dl></details>"


def _curves(report: Mapping[str, Any]) -> str:
    charts = [
        rank_curves(f"R@k, {where}", found["systems"], found.get("ceiling"))
        for where, found in report["curves"].items()
        if found["systems"]
    ]
    if report["histogram"]:
        charts.append(histogram(f"Cosines of {report['about']['main']} with the gallery", report["histogram"]))
    return f'<div class="pair">{"".join(charts)}</div>'


def _faces(report: Mapping[str, Any], media: Mapping[str, str]) -> str:
    found = report["exhibits"]["faces"]
    if not found:
        return "<p>No face was drawn in this run: choose systems to draw with <code>--systems</code>.</p>"
    text = (
        f"<p>Persons are chosen by the cosine of the face drawn by <b>{escape(report['about']['main'])}</b> with the "
        "true face, never by hand. Listen, look at the drawn face, then at the true one.</p>"
    )
    for name, cards in found.items():
        inside = "".join(
            f'<figure class="card"><div class="faces">{picture(media, "face", c["person"], "drawn", synthetic=True)}'
            f"{picture(media, 'true', c['person'], 'true')}</div>{audio(media, c['person'])}{escape(c['caption'])}<br>"
            f"<small>cosine {c['cosine']:.2f}, rank {c['rank']} of {c['of']}</small></figure>"
            for c in cards
        )
        text += f'<h3>{name.capitalize()}</h3><div class="cards">{inside}</div>'
    return text


def _retrieval(report: Mapping[str, Any], media: Mapping[str, str]) -> str:
    text = (
        "<p>One voice asks, its ẑ answers: the nearest photographs of the gallery, all of them other persons but the "
        "one framed in green. Voices are chosen by the true face's rank.</p>"
    )
    for name, queries in report["exhibits"]["retrieval"].items():
        for query in queries:
            faces = "".join(
                picture(media, "true", face["person"], f"{face['score']:.2f}", true=face["true"])
                for face in query["top"]
            )
            if not any(face["true"] for face in query["top"]):
                faces += picture(media, "true", query["person"], f"rank {query['rank']}", true=True)
            text += (
                f'<figure class="strip"><div><b>{name}</b>: {escape(query["caption"])}{audio(media, query["person"])}'
                f"<small>true face at rank {query['rank']} of {query['of']}</small></div>"
                f'<div class="faces">{faces}</div></figure>'
            )
    return text


def _groups(report: Mapping[str, Any]) -> str:
    main, charts = report["about"]["main"], []
    rows = [row for row in report["fairness"] if row["system"] == main]
    for by in dict.fromkeys(row["by"] for row in rows):
        for measure in ("cosine", "R@10", "VFS"):
            for attribute in dict.fromkeys(row["attribute"] for row in rows):
                of = [row for row in rows if row["attribute"] == attribute and row["by"] == by]
                if any(measure in row["measures"] for row in of):
                    charts.append(
                        bars(f"{measure} by {attribute} ({main}, by {by})", [_group(r, measure) for r in of], {})
                    )
    if not charts:
        return "<p>No group is large enough.</p>"
    return (
        "<p>A difference between groups is real only where intervals part; groups of fewer than 10 persons are pale. "
        "R@10 is over the whole gallery; VFS of a group has its own N and is not comparable between groups of other "
        f'sizes.</p><div class="pair">{"".join(charts)}</div>'
    )


def _group(row: Mapping[str, Any], measure: str) -> Bar:
    note = f"n = {row['n']}" + (f", N = {row['VFS images']}" if measure == "VFS" and "VFS images" in row else "")
    kind = KINDS.get(row["group"], "") + (" few" if row["few"] else "")
    return bar(row["group"], row["measures"].get(measure), kind, note)


def _failures(report: Mapping[str, Any], media: Mapping[str, str]) -> str:
    if not report["failures"]:
        return "<p>No face was drawn in this run.</p>"
    text = (
        "<p>How drawn faces fail, judged by probes on ArcFace identities that were fitted to the training photographs. "
        "A probe errs as well: beside each name stands the share of <i>real</i> photographs that it judges so too.</p>"
    )
    rows, shown = [], []
    for found in report["failures"]:
        real = "" if found["real share"] is None else f", of real ones {100 * found['real share']:.0f} %"
        note = f"{found['count']} of {found['n']}{real}"
        rows.append(bar(found["kind"], found["share"], "ours", note))
        if found["examples"]:
            faces = "".join(picture(media, "face", p, p, synthetic=True) for p in found["examples"])
            title = f"{found['kind'].capitalize()}: the worst"
            shown.append(f'<figure><figcaption>{escape(title)}</figcaption><div class="faces">{faces}</div></figure>')
    return f'{text}{bars("Share of drawn faces", rows, {})}<div class="pair">{"".join(shown)}</div>'


def _controls(report: Mapping[str, Any]) -> str:
    lines = [
        f"<tr><td>{escape(c['name'])}</td><td>{escape(c['gallery'])}</td><td>{escape(c['measure'])}</td><td>{c['value']:.4f}</td>"
        f"<td>{c['chance']:.4f}</td><td>{c['p']:.3f}</td><td>{c['corrected']:.3f}</td></tr>"
        for c in report["controls"]
    ]
    text = "<p>Over 200 derangements, with the speaker's own face out of the gallery, shuffled voices and random real "
    text += "faces must be at chance: a run in which they are not (Holm-corrected p below 0.001) is refused.</p>"
    return text + grid(["control", "gallery", "measure", "mean", "chance", "p", "Holm"], lines)


def _left_out(report: Mapping[str, Any]) -> str:
    left = report["left_out"]
    notes = "".join(f"<li>{escape(note)}</li>" for note in left["notes"])
    files = "".join(f"<li><code>{escape(f['item'])}</code>: {escape(f['why'])}</li>" for f in left["files"][:50])
    persons = ", ".join(escape(p) for p in left["persons"][:50])
    return (
        f"<ul>{notes}</ul>"
        + (f"<details><summary>{len(left['persons'])} persons</summary><p>{persons}</p></details>" if persons else "")
        + (f"<details><summary>{len(left['files'])} files</summary><ul>{files}</ul></details>" if files else "")
    )


def _made(report: Mapping[str, Any]) -> str:
    about = report["about"]
    facts = {f"{name} (SHA-256)": digest for name, digest in about["weights_sha256"].items()} | about["versions"]
    rows = "".join(f"<dt>{escape(name)}</dt><dd><code>{escape(value)}</code></dd>" for name, value in facts.items())
    seed = f"<p>Seed {about['seed']}; each person has a noise of their own, the same under every system.</p>"
    return f"{seed}<dl>{rows}</dl>"
