"""The command line's steps from a dataset to a study: extract, stage1, stage2, evaluate, ablate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from v2f_core.artefacts.profiles import load_profile
from v2f_core.errors import InputError

training = typer.Typer()

Device = Annotated[Literal["cpu", "cuda", "mps"], typer.Option(help="Where to compute.")]
ProfileName = Annotated[str | None, typer.Option(help="mini or full; else V2F_PROFILE, else mini.")]


@training.command()
def extract(
    profile: ProfileName = None,
    device: Device = "cpu",
    workers: Annotated[int, typer.Option(min=0, help="Processes that read the files.")] = 0,
    precision: Annotated[
        Literal["fp32", "bf16"] | None, typer.Option(help="Of the speech encoder; else bf16 on cuda, fp32 elsewhere.")
    ] = None,
) -> None:
    """Embed every voice and face of the profile's dataset once, into the cache; goes on where it was stopped."""
    from v2f_core.data.layouts import open_dataset
    from v2f_core.training.embeddings import embed_dataset
    from v2f_core.training.processes import join

    chosen = load_profile(profile)
    check_device(device)
    stores = embed_dataset(chosen, open_dataset(chosen), device, workers, precision)
    if join(device)[0]:
        return  # the first process speaks for all
    for name, embeddings in zip(("voices", "faces"), stores, strict=True):
        print(f"{name}: {len(embeddings.vectors)} embeddings, {len(embeddings.skipped)} files skipped")


@training.command()
def stage1(
    out: Annotated[Path, typer.Option(help="Folder for the aligner and its history.")] = Path("runs/stage1"),
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; else the profile's.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same aligner.")] = 0,
    profile: ProfileName = None,
    device: Device = "cpu",
    unfreeze: Annotated[
        int | None, typer.Option(min=0, help="Train from waveforms, and so many upper layers of the encoder with it.")
    ] = None,
    aligner: Annotated[
        Path | None, typer.Option(help="With --unfreeze: an aligner's folder to start from; else a new one.")
    ] = None,
    noise: Annotated[
        tuple[float, float] | None, typer.Option(help="With --unfreeze: dB of noise, from, to; inf inf for none.")
    ] = None,
    workers: Annotated[int, typer.Option(min=0, help="With --unfreeze: processes that read the recordings.")] = 0,
) -> None:
    """Stage I: train the aligner on stored embeddings, extracted first if need be, or from waveforms; goes on where it
    was stopped."""
    from v2f_core.artefacts.provenance import folder_hash
    from v2f_core.data.layouts import open_dataset
    from v2f_core.training.embeddings import embed_dataset
    from v2f_core.training.pairs import pair_up
    from v2f_core.training.processes import join
    from v2f_core.training.stage1 import Stage1Settings, train_stage1

    if unfreeze is None and (aligner or noise or workers):
        raise InputError(
            "--aligner, --noise and --workers belong to --unfreeze; give it too (0 trains the aligner alone)"
        )
    chosen = load_profile(profile)
    check_device(device)
    if unfreeze is not None:
        from v2f_core.training.finetune import run
        from v2f_core.training.finetune_settings import from_profile

        run(chosen, from_profile(chosen, unfreeze, seed, steps, noise), out, aligner, device, workers)
        print(f"speech encoder, aligner and history: {out}")
        return
    manifest = open_dataset(chosen)
    voices, faces = embed_dataset(chosen, manifest, device)
    settings = Stage1Settings(**{**chosen.stage1, "seed": seed} | ({"steps": steps} if steps else {}))
    hashes = {f"{part}_sha256": folder_hash(chosen.part(part)) for part in (chosen.encoder, "faces")}
    training, validation = (pair_up(manifest, voices, faces, split) for split in ("train", "val"))
    train_stage1(
        training, validation, settings, out, {"dataset": manifest.root.name, **hashes}, device, tensorboard=True
    )
    if join(device)[0] == 0:
        print(f"aligner and history: {out} (curves: tensorboard --logdir {out})")


@training.command()
def posterior(
    out: Annotated[Path, typer.Option(help="Folder for the posterior.")] = Path("runs/posterior"),
    aligner: Annotated[Path | None, typer.Option(help="The aligner's folder; else the profile's.")] = None,
    profile: ProfileName = None,
    device: Device = "cpu",
) -> None:
    """p(z | v) for an aligner, in closed form from stored embeddings: seconds, and the same every time."""
    from v2f_core.artefacts.provenance import folder_hash
    from v2f_core.data.layouts import open_dataset
    from v2f_core.identity.aligner import Aligner
    from v2f_core.training.embeddings import embed_dataset
    from v2f_core.training.pairs import pair_up
    from v2f_core.training.posterior import train_posterior

    chosen = load_profile(profile)
    check_device(device)
    trained, manifest = Aligner.from_pretrained(aligner or chosen.part("aligner")), open_dataset(chosen)
    voices, faces = embed_dataset(chosen, manifest, device)
    hashes = {f"{part}_sha256": folder_hash(chosen.part(part)) for part in (chosen.encoder, "faces")}
    training, validation = (pair_up(manifest, voices, faces, split) for split in ("train", "val"))
    fitted = train_posterior(training, validation, trained, {"dataset": manifest.root.name, **hashes})
    fitted.save_pretrained(out)
    nats = fitted.provenance["validation"]["nats that a voice tells"]
    print(f"posterior: {out} (κ {fitted.kappa:g}; a voice tells {nats:.2f} nats of its face)")


@training.command()
def stage2(
    out: Annotated[Path, typer.Option(help="Folder for aligner, LoRA and histories.")] = Path("runs/stage2"),
    aligner: Annotated[Path | None, typer.Option(help="Folder of Stage I's aligner; else the profile's.")] = None,
    mode: Annotated[
        Literal["paper", "denoise", "teacher", "contrast", "cycle", "likeness"] | None,
        typer.Option(help="Which L_self; else the profile's."),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Training steps; else the profile's.")] = None,
    gradient_accumulation: Annotated[
        int | None, typer.Option(min=1, help="Look at a batch's faces in so many parts: less memory, the same step.")
    ] = None,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Less memory still, a third more time, the same step.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same weights.")] = 0,
    profile: ProfileName = None,
    device: Device = "cpu",
) -> None:
    """Stage II: aligner and LoRA together, with the prior as critic; goes on where it was stopped."""
    from minivox.bounds import informed
    from v2f_core.artefacts.provenance import folder_hash
    from v2f_core.data.layouts import open_dataset
    from v2f_core.diffusion.prior import Prior
    from v2f_core.identity.aligner import Aligner
    from v2f_core.identity.arcface_torch import differentiable_arcface
    from v2f_core.identity.faces import FacePack
    from v2f_core.training.embeddings import embed_dataset
    from v2f_core.training.latents import pair_faces, stored_latents
    from v2f_core.training.processes import in_turn, join, own_device
    from v2f_core.training.stage2 import train_stage2
    from v2f_core.training.stage2_settings import from_profile

    chosen = load_profile(profile)
    check_device(device)
    settings = from_profile(chosen, seed=seed, mode=mode, steps=steps, parts=gradient_accumulation)
    if gradient_checkpointing:
        settings = replace(settings, gradient_checkpointing=True)
    process, here = join(device)[0], own_device(device)
    with in_turn():  # a part at its first use is fetched from caches, and its hashes are written down
        start = chosen.part("aligner") if aligner is None else aligner
        parts = {part: chosen.part(part) for part in ("prior", "faces")}
    trained, prior = Aligner.from_pretrained(start), Prior.from_folder(parts["prior"], here)
    pack, manifest = FacePack.from_folder(parts["faces"], here), open_dataset(chosen)
    voices, faces = embed_dataset(chosen, manifest, device)
    latents = stored_latents(chosen, manifest, prior, pack)
    training, validation = (
        pair_faces(manifest, voices, faces, latents, split, prior.latent_shape) for split in ("train", "val")
    )
    hashes = {f"{part}_sha256": folder_hash(chosen.part(part)) for part in (chosen.encoder, "faces", "prior")}
    made = {"dataset": manifest.root.name, **hashes, "aligner_sha256": folder_hash(start)}
    validation = informed(validation, training)
    arcface = differentiable_arcface(pack.arcface_path)
    train_stage2(trained, prior, arcface, training, validation, settings, out, made, device, tensorboard=True)
    if process == 0:
        print(f"aligner, LoRA and histories: {out} (curves: tensorboard --logdir {out})")


@training.command()
def evaluate(
    out: Annotated[Path, typer.Option(help="Folder for tables and report.")] = Path("outputs/evaluate"),
    systems: Annotated[
        str, typer.Option(help="Which rows get faces: names with commas between, all, or none.")
    ] = "w/o DSC (Stage I)",
    draws: Annotated[int, typer.Option(min=1, help="Faces a person and row.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Solver steps of a face.")] = 10,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale; else the profile's.")] = None,
    tune: Annotated[bool, typer.Option("--tune", help="Choose every row's guidance on validation persons.")] = False,
    fid: Annotated[bool, typer.Option("--fid", help="FID and LPIPS too (340 MB are downloaded once).")] = False,
    limit: Annotated[int | None, typer.Option(help="Only so many test persons, women and men alike.")] = None,
    stage2: Annotated[list[Path] | None, typer.Option(help="Folder of a trained Stage II; may be repeated.")] = None,
    labels: Annotated[Path | None, typer.Option(help="CSV of person, age, skin tone.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="The same seed draws the same faces.")] = 0,
    profile: ProfileName = None,
    device: Device = "cpu",
) -> None:
    """Every system beside its controls: tables and a page to look at; goes on where it was stopped."""
    from v2f_core.app.evaluate import chosen_rows, evaluate

    rows = chosen_rows(systems)
    check_device(device)
    page = evaluate(out, profile, rows, draws, steps, guidance, limit, stage2 or (), labels, seed, tune, fid, device)
    print(f"tables and report: {page}")


@training.command("ablate")
def ablate_table(
    table: Annotated[str, typer.Argument(help="table4, modes, attempts, chosen, sources, parts or rank.")],
    out: Annotated[Path, typer.Option(help="Folder for the runs and, in it, the results.")] = Path("runs/ablate"),
    seeds: Annotated[int, typer.Option(min=1, help="How many seeds, from 0.")] = 3,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of Stage II; else the profile's.")] = None,
    persons: Annotated[int, typer.Option(min=10, help="Persons at most, women and men alike.")] = 1000,
    split: Annotated[Literal["test", "val"], typer.Option(help="Whose: val while you still choose.")] = "test",
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time.")] = 1,
    profile: ProfileName = None,
    device: Device = "cpu",
) -> None:
    """A table of ablations over seeds: trained, drawn, measured; goes on where it was stopped."""
    from v2f_core.app.ablate import SHOWN, ablate
    from v2f_core.show.plots import forest
    from v2f_core.studies import ablation
    from v2f_core.studies.ablations import WITHOUT
    from v2f_core.studies.plan import Plan

    check_device(device)
    plan = Plan(load_profile(profile), out, steps, persons, split=split, device=device)
    name = table if split == "test" else f"{table}_{split}"
    summary = ablation.save(ablate(table, seeds, plan, jobs), name, out / "results", SHOWN)
    forest(summary, SHOWN, WITHOUT).savefig(out / "results" / f"{name}.png")
    print(ablation.markdown(summary, SHOWN))
    print(f"results: {out / 'results'}")


def check_device(device: str) -> None:
    """Refuse a device that is not there."""
    import torch

    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"{device}: this machine's torch cannot use it; choose another --device") from error
