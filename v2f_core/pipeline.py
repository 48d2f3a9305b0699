"""The whole way as one diffusers pipeline: a recording in, faces out (Eq. 5)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, SchedulerMixin, UNet2DConditionModel
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from jaxtyping import Float32
from PIL.Image import Image
from torch import Tensor
from transformers import CLIPTextModel, CLIPTokenizer

from v2f_core.artefacts.profiles import Profile, load_profile
from v2f_core.diffusion.lora_files import fuse_lora
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner
from v2f_core.saving import SavedPipeline
from v2f_core.speech.activity import read_speech, speech_clips
from v2f_core.speech.audio import CLIP_SECONDS
from v2f_core.speech.encoders import ASTEncoder, ECAPAEncoder, load_encoder

AT_ONCE = 8  # images denoised together: bounds the memory of a request for many


@dataclass
class Vox2FaceOutput(BaseOutput):
    """What a voice gave.

    Attributes:
        images: PIL images, RGB.
        identity: ẑ, the predicted point on the sphere of faces, float32 of norm 1.
        windows: how many 1.25 s windows of the recording were heard.
    """

    images: list[Image]
    identity: Float32[Tensor, 512]
    windows: int


class Vox2FacePipeline(SavedPipeline):
    """a → v_spk → ẑ → P(ẑ) → DPM-Solver++ → VAE decode (Eq. 5).

    The diffusers and transformers parts are registered as usual, so that ``pipe.unet``, ``pipe.to``, another
    ``pipe.scheduler``, adapters, offloading, attention slicing and ``save_pretrained`` work; beside them stand the
    speech encoder and the aligner, in folders of their own.

    Args:
        vae, text_encoder, tokenizer, unet, scheduler: of a :class:`~v2f_core.diffusion.prior.Prior`.
        speech_encoder: hears a window, gives v_spk.
        aligner: g_φ.
        encoder: the speech encoder's kind, "ast" or "ecapa".
        guidance: classifier-free guidance scale, 3.0 in Arc2Face's sampler; the paper gives none.
        num_steps: of DPM-Solver++, 25 in the paper.
        clip_seconds: length of a window.
        speech_folder: where the speech encoder was loaded from; ``save_pretrained`` copies it.
        ast_frames, ast_positions: how the speech encoder was loaded, see ``load_encoder``.
        profile: name of the profile that the parts are of; the model card states their terms by it.

    Example:
        >>> pipe = Vox2FacePipeline.from_profile("mini")  # doctest: +SKIP
        >>> out = pipe("voice.wav", num_images=4, generator=torch.Generator().manual_seed(0))  # doctest: +SKIP
        >>> out.images[0].size, out.identity.shape  # doctest: +SKIP
        ((128, 128), torch.Size([512]))
    """

    model_cpu_offload_seq = "speech_encoder->aligner->text_encoder->unet->vae"

    def __init__(
        self,
        vae: AutoencoderKL,
        text_encoder: CLIPTextModel,
        tokenizer: CLIPTokenizer,
        unet: UNet2DConditionModel,
        scheduler: SchedulerMixin,
        # both are needed; but what has no default diffusers takes for a part that it loads and saves itself
        speech_encoder: ASTEncoder | ECAPAEncoder | None = None,
        aligner: Aligner | None = None,
        encoder: str = "ast",
        guidance: float = 3.0,
        num_steps: int = 25,
        clip_seconds: float = CLIP_SECONDS,
        speech_folder: str | Path | None = None,
        ast_frames: int | None = None,
        ast_positions: str = "cut",
        profile: str | None = None,
    ) -> None:
        super().__init__()
        if speech_encoder is None or aligner is None:
            raise InputError(
                "speech_encoder and aligner: expected both; Vox2FacePipeline.from_profile gives a whole one"
            )
        if speech_encoder.dim != aligner.speaker_width:
            raise InputError(
                f"speech encoder of width {speech_encoder.dim}, aligner for {aligner.speaker_width}: "
                "expected an aligner that was trained on this encoder"
            )
        self.register_modules(vae=vae, text_encoder=text_encoder, tokenizer=tokenizer, unet=unet, scheduler=scheduler)
        self.register_to_config(
            encoder=encoder,
            guidance=guidance,
            num_steps=num_steps,
            clip_seconds=clip_seconds,
            ast_frames=ast_frames,
            ast_positions=ast_positions,
            profile=profile,
        )
        self.speech_encoder, self.aligner = speech_encoder, aligner
        self.speech_folder = None if speech_folder is None else Path(speech_folder)

    @classmethod
    def from_profile(
        cls, profile: str | Profile | None = None, device: str = "cpu", stage: int | None = None
    ) -> Vox2FacePipeline:
        """The pipeline of a profile's parts.

        Args:
            profile: name of a profile, or a profile.
            device: where to put it.
            stage: 1 for Stage I's aligner and the prior as it is, 2 for what Stage II made of both; without one the
                last that is there.
        Raises:
            InputError: no such profile, or a part of it is missing or damaged.
        """
        chosen = profile if isinstance(profile, Profile) else load_profile(profile)
        prior = Prior.from_folder(chosen.part("prior"))
        aligner = chosen.part({None: chosen.last_stage, 1: "aligner", 2: "adapted"}[stage])
        if aligner == chosen.adapted:
            if (aligner / "lora").is_dir():
                fuse_lora(prior, aligner / "lora")
            aligner = aligner / "aligner"
        speech_folder = chosen.part(chosen.encoder)
        pipe = cls(
            prior.vae,
            prior.text_encoder,
            prior.tokenizer,
            prior.unet,
            prior.scheduler,
            load_encoder(chosen.encoder, speech_folder, chosen.ast_frames, chosen.ast_positions),
            Aligner.from_pretrained(aligner),
            chosen.encoder,
            chosen.guidance,
            chosen.steps,
            chosen.clip_seconds,
            speech_folder,
            chosen.ast_frames,
            chosen.ast_positions,
            chosen.name,
        )
        return pipe.to(device)

    def to(self, *args: Any, **kwargs: Any) -> Vox2FacePipeline:
        """Move every part to a device; a dtype holds for the diffusion parts, sound and identity stay float32."""
        super().to(*args, **kwargs)
        self.speech_encoder.to(self.unet.device)
        self.aligner.to(self.unet.device)
        return self

    @property
    def components(self) -> dict[str, Any]:
        """All parts by name, for building another pipeline from them."""
        names = ("vae", "text_encoder", "tokenizer", "unet", "scheduler", "speech_encoder", "aligner")
        return {name: getattr(self, name) for name in names}

    @property
    def prior(self) -> Prior:
        """The registered diffusion parts as a prior that computes where the pipeline does."""
        prior = Prior(self.unet, self.vae, self.text_encoder, self.tokenizer, self.scheduler)
        return prior.compute_on(self._execution_device)

    @torch.no_grad()
    def identify(
        self, voice: str | Path | Float32[Tensor, " samples"] | Float32[Tensor, "windows samples"]
    ) -> tuple[Float32[Tensor, 512], int]:
        """ẑ of a voice, and how many windows were heard. The windows' speaker embeddings are averaged before g_φ.

        Args:
            voice: a recording's path or its samples (mono, 16 kHz), of which what lies before and after the speech is
                left out, with an ``AudioWarning`` if they tell little of a voice; or windows already cut.
        Raises:
            InputError: the recording cannot be used.
        """
        if not isinstance(voice, Tensor):
            windows, _ = read_speech(voice, self.config["clip_seconds"])
        else:
            windows = speech_clips(voice, self.config["clip_seconds"])[0] if voice.ndim == 1 else voice
        parts = [self.speech_encoder.embed(part.to(self._execution_device)) for part in windows.split(64)]
        return self.aligner(torch.cat(parts).float().mean(dim=0)).cpu(), len(windows)

    @torch.no_grad()
    def __call__(
        self,
        voice: str | Path | Float32[Tensor, " samples"] | Float32[Tensor, "windows samples"],
        num_images: int = 4,
        guidance: float | None = None,
        num_steps: int | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
    ) -> Vox2FaceOutput:
        """Draw faces for a voice.

        Args:
            voice: a recording's path, its samples (mono, 16 kHz), or windows already cut.
            num_images: how many faces of the one predicted identity.
            guidance, num_steps: in place of the pipeline's own.
            generator: source of all noise; a list gives each image its own, so that one can be drawn again alone.
        Raises:
            InputError: the recording cannot be used, or a number makes no sense.
        """
        from diffusers.image_processor import VaeImageProcessor

        if num_images < 1:
            raise InputError(f"num_images={num_images}: expected at least 1")
        if isinstance(generator, list) and len(generator) != num_images:
            raise InputError(f"{len(generator)} generators for {num_images} images: expected one an image")
        identity, windows = self.identify(voice)
        prior = self.prior
        noise = randn_tensor((num_images, *prior.latent_shape), generator=generator, device=prior.device)
        faces = [
            prior.sample(
                identity.expand(len(part), -1),
                num_steps=self.config["num_steps"] if num_steps is None else num_steps,
                guidance=self.config["guidance"] if guidance is None else guidance,
                generator=generator[start : start + AT_ONCE] if isinstance(generator, list) else generator,
                noise=part,
            )
            for start, part in zip(range(0, num_images, AT_ONCE), noise.split(AT_ONCE), strict=True)
        ]
        self.maybe_free_model_hooks()
        images = VaeImageProcessor.numpy_to_pil(VaeImageProcessor.pt_to_numpy(torch.cat(faces).float() / 2 + 0.5))
        return Vox2FaceOutput(images=images, identity=identity, windows=windows)
