"""What the full size costs on this machine's GPU: throughput and peak memory, with random weights of the real shapes.

    python benchmarks/gpu.py  # needs CUDA and about 40 GB of its memory; writes benchmarks/results/gpu.csv
    python benchmarks/gpu.py --tiny              # anywhere, in a minute: that it runs; the figures mean nothing.
                                                 # Without CUDA it does no more than this either.

Extraction in fp32: AST-base on clips of 1.25 s, the VAE on 512 px, ArcFace by torch. Stage I at batch 128. Stage II's
own step in bf16, LoRA r = 16 on UNet and text encoder of Stable Diffusion 1.5's size, f_arc of an iResNet-100's: every
critic at the paper's batch of 16, then more batches, with and without gradient checkpointing; one look at the
validation faces, as there is every 500 steps. Generation: 4 images, 25 steps, guidance 3.

What does not fit into memory, or fails, is a row that says so. The table is written after each row, so that a machine
that is taken away leaves what it had measured.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from random_nets import FULL, TINY, IResNet, Size, random_pairs, random_prior

from v2f_core.artefacts.files import atomic_write, versions
from v2f_core.diffusion.consistency import SelfConsistency
from v2f_core.diffusion.lora import add_lora, lora_parameters
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.losses import IdentityLoss
from v2f_core.identity.sphere import normalise
from v2f_core.speech.encoders import WINDOWS_AT_ONCE, ASTEncoder, embed_windows
from v2f_core.studies.critics import CRITICS
from v2f_core.training import stage1, stage2
from v2f_core.training.latents import FacePairs
from v2f_core.training.stage1 import Stage1Settings
from v2f_core.training.stage2 import Stage2Settings


def measured(call: Callable[[], Any], size: Size, device: str) -> tuple[float, float | None]:
    """Seconds a call, and the peak of the GPU's memory in GiB; the first two calls warm up."""
    cuda = device == "cuda"
    for _ in range(min(2, size.repeats)):
        call()
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    for _ in range(size.repeats):
        call()
    if cuda:
        torch.cuda.synchronize()
    seconds = (time.perf_counter() - start) / size.repeats
    return seconds, torch.cuda.max_memory_allocated() / 2**30 if cuda else None


def extraction(size: Size, device: str) -> Iterator[dict[str, Any]]:
    """Speaker embeddings, latents and identities."""
    from transformers import ASTConfig, ASTFeatureExtractor, ASTModel

    encoder = ASTEncoder(ASTModel(ASTConfig(**size.ast)), ASTFeatureExtractor(), max_frames=128).to(device)
    clips = 0.1 * torch.randn(WINDOWS_AT_ONCE, 20_000)
    yield row(
        "AST, clips of 1.25 s", "fp32", len(clips), "clips/s", size, device, lambda: embed_windows(encoder, [clips])
    )
    prior = random_prior(size, device)
    pictures = torch.rand(16, 3, *(prior.latent_shape[1] * 8,) * 2, device=device) * 2 - 1
    encode = torch.no_grad()(lambda: prior.encode(pictures))
    yield row("VAE, latents", "fp32", len(pictures), "images/s", size, device, encode)
    arcface, crops = IResNet(size.arcface).to(device), torch.rand(64, 3, 112, 112, device=device) * 2 - 1
    embed_faces = torch.no_grad()(lambda: arcface(crops))
    yield row("ArcFace, crops of 112 px", "fp32", len(crops), "images/s", size, device, embed_faces)


def first_stage(size: Size, device: str) -> Iterator[dict[str, Any]]:
    """Stage I as it is run, its validation included."""
    pairs, steps = random_pairs(size, (4, 1, 1)).pairs, size.stage1_steps
    settings = Stage1Settings(steps=steps, evaluate_every=steps)

    def train() -> None:
        with tempfile.TemporaryDirectory() as folder:
            stage1.train_stage1(pairs, pairs, settings, folder, {}, device)

    yield row("Stage I", "fp32", settings.batch, "steps/s", replace(size, repeats=1), device, train, each=steps)


def second_stage(size: Size, device: str) -> Iterator[dict[str, Any]]:
    """Steps of Stage II, of every critic, then of the paper's at other batches."""
    arcface = IResNet(size.arcface).to(device)
    tries = [(name, size.batches[0], False) for name in CRITICS]
    tries += [("paper", batch, saving) for batch in size.batches for saving in (False, True)][1:]
    for name, batch, saving in tries:
        how = f"bf16, {name}" + (", gradient checkpointing" if saving else "")
        parts = partial(second_stage_parts, size, device, arcface, name)
        step = partial(second_stage_step, parts, batch, saving)
        yield row("Stage II", how, batch, "steps/s", size, device, step, each=1, prepare=True)
    # between steps, in fp32: the paper's critic again, and the batch that bounds its memory
    settings, once = Stage2Settings(batch=size.batches[0], monitored=size.monitored), replace(size, repeats=1)

    def look() -> Callable[[], Any]:
        aligner, consistency, pairs, loss = second_stage_parts(size, device, arcface, "paper")
        return lambda: stage2.evaluate(aligner, consistency, pairs, loss, settings)

    yield row("Stage II, look", "fp32, paper", settings.monitored, "looks/s", once, device, look, each=1, prepare=True)


def second_stage_parts(
    size: Size, device: str, arcface: IResNet, name: str
) -> tuple[Aligner, SelfConsistency, FacePairs, IdentityLoss]:
    """Aligner, L_self with a prior that has adapters, persons, L_id."""
    prior = random_prior(size, device)
    add_lora(prior)
    pairs = random_pairs(size, prior.latent_shape).to(device)
    loss = stage1.identity_loss(pairs.pairs, Stage1Settings(), free=True).to(device)
    return Aligner(768).to(device), SelfConsistency(prior, arcface, CRITICS[name]), pairs, loss


def second_stage_step(parts: Callable[[], Any], batch: int, saving: bool) -> Callable[[], None]:
    """One step of `train_stage2`, without its files."""
    aligner, consistency, pairs, loss = parts()
    if saving:
        consistency.prior.unet.enable_gradient_checkpointing()
    parameters = [*aligner.parameters(), *loss.parameters(), *lora_parameters(consistency.prior).values()]
    optimiser, generator = torch.optim.AdamW(parameters, 1e-6), torch.Generator().manual_seed(0)

    def step() -> None:
        voice, label, faces = pairs.draw(batch, 1, generator)
        with torch.autocast(voice.device.type, torch.bfloat16):
            identity = aligner(voice)
            total = loss(identity, faces.z_arc, label).total + consistency(identity, faces, generator).loss
        optimiser.zero_grad()
        total.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()

    return step


def generation(size: Size, device: str) -> Iterator[dict[str, Any]]:
    """Four faces of one identity."""
    prior = random_prior(size, device)
    identity = normalise(torch.randn(1, 512, device=device)).expand(4, -1)
    for precision, kind in {"fp32": torch.float32, "bf16": torch.bfloat16}.items():
        for net in (prior.unet, prior.vae, prior.text_encoder):
            net.to(kind)
        what = f"{precision}, 25 steps, guidance 3"
        yield row("generation", what, 4, "images/s", size, device, lambda: prior.sample(identity, 25, 3.0))


def row(
    what: str,
    how: str,
    batch: int,
    unit: str,
    size: Size,
    device: str,
    call: Callable[[], Any],
    each: int | None = None,
    prepare: bool = False,
) -> dict[str, Any]:
    """A line of the table; ``each``: how many of the unit a call makes, else the batch; ``prepare``: call for the call.

    What is too large for the memory, or fails, is a finding: nothing here may cost the rows after it.
    """
    found: dict[str, Any] = {"what": what, "how": how, "batch": batch, "unit": unit}
    try:
        gc.collect()  # nets refer to one another in rings
        if device == "cuda":
            torch.cuda.empty_cache()
        seconds, peak = measured(call() if prepare else call, size, device)
    except Exception as error:
        return found | {"rate": None, "seconds a call": None, "peak GiB": None, "note": reason(error)}
    rate = (batch if each is None else each) / seconds
    return found | {"rate": rate, "seconds a call": seconds, "peak GiB": peak, "note": ""}


def reason(error: Exception) -> str:
    """Why there is no figure, in one line."""
    text = " ".join(str(error).split())
    if isinstance(error, torch.OutOfMemoryError) or "ALLOC_FAILED" in text:  # cuBLAS and cuDNN have a way of their own
        return "out of memory"
    return f"{type(error).__name__}: {text}"[:200]


def machine(device: str, commit: str | None = None) -> dict[str, str]:
    """What the figures hold for."""
    gpu = torch.cuda.get_device_name() if device == "cuda" else "none"
    made_of = versions("torch", "diffusers", "transformers", "peft", "accelerate")
    return {"GPU": gpu, "commit": commit or checked_out(), "CUDA": str(torch.version.cuda), **made_of}


def checked_out() -> str:
    """The commit of this checkout; "unknown" of a copy without its history."""
    asked, here = ["git", "rev-parse", "--short", "HEAD"], Path(__file__).parent
    try:
        known = subprocess.run(asked, cwd=here, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return known.stdout.strip()


def main(arguments: list[str] | None = None) -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    parser.add_argument("--tiny", action="store_true", help="tiny nets; the table is then gpu_tiny.csv")
    parser.add_argument("--commit", help="for a copy without git: what the table says it was measured at")
    chosen = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tiny = chosen.tiny or device == "cpu"
    size = TINY if tiny else FULL
    if tiny and not chosen.tiny:
        print("No CUDA device: tried with tiny nets, and the figures mean nothing.", file=sys.stderr)
    table, here, rows = chosen.out / ("gpu_tiny.csv" if tiny else "gpu.csv"), machine(device, chosen.commit), []
    failed = False
    for part in (extraction, first_stage, second_stage, generation):
        try:
            for found in part(size, device):
                print(found, flush=True)
                rows.append(found | here)
                with atomic_write(table) as temporary:
                    pd.DataFrame(rows).to_csv(temporary, index=False, float_format="%.4g")
        except Exception:  # of the nets' making; the parts after it are still measured
            traceback.print_exc()
            failed = True
    if failed or any(row["note"] not in ("", "out of memory") for row in rows):
        sys.exit(f"{table}: something failed; its column note, and what stands above, say what")


if __name__ == "__main__":
    main()
