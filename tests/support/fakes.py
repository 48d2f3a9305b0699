"""Stand-ins that several tests share: a recogniser, a face pack, and persons with random numbers."""

from pathlib import Path

import av
import numpy as np
import soundfile
import torch
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

import minivox
from minivox.build.tokenizer import LENGTH, save_tokenizer
from v2f_core.diffusion.consistency import FaceBatch
from v2f_core.diffusion.lora import lora_parameters
from v2f_core.diffusion.prior import Prior
from v2f_core.evaluation.judge import Judge
from v2f_core.identity.faces import TEMPLATE
from v2f_core.identity.sphere import normalise
from v2f_core.training.latents import FacePairs
from v2f_core.training.pairs import Pairs

OTHER_VOICE = Path(minivox.__file__).parent / "other_voice.ogg"
SHAPE = (4, 4, 4)  # of the tiny prior's latents


def spoken(seconds, rate=16_000, channels=1, level=0.4):
    """A voice that is no part of MiniVox, from word to word without an end; ``level`` is its peak."""
    words = soundfile.read(OTHER_VOICE, dtype="float32")[0][4_100:117_700]
    wave = np.resize(words, round(seconds * 16_000))
    if rate != 16_000:
        samples = round(seconds * rate)
        wave = np.fft.irfft(np.fft.rfft(wave), samples) * samples / len(wave)
    return np.tile((level * wave / np.abs(wave).max()).astype(np.float32)[:, None], channels)


def save_m4a(path, samples, rate):
    """One channel as a telephone keeps it: AAC in MP4."""
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("aac", rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(samples[None].astype(np.float32), format="fltp", layout="mono")
        frame.sample_rate = rate
        for packet in [*stream.encode(frame), *stream.encode(None)]:
            container.mux(packet)
    return path


def tiny_prior(folder, width=512):
    """A random prior of a few thousand parameters beside the text encoder: 4 x 4 latents of 32-pixel images."""
    words = save_tokenizer(folder)
    ends = {f"{name}_token_id": words[f"<|{mark}oftext|>"] for name, mark in (("bos", "start"), ("eos", "end"))}
    text = CLIPTextConfig(
        vocab_size=len(words), hidden_size=width, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=LENGTH, pad_token_id=ends["eos_token_id"], **ends,
    )  # fmt: skip
    unet = UNet2DConditionModel(
        sample_size=4, block_out_channels=(8, 8), layers_per_block=1, attention_head_dim=4, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=width,
    )  # fmt: skip
    vae = AutoencoderKL(
        block_out_channels=(4, 4, 4, 4), down_block_types=("DownEncoderBlock2D",) * 4, norm_num_groups=2,
        up_block_types=("UpDecoderBlock2D",) * 4, latent_channels=4, mid_block_add_attention=False,
    )  # fmt: skip
    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    scheduler = DPMSolverMultistepScheduler(steps_offset=1, **betas)
    return Prior(unet, vae, CLIPTextModel(text), CLIPTokenizer.from_pretrained(folder), scheduler).eval()


class Recogniser(nn.Module):
    """A stand-in for f_arc: 48 coarse pixels, turned into 512 numbers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", torch.randn(48, 512, generator=torch.Generator().manual_seed(0)))

    def forward(self, crops):
        return normalise(torch.nn.functional.adaptive_avg_pool2d(crops, 4).flatten(1) @ self.weight)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pixels(output):
    """The faces of a pipeline as arrays."""
    return [np.asarray(image) for image in output.images]


def unit(rows, seed):
    return normalise(torch.randn(rows, 512, generator=seeded(seed)))


def four_faces():
    """Three women and a man, each with landmarks of their own."""
    return FaceBatch(
        latents=torch.randn(4, *SHAPE, generator=seeded(1)),
        landmarks=torch.from_numpy(TEMPLATE * 32 / 112) + torch.arange(4).view(-1, 1, 1),
        z_arc=unit(4, 2),
        women=torch.tensor([True, True, False, True]),
    )


def wake(prior, scale=0.1):
    """Adapters that do something: B is no longer zero."""
    with torch.no_grad():
        for name, parameter in lora_parameters(prior).items():
            if "lora_B" in name:
                parameter.copy_(scale * torch.randn(parameter.shape, generator=seeded(len(name))))


def people(persons, seed):
    g = torch.Generator().manual_seed(seed)
    z_arc = normalise(torch.randn(2 * persons, 512, generator=g))
    latents = torch.randn(2 * persons, 64, generator=g)
    landmarks = torch.from_numpy(TEMPLATE * 32 / 112).flatten().expand(2 * persons, -1)
    wide = Pairs(
        persons=[f"P{i}" for i in range(persons)],
        sexes=["f" if i % 2 else "m" for i in range(persons)],
        voice=torch.randn(3 * persons, 16, generator=g),
        voice_start=torch.arange(0, 3 * persons + 1, 3),
        face=torch.cat([z_arc, latents, landmarks], dim=1),
        face_start=torch.arange(0, 2 * persons + 1, 2),
    )
    return FacePairs(wide, SHAPE)


class Pack:
    """Sees the mean colours of the four quarters; finds no face in a dark picture."""

    def embed(self, images):
        found = np.array([image.mean() > 5 for image in images])
        z = np.zeros((len(images), 512), np.float32)
        for row, image in enumerate(images):
            h, w = image.shape[0] // 2, image.shape[1] // 2
            parts = (image[:h, :w], image[:h, w:], image[h:, :w], image[h:, w:])
            z[row, :12] = np.concatenate([part.mean(axis=(0, 1)) for part in parts]) / 255 - 0.4
        return z / np.linalg.norm(z, axis=1, keepdims=True) * found[:, None], found


def small_judge():
    torch.manual_seed(0)
    size = {"size": 16, "mean": [127.0] * 3, "scale": [64.0] * 3, "channels": "RGB"}
    return Judge({"architecture": "plain", "widths": [4, 8], "n_classes": 6, **size}).eval()
