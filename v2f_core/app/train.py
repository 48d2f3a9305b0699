"""``extract``, ``stage1``, ``posterior``, ``stage2``: from a dataset to embeddings, an aligner, p(z | v), and LoRA."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from v2f_core.app.own import bad_files, name_left_out
from v2f_core.artefacts.files import check_writable, folder_hash
from v2f_core.artefacts.profiles import Profile
from v2f_core.data.manifest import Manifest
from v2f_core.data.voxceleb import open_dataset
from v2f_core.diffusion.prior import Prior
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.arcface_torch import differentiable_arcface
from v2f_core.identity.faces import FacePack
from v2f_core.pipeline import made_from
from v2f_core.speech.encoders import load_encoder
from v2f_core.studies.critics import BALANCED, CRITICS
from v2f_core.training.embeddings import embed_dataset
from v2f_core.training.latents import pair_faces, stored_latents
from v2f_core.training.pairs import Pairs, pair_up
from v2f_core.training.posterior import train_posterior
from v2f_core.training.processes import first_process_first, join, own_device
from v2f_core.training.stage1 import Stage1Settings, train_stage1
from v2f_core.training.stage2 import from_profile, train_stage2
from v2f_core.training.waveforms import Recordings, WaveformSettings, train_from_waveforms


def extract(profile: Profile, device: str, workers: int) -> None:
    """Embed every voice and face of the profile's dataset once, into the cache."""
    manifest = open_dataset(profile)
    stores = embed_dataset(profile, manifest, device, workers)
    if join(device)[0] == 0:  # the first process speaks for all
        if profile.own_data:
            name_left_out(manifest.left_out)
            bad_files(profile, *stores)
        for name, embeddings in zip(("voices", "faces"), stores, strict=True):
            print(f"{name}: {len(embeddings.vectors)} embeddings, {len(embeddings.skipped)} files skipped")


def chosen(**settings: Any) -> dict[str, Any]:
    """The settings of a command that were given; the others are the profile's."""
    return {name: value for name, value in settings.items() if value is not None}


def stage1(profile: Profile, out: Path, steps: int | None, seed: int, device: str) -> None:
    """Train the aligner on stored embeddings, extracted first if need be; ``steps`` in place of the profile's."""
    check_writable(out)
    manifest, training, validation = paired(profile, device)
    settings = Stage1Settings(**{**profile.stage1, **chosen(seed=seed, steps=steps)})
    made = {"dataset": manifest.root.name, **made_from(profile)}
    train_stage1(training, validation, settings, out, made, device)
    if join(device)[0] == 0:
        print(f"aligner and history: {out}")


def paired(profile: Profile, device: str) -> tuple[Manifest, Pairs, Pairs]:
    """The profile's dataset, embedded now or before, with the pairs of its training and validation persons."""
    manifest = open_dataset(profile)
    voices, faces = embed_dataset(profile, manifest, device)
    return manifest, pair_up(manifest, voices, faces, "train"), pair_up(manifest, voices, faces, "val")


def posterior(profile: Profile, out: Path, aligner: Path | None, device: str) -> None:
    """Train p(z | v) for an aligner (without a folder the profile's of Stage I), on stored embeddings."""
    check_writable(out)
    trained = Aligner.from_pretrained(aligner or profile.part("aligner"))
    manifest, training, validation = paired(profile, device)
    fitted = train_posterior(training, validation, trained, {"dataset": manifest.root.name, **made_from(profile)})
    fitted.save_pretrained(out)
    nats = fitted.provenance["validation"]["nats that a voice tells"]
    print(f"posterior: {out} (κ {fitted.kappa:g}; a voice tells {nats:.2f} nats of its face)")


def stage1_from_waveforms(
    profile: Profile, out: Path, unfreeze: int, aligner: Path | None, steps: int | None, seed: int, device: str = "cpu"
) -> None:
    """Train the aligner (from its folder, or a new one) and ``unfreeze`` upper layers of the encoder from waveforms."""
    check_writable(out)
    own = chosen(seed=seed, steps=steps, unfreeze=unfreeze)
    settings = WaveformSettings(**{**profile.stage1, **profile.finetune, **own})
    manifest, source = open_dataset(profile), profile.part(profile.encoder)
    stores = embed_dataset(profile, manifest, device)
    training, validation = (Recordings.of(manifest, *stores, split, profile.clip_seconds) for split in ("train", "val"))
    made: dict[str, Any] = {"dataset": manifest.root.name, "faces_sha256": folder_hash(profile.part("faces"))}
    made |= {"encoder_sha256": folder_hash(source), "aligner_sha256": aligner and folder_hash(aligner)}
    start = Aligner.from_pretrained(aligner) if aligner else None
    encoder = load_encoder(profile.encoder, source, profile.ast_frames)
    train_from_waveforms(encoder, source, start, training, validation, settings, out, made, device)
    print(f"speech encoder, aligner and history: {out}")


def stage2(
    profile: Profile,
    out: Path,
    aligner: Path | None,
    mode: str | None,
    steps: int | None,
    gradient_checkpointing: bool,
    seed: int,
    device: str,
) -> None:
    """Train aligner and LoRA together, with the prior as critic.

    ``mode`` names a critic and takes a λ_self that suits it; without one, the paper's with the profile's λ_self.
    """
    profile.must_draw()
    check_writable(out)
    weight = BALANCED[mode] if mode else None
    changes = chosen(seed=seed, steps=steps, weight_self=weight, gradient_checkpointing=gradient_checkpointing)
    settings = from_profile(profile, **changes)
    process, own = join(device)[0], own_device(device)
    with first_process_first():  # the hashes of a part are written down at its first use
        start, nets = aligner or profile.part("aligner"), [profile.part(part) for part in ("prior", "faces")]
    prior, pack = Prior.from_folder(nets[0], own), FacePack.from_folder(nets[1], own)
    manifest = open_dataset(profile)
    voices, faces = embed_dataset(profile, manifest, device)
    latents = stored_latents(profile, manifest, prior, pack)
    training, validation = (
        pair_faces(manifest, voices, faces, latents, split, prior.latent_shape) for split in ("train", "val")
    )
    hashes = {f"{part}_sha256": folder_hash(profile.part(part)) for part in (profile.encoder, "faces", "prior")}
    made = {"dataset": manifest.root.name, **hashes, "aligner_sha256": folder_hash(start)}
    trained = Aligner.from_pretrained(start), prior, differentiable_arcface(pack.arcface_path)
    train_stage2(*trained, training, validation, settings, out, made, device, critic=CRITICS[mode or "paper"])
    if process == 0:
        print(f"aligner, LoRA and histories: {out}")
