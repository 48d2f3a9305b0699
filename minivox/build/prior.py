"""Stage `prior`: text encoder and UNet, trained together on the latents and ArcFace identities of the faces pool.

Every tenth time the condition is the identity of *another* view of the same person: the model then draws the person
and leaves pose and light to the noise. Every tenth is the null prompt, so that guidance is calibrated.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

from minivox.build.checkpoint import Checkpoint
from minivox.build.encoded import Encoded, load_pool
from minivox.build.faces_pool import POOLS
from minivox.build.precision import autocast
from minivox.build.tokenizer import END, LENGTH, START, save_tokenizer
from minivox.build.vae import average, held_out_from
from v2f_core.diffusion.prior import IDENTITY_DIM, Prior

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

STEPS, BATCH, RATE = 20_000, 32, 1.2e-3
STEPS_ON, RATE_ON = 20_000, 8e-4  # from a trained prior that `grow` put there
FALLS_OVER = 0.4  # the last share of the steps, in which their size falls to nothing
OTHER_VIEW, NULL = 0.1, 0.1
SNR_LIMIT = 5.0  # min-SNR weighting (Hang et al., 2023): nearly clean latents teach little


def new_unet() -> UNet2DConditionModel:
    """The miniature's UNet, 3.3 M parameters; attention below the full resolution of the latents."""
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=16,
        in_channels=4,
        out_channels=4,
        block_out_channels=(64, 64, 64),
        layers_per_block=2,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        mid_block_type=None,
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=IDENTITY_DIM,
        attention_head_dim=4,  # heads, despite diffusers' name
        norm_num_groups=16,
        time_embedding_dim=128,
    )


def new_prior(vae: AutoencoderKL, folder: Path) -> Prior:
    """A prior with a trained VAE, and the rest of it new: `new_unet`, and a text encoder of 1.4 M parameters.

    The text encoder is as wide as an identity, so that zero-padding is the identity map here and 512 → 768 in full.
    """
    from diffusers import DPMSolverMultistepScheduler
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    vocab = save_tokenizer(folder)
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(vocab),
            hidden_size=IDENTITY_DIM,
            intermediate_size=256,
            num_hidden_layers=1,
            num_attention_heads=8,
            max_position_embeddings=LENGTH,
            projection_dim=IDENTITY_DIM,
            bos_token_id=vocab[START],
            eos_token_id=vocab[END],
            pad_token_id=vocab[END],
        )
    )
    scheduler = DPMSolverMultistepScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", num_train_timesteps=1000, steps_offset=1
    )
    return Prior(new_unet(), vae, text_encoder, CLIPTokenizer.from_pretrained(folder), scheduler)


def save_prior(prior: Prior, folder: Path) -> None:
    """Write a Stable Diffusion folder, weights in half precision, without safety checker (nothing to check here)."""
    from diffusers import StableDiffusionPipeline

    shutil.rmtree(folder, ignore_errors=True)
    dtype = prior.unet.dtype
    prior.half()
    try:
        StableDiffusionPipeline(
            vae=prior.vae,
            text_encoder=prior.text_encoder,
            tokenizer=prior.tokenizer,
            unet=prior.unet,
            scheduler=prior.scheduler,
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    finally:
        prior.to(dtype)
    for config in folder.glob("*/config.json"):
        settings = json.loads(config.read_text())
        settings.pop("_name_or_path", None)  # a path of the machine that built it
        if "dtype" in settings:
            settings["dtype"] = "float32"  # what transformers is to load it in, like diffusers' parts
        config.write_text(json.dumps(settings, indent=2) + "\n")


def other_views(person: Int[Tensor, " n"], pick: Int[Tensor, " b"], generator: torch.Generator) -> Int[Tensor, " b"]:
    """For each picked portrait, a random other of the same person (itself where there is none).

    Example:
        >>> person = torch.tensor([7, 7, 9])
        >>> other_views(person, torch.tensor([0, 1, 2]), torch.Generator())
        tensor([1, 0, 2])
    """
    first = torch.searchsorted(person, person[pick])
    count = torch.searchsorted(person, person[pick], right=True) - first
    shift = (torch.rand(len(pick), generator=generator) * (count - 1)).long() + 1
    return first + (pick - first + shift) % count


def loss_of(prior: Prior, pool: Encoded, pick: Int[Tensor, " b"], generator: torch.Generator) -> Tensor:
    """The denoising loss of a batch, timesteps spread evenly over the schedule."""
    batch = len(pick)
    z_0 = pool.mean[pick].float() * prior.vae.config.scaling_factor
    noise = torch.randn(batch, *prior.latent_shape, generator=generator)
    steps = len(prior.alphas_cumprod)
    t = ((torch.arange(batch) + torch.rand(batch, generator=generator)) * steps / batch).long().clamp_max(steps - 1)
    t = t[torch.randperm(batch, generator=generator)]
    other = torch.rand(batch, generator=generator) < OTHER_VIEW
    identity = pool.identity[torch.where(other, other_views(pool.person, pick, generator), pick)]
    empty = torch.rand(batch, generator=generator) < NULL
    # the fused attention is slow on a CPU for heads of 16: its backward pass alone would take a quarter of the step
    with autocast(), sdpa_kernel(SDPBackend.MATH):
        c = torch.where(empty[:, None, None], prior.null(batch), prior.condition(identity))
        predicted = prior.predict(prior.add_noise(z_0, noise, t), t, c)
    a = prior.alphas_cumprod[t]
    snr = a / (1 - a)
    return ((predicted.float() - noise).square().mean((1, 2, 3)) * snr.clamp_max(SNR_LIMIT) / snr).mean()


def train(
    prior: Prior, latents: Path, persons: int, out: Path, steps: int, batch: int, rate: float = RATE, seed: int = 0
) -> Prior:
    """Train UNet and text encoder but on the held-out persons; resumes from ``out/state.pt``; averaged weights.

    The step size stays as it is and falls to nothing over the last steps, so that a run may be made longer or shorter
    while it goes on. Every few minutes ``out/assets/prior`` is written anew, so that others can use it early.
    """
    net = nn.ModuleList([prior.unet, prior.text_encoder])
    averaged = nn.ModuleList([type(m).from_config(m.config) if m is prior.unet else type(m)(m.config) for m in net])
    averaged.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), lr=rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    checkpoint = Checkpoint(out / "state.pt", {"net": net, "averaged": averaged, "optimiser": optimiser}, seconds=120.0)
    start = checkpoint.start
    generator = torch.Generator().manual_seed(seed * 1_000_003 + start)
    pool = load_pool(latents)
    theirs = torch.nonzero(pool.person >= held_out_from(persons)).squeeze(1)
    result = Prior(averaged[0], prior.vae, averaged[1], prior.tokenizer, prior.scheduler).eval()
    queue = theirs[:0]
    published_at = time.monotonic()
    running = 0.0
    bar = tqdm(range(start, steps), desc="prior", initial=start, total=steps, mininterval=10)
    for step in bar:
        if len(queue) < batch:
            pool = load_pool(latents)  # with what the renderer has finished meanwhile
            ours = torch.nonzero(pool.person < held_out_from(persons)).squeeze(1)
            theirs = torch.nonzero(pool.person >= held_out_from(persons)).squeeze(1)
            queue = ours[torch.randperm(len(ours), generator=generator)]
        pick, queue = queue[:batch], queue[batch:]
        for group in optimiser.param_groups:
            group["lr"] = rate * min(1.0, (step + 1) / 200, (1 - step / steps) / FALLS_OVER)
        loss = loss_of(prior, pool, pick, generator)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        average(averaged, net, min(0.999, step / (step + 10)))
        running = loss.item() if step == start else 0.98 * running + 0.02 * loss.item()
        if step % 20 == 0:
            bar.set_postfix(loss=f"{running:.4f}")
        checkpoint.save_if_due(step, last=step + 1 == steps)
        if time.monotonic() - published_at > 300:
            with torch.no_grad():
                fixed = torch.Generator().manual_seed(1)
                held = float(np.mean([loss_of(result, pool, part, fixed).item() for part in theirs[:256].split(64)]))
            tqdm.write(f"step {step + 1} loss {running:.4f} held-out {held:.4f}")
            save_prior(result, out / "assets" / "prior")
            published_at = time.monotonic()
    return result


def run(work: Path, tiny: bool = False) -> None:
    """Train, write ``prior/assets/prior`` and measure it (`prior_report.evaluate`)."""
    from diffusers import AutoencoderKL

    from minivox.build.prior_report import evaluate

    out = work / "prior"
    vae = AutoencoderKL.from_pretrained(work / "vae" / "vae", local_files_only=True, torch_dtype=torch.float32).eval()
    torch.manual_seed(0)
    prior = new_prior(vae.requires_grad_(False), out / "tokenizer")
    steps, rate = (4 if tiny else STEPS), RATE
    if (out / "start.pt").exists():
        start = torch.load(out / "start.pt", weights_only=True)
        prior.unet.load_state_dict(start["unet"])
        prior.text_encoder.load_state_dict(start["text_encoder"])
        steps, rate = STEPS_ON, RATE_ON
    persons = 8 if tiny else POOLS[0].persons
    result = train(prior, work / "vae" / "latents", persons, out, steps, 4 if tiny else BATCH, rate)
    save_prior(result, out / "assets" / "prior")
    evaluate(work, tiny)
