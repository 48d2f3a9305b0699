"""The ablation "w/o ArcFace" (Table 4): speech is mapped to the condition without an identity.

The paper: a "speech MLP straight into the condition", trained with "ℓ2 + reconstruction". We read this as an MLP of
g_φ's form that outputs the cross-attention tokens, c = c_null + MLP(v_spk). It minimises the error of the frozen
prior's noise prediction on the speaker's face: the ℓ2 of the reconstructed latents, with other weights over t.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from tqdm import trange

from v2f_core.artefacts.checkpoints import resume_training, save_training
from v2f_core.diffusion.prior import Prior
from v2f_core.identity.aligner import Aligner
from v2f_core.training.guards import descend, seeded
from v2f_core.training.latents import FacePairs

RATE, DECAY, HIDDEN, WINDOWS = 1e-3, 0.01, 384, 3  # none is given in the paper; up to 3 windows make an example


class SpeechCondition(nn.Module):
    """v_spk → cross-attention tokens; before training all are ``null``, the frozen tokens of the empty prompt."""

    def __init__(self, speaker_width: int, null: Float[Tensor, "1 tokens width"], hidden_width: int = HIDDEN) -> None:
        super().__init__()
        self.net = Aligner(speaker_width, hidden_width, null.numel()).net
        for parameter in self.net[-1].parameters():
            nn.init.zeros_(parameter)
        self.register_buffer("null", null.detach().clone())

    def forward(self, speaker_embedding: Float[Tensor, "batch speaker"]) -> Float[Tensor, "batch tokens width"]:
        """The tokens of each speaker embedding."""
        null = self.get_buffer("null")
        return null + self.net(speaker_embedding).view(-1, *null.shape[1:])


def train_speech_condition(
    prior: Prior, training: FacePairs, path: str | Path, steps: int = 150, batch: int = 16, seed: int = 0
) -> SpeechCondition:
    """Train on the training persons' faces, or read what an earlier call wrote to ``path``; on the CPU afterwards."""
    training, inputs = training.to(prior.device), {"steps": steps, "batch": batch, "seed": seed}
    generator = torch.Generator().manual_seed(seed)
    prior.requires_grad_(False)
    with seeded(seed, prior.device):
        net = SpeechCondition(training.wide.voice.shape[1], prior.null(1)).to(prior.device)
        if resume_training(path, {"net": net}, generator, inputs):
            return net.eval().cpu()
        optimiser = torch.optim.AdamW(net.parameters(), lr=RATE, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
        bar = trange(steps, desc="w/o ArcFace", unit="step", mininterval=1.0)
        for _ in bar:
            voice, _, faces = training.draw(batch, WINDOWS, generator)
            z_0 = faces.latents
            noise = torch.randn(z_0.shape, generator=generator).to(z_0)
            t = torch.randint(len(prior.alphas_cumprod), (len(z_0),), generator=generator).to(z_0.device)
            residual = F.mse_loss(prior.predict(prior.add_noise(z_0, noise, t), t, net(voice)), noise)
            descend(optimiser, residual, {"residual": residual})
            schedule.step()
            bar.set_postfix(residual=float(residual.detach()))
    save_training(path, steps, {"net": net}, generator, inputs)
    return net.eval().cpu()
