"""The whole method of Vox2Face on one page: plain PyTorch on stored embeddings and latents.

    python notebooks/whole_method.py      # trains everything and prints its figures; with --steps2 2 it is shorter

v2f_core gives data and weights, nothing of the method. Chapter 13 explains these functions one by one.
Shapes: v (n, speaker), z (n, 512), latents (n, 4, 16, 16), pictures (n, 3, 128, 128) in [-1, 1].
"""

import argparse
import copy
import math
from operator import itemgetter
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, UNet2DConditionModel
from torch import nn
from transformers import CLIPTextModel, CLIPTokenizer

from v2f_core import FacePack, embed_dataset, load_profile, open_dataset, pair_up, read_image
from v2f_core.identity.arcface_torch import differentiable_arcface


# --- data
def seeded(number):
    """A source of random numbers."""
    return torch.Generator().manual_seed(number)


def read_persons(manifest, stored, split, count=None):
    """v and z of a split's persons: all rows, where each person's begin, means, and first photographs."""
    pairs = pair_up(manifest, *stored, split)
    pairs = pairs.only([*range(len(pairs.persons))][:count])
    rows = {"v": pairs.voice, "v_start": pairs.voice_start, "z": pairs.face, "z_start": pairs.face_start}
    one = {"v_mean": pairs.pooled_voices(), "z_first": pairs.gallery(), "centre": pairs.centroids()}
    first = manifest.faces(split).drop_duplicates("person").set_index("person").loc[pairs.persons]
    return SimpleNamespace(**rows, **one, women=pairs.women(), photos=manifest.absolute(first))


def draw(persons, batch, windows, source):
    """Random persons, none twice: the mean of 1 to `windows` windows, a random photograph's row, who it is."""

    def random_rows(start, each):
        count = start.diff()[who][:, None]
        return start[who][:, None] + (torch.rand(len(who), each, generator=source) * count).long()

    who = torch.randperm(len(persons.centre), generator=source)[:batch]
    rows = random_rows(persons.v_start, windows)
    kept = (torch.randint(1, windows + 1, (len(who), 1), generator=source) > torch.arange(windows)).float()
    photo = random_rows(persons.z_start, 1)[:, 0]
    return (persons.v[rows] * (kept / kept.sum(1, keepdim=True))[..., None]).sum(1), photo, who


# --- Stage I: the aligner (Eq. 4, 7 to 10)
def make_aligner(speaker, hidden, dropout, dim=512):
    """g_φ without its last step, which is F.normalize (Eq. 7)."""
    torch.manual_seed(0)
    layers = [nn.Linear(speaker, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Dropout(dropout)]
    layers += [nn.Linear(hidden, hidden), nn.LayerNorm(hidden), nn.SiLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(hidden, dim))


@torch.no_grad()
def guess(g, v):
    """ẑ, the point estimate (Eq. 4)."""
    return F.normalize(g.eval()(v), dim=1)


def l_id(z_hat, z, who, centres, s):
    """L_id (Eq. 10): AM-Softmax with fixed centres (Eq. 8), InfoNCE (Eq. 9), and a cosine term of ours."""
    am = F.cross_entropy(s["scale"] * (z_hat @ centres.T - s["margin"] * F.one_hot(who, len(centres))), who)
    info = F.cross_entropy(z_hat @ z.T / s["temperature"], torch.arange(len(z)))  # nobody is twice in a batch
    return am + info + s["weight_cosine"] * (1 - (z_hat * z).sum(1).mean())


def update(optimiser, weights, loss, longest=math.inf):
    """One step down; the gradient is cut to a length."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(weights, longest)
    optimiser.step()


def train_stage1(training, validation, s):
    """Train g_φ; keep the one with the lowest validation loss."""
    g, source, best = make_aligner(training.v.shape[1], s["hidden_width"], s["dropout"]), seeded(0), (math.inf, None)
    optimiser = torch.optim.AdamW(g.parameters(), s["learning_rate"], weight_decay=s["weight_decay"])
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, s["steps"])
    for step in range(1, s["steps"] + 1):
        v, photo, who = draw(training, s["batch"], s["windows"], source)
        loss = l_id(F.normalize(g.train()(v), dim=1), training.z[photo], who, training.centre, s)
        update(optimiser, g.parameters(), loss)
        schedule.step()
        if step % s["evaluate_every"] == 0 or step == s["steps"]:
            z_hat, everyone = guess(g, validation.v_mean), torch.arange(len(validation.centre))
            value = float(l_id(z_hat, validation.z_first, everyone, validation.centre, s))
            best = min(best, (value, copy.deepcopy(g)), key=itemgetter(0))
    return best[1]


# --- the posterior p(z | v): in each sex a Gaussian, moved by what is heard
def fit_posterior(training, validation, g):
    """Closed forms on training persons; κ, how far a voice is believed, on validation persons."""
    owner = torch.repeat_interleave(torch.arange(len(training.centre)), training.z_start.diff())
    values, axes = torch.linalg.eigh(training.z.double().T @ training.z.double())
    axes = axes[:, values.cumsum(0) > 0.001 * values.sum()]  # they hold 99.9 % of the squared length
    z, heard = F.normalize(training.z.double() @ axes, dim=1), guess(g, training.v_mean).double() @ axes
    sexes = [training.women, ~training.women]
    p = SimpleNamespace(axes=axes, face=torch.stack([z[sex[owner]].mean(0) for sex in sexes]))
    p.heard = torch.stack([heard[sex].mean(0) for sex in sexes])
    spread, floor = sum(torch.cov(z[sex[owner]].T) for sex in sexes) / 2, torch.eye(axes.shape[1])  # one for both
    p.sigma = spread + 1e-3 * spread.diagonal().mean() * floor
    p.root = torch.linalg.cholesky(p.sigma)
    p.gate = torch.linalg.solve(sum(torch.cov(heard[s].T) for s in sexes) / 2 + 1e-4 * floor, p.heard[1] - p.heard[0])
    p.kappa = max(np.linspace(0, 12, 13), key=lambda kappa: own_ratio(p, kappa, validation, g))
    return p


def own_ratio(p, kappa, persons, g):
    """The nats that a voice tells of its own face, on average over persons."""
    p.kappa = kappa
    return float(log_ratio(p, guess(g, persons.v_mean), persons.z_first).diagonal().mean())


def hear(p, z_hat):
    """Means of the two Gaussians, and log p(sex | v), of each voice."""
    heard = z_hat.double() @ p.axes
    means = p.face + p.kappa * (heard[:, None] - p.heard) @ p.sigma  # times exp(κ·ẑᵀz): moved by κ·Σ·ẑ
    odds = (heard - p.heard.mean(0)) @ p.gate  # of a man, by a linear discriminant
    return means, torch.stack([F.logsigmoid(-odds), F.logsigmoid(odds)], dim=1)


def sample(p, z_hat, n, source, truncation=1.0):
    """n identities of each voice, (voices, n, 512). Truncation 0 is ẑ, 1 an honest draw."""
    means, log_sex = hear(p, z_hat)
    noise = torch.randn(len(z_hat), n, len(p.sigma) + 1, generator=source).double()
    man = (torch.special.ndtr(noise[..., -1]) > log_sex[:, :1].exp()).long()
    x = torch.take_along_dim(means, man[..., None], dim=1) + noise[..., :-1] @ p.root.T
    z, z_hat = F.normalize((x @ p.axes.T).float(), dim=2), z_hat[:, None]
    angle = torch.acos((z * z_hat).sum(2, keepdim=True))  # along the great circle from ẑ to z
    return (torch.sin((1 - truncation) * angle) * z_hat + torch.sin(truncation * angle) * z) / torch.sin(angle)


def log_ratio(p, z_hat, z):
    """log p(z | v) − log p(z), (voices, faces): how much likelier a voice makes a face."""
    u, (means, log_sex) = F.normalize(z.double() @ p.axes, dim=1), hear(p, z_hat)
    heard = [log_density(p, u, means[:, sex]) + log_sex[:, sex, None] for sex in (0, 1)]
    before = [log_density(p, u, p.face[sex, None]) - math.log(2) for sex in (0, 1)]
    return torch.stack(heard).logsumexp(0) - torch.stack(before).logsumexp(0)


def log_density(p, u, mean):
    """Log density of the directions u of Gaussian vectors, up to a constant: an integral over their length r."""
    white, at = (torch.linalg.solve_triangular(p.root, x.T, upper=False).T for x in (u, mean))
    a, b, d = white.square().sum(1), at @ white.T, len(p.root)
    mode = (b + (b**2 + 4 * a * (d - 1)).sqrt()) / (2 * a)
    width = (a + (d - 1) / mode**2).rsqrt()
    nodes, weights = (torch.from_numpy(x) for x in np.polynomial.legendre.leggauss(48))
    low, high = (mode - 10 * width).clamp(min=0), mode + 16 * width
    r = (low + high)[..., None] / 2 + (high - low)[..., None] / 2 * nodes
    inside = ((d - 1) * r.log() - a[:, None] * r**2 / 2 + b[..., None] * r + weights.log()).logsumexp(-1)
    return inside + ((high - low) / 2).log() - at.square().sum(1, keepdim=True) / 2


# --- the image model: condition, noise, sampling (Eq. 3, 5, 11, 12)
def load_image_model(folder):
    """UNet, VAE and text encoder of a Stable Diffusion folder, frozen; and the tokens of the prompt."""
    parts = {"unet": UNet2DConditionModel, "vae": AutoencoderKL, "text_encoder": CLIPTextModel}
    m = nn.ModuleDict({name: kind.from_pretrained(folder / name) for name, kind in parts.items()})
    m.solver = DPMSolverMultistepScheduler.from_pretrained(folder / "scheduler")
    words = CLIPTokenizer.from_pretrained(folder / "tokenizer")
    texts = words(["photo of a id person", ""], padding="max_length", return_tensors="pt").input_ids
    m.prompt, m.empty = texts[:1], texts[1:]
    m.slot = (m.prompt[0] == words.encode("id", add_special_tokens=False)[0])[:, None]
    return m.eval().requires_grad_(False)


def condition(m, z):
    """P(z): the identity, padded with zeros, stands in place of the word "id" (Eq. 3)."""
    table = m["text_encoder"].get_input_embeddings()
    padded = F.pad(z, (0, table.embedding_dim - z.shape[1]))[:, None]
    hook = table.register_forward_hook(lambda layer, tokens, words: torch.where(m.slot, padded, words))
    try:
        return m["text_encoder"](m.prompt.expand(len(z), -1)).last_hidden_state
    finally:
        hook.remove()


def signal(m, t):
    """√ᾱ_t and √(1 − ᾱ_t)."""
    share = m.solver.alphas_cumprod[t].view(-1, 1, 1, 1)
    return share.sqrt(), (1 - share).sqrt()


def decode(m, latents):
    """Latents to pictures."""
    return m["vae"].decode(latents / m["vae"].config.scaling_factor).sample.clamp(-1, 1)


@torch.no_grad()
def draw_faces(m, z, noise, guidance, steps):
    """A face of each identity by DPM-Solver++, with guidance (Eq. 5)."""
    solver, latents = DPMSolverMultistepScheduler.from_config(m.solver.config), noise
    solver.set_timesteps(steps)
    c = torch.cat([m["text_encoder"](m.empty).last_hidden_state.expand(len(z), -1, -1), condition(m, z)])
    for t in solver.timesteps:
        empty, told = m["unet"](torch.cat([latents, latents]), t, c).sample.chunk(2)
        latents = solver.step(empty + guidance * (told - empty), t, latents).prev_sample
    return decode(m, latents)


# --- Stage II: LoRA and L_self (Eq. 11 to 15)
class Lora(nn.Module):
    """A frozen layer and its small correction: W + BA (α = r)."""

    def __init__(self, layer, rank):
        super().__init__()
        self.layer, self.on = layer, True
        self.a, self.b = (nn.Parameter(torch.zeros(s)) for s in ((rank, layer.in_features), (layer.out_features, rank)))

    def forward(self, x):
        return self.layer(x) + F.linear(F.linear(x, self.a), self.b) if self.on else self.layer(x)


def add_lora(m, rank, source):
    """Adapt Q, K, V and out of every attention, in the UNet and the text encoder."""
    names = ("to_q", "to_k", "to_v", "to_out.0", "q_proj", "k_proj", "v_proj", "out_proj")
    for net in (m["unet"], m["text_encoder"]):
        for path, layer in [(path, layer) for path, layer in net.named_modules() if path.endswith(names)]:
            net.set_submodule(path, Lora(layer, rank))
    for lora in adapters(m):
        bound = lora.a.shape[1] ** -0.5
        lora.a.data.uniform_(-bound, bound, generator=source)


def adapters(m):
    """All LoRA layers, the UNet's first."""
    return [layer for net in (m["unet"], m["text_encoder"]) for layer in net.modules() if isinstance(layer, Lora)]


TEMPLATE = [38.2946 + 51.6963j, 73.5318 + 51.5014j, 56.0252 + 71.7366j, 41.5493 + 92.3655j, 70.7299 + 92.2041j]


def crop(pictures, landmarks):
    """ArcFace's crop: five landmarks onto a template. A complex factor turns and scales."""
    here, q = torch.view_as_complex(landmarks.double()), torch.tensor(TEMPLATE, dtype=torch.complex128)
    p = here - here.mean(1, keepdim=True)
    factor = p.abs().square().sum(1) / (p.conj() * (q - q.mean())).sum(1)  # from crop to picture
    y, x = torch.meshgrid(torch.arange(112.0), torch.arange(112.0), indexing="ij")
    place = factor[:, None, None] * (torch.complex(x, y) - q.mean()) + here.mean(1)[:, None, None]
    grid = 2 * torch.view_as_real(place).float() / (pictures.shape[-1] - 1) - 1
    return F.grid_sample(pictures + 1, grid, align_corners=True) - 1


@torch.no_grad()
def add_latents(m, pack, persons):
    """Latents and landmarks of the first photographs, and these photographs only."""
    images = [read_image(path) for path in persons.photos]
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2) / 127.5 - 1
    latents = torch.cat([m["vae"].encode(part).latent_dist.mode() for part in pixels.split(16)])
    landmarks = torch.from_numpy(np.stack([pack.detect(image)[0].landmarks for image in images]))
    made = {"latents": latents * m["vae"].config.scaling_factor, "landmarks": landmarks}
    return SimpleNamespace(**{**vars(persons), "z": persons.z_first, "z_start": torch.arange(len(images) + 1), **made})


def look(m, latents, source, first=20, last=979):
    """Noisy latents, their steps, and the noise."""
    t = torch.randint(first, last + 1, (len(latents),), generator=source)
    noise, (keep, add) = torch.randn(latents.shape, generator=source), signal(m, t)
    return keep * latents + add * noise, t, noise


def l_self(m, f_arc, z_hat, noisy, t, landmarks):
    """Eq. 11 to 14, with w(t) = 1 and the second prediction fixed."""
    first, (keep, add) = m["unet"](noisy, t, condition(m, z_hat)).sample, signal(m, t)  # Eq. 11
    with torch.no_grad():
        z_self = f_arc(crop(decode(m, (noisy - add * first) / keep), landmarks))  # Eq. 12 and 13
        second = m["unet"](noisy, t, condition(m, z_self)).sample
    return (first - second).square().mean()  # Eq. 14


@torch.no_grad()
def monitors(m, g, persons, source):
    """S_net: does the network still listen? S_id: do the ẑ still differ? And the error of the noise under ẑ."""
    (noisy, t, noise), answers = look(m, persons.latents, source), {}
    for on, name in ((False, "frozen"), (True, "adapted")):
        for lora in adapters(m):
            lora.on = on
        for what, z in (("z", persons.z_first), ("guess", guess(g, persons.v_mean))):
            own, other = (m["unet"](noisy, t, condition(m, who)).sample for who in (z, z.roll(1, 0)))
            answers[name, what] = float((own - other).norm()), float((noise - own).square().mean())
    s_net, s_id = (answers[key][0] / answers["frozen", "z"][0] for key in (("adapted", "z"), ("frozen", "guess")))
    return {"S_net": s_net, "S_id": s_id, "residual": answers["adapted", "guess"][1]}


def train_stage2(m, g, f_arc, training, s, s2):
    """Eq. 15: moves g_φ and the adapters."""
    source, losses = seeded(0), []
    add_lora(m, s2["rank"], source)
    own, lora = list(g.parameters()), [weight for layer in adapters(m) for weight in (layer.a, layer.b)]
    groups = [{"params": own, "lr": s2["rate"]}, {"params": lora, "lr": s2["rate_lora"]}]
    optimiser = torch.optim.AdamW(groups, weight_decay=0.01)
    for _ in range(s2["steps"]):
        v, photo, who = draw(training, s2["batch"], s["windows"], source)
        noisy, t, _ = look(m, training.latents[photo], source)
        z_hat = F.normalize(g.train()(v), dim=1)
        losses.append(l_self(m, f_arc, z_hat, noisy, t, training.landmarks[photo]))
        loss = l_id(z_hat, training.z[photo], who, training.centre, s) + s2["weight_self"] * losses[-1]
        update(optimiser, [*own, *lora], loss, longest=1.0)
    return [loss.item() for loss in losses]


# --- how good
def score(scores, women):
    """1:2 matching within sex: how often the own face beats another's. Chance is 0.5."""
    rival = (women[:, None] == women) & ~torch.eye(len(women), dtype=torch.bool)
    return float((scores.diagonal()[:, None] > scores)[rival].float().mean())


def main():
    """Train everything and print its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in {"persons": 800, "steps": 600, "steps2": 20, "faces": 4}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    a, profile = parser.parse_args(), load_profile("mini")
    s = {"batch": 128, "windows": 1, **profile.stage1, "steps": a.steps}
    data = (manifest := open_dataset(profile)), embed_dataset(profile, manifest)
    training, validation = read_persons(*data, "train", a.persons), read_persons(*data, "val")
    g = train_stage1(training, validation, s)
    z_hat, z = guess(g, validation.v_mean), validation.z_first
    print(f"Stage I: cosine {(z_hat * z).sum(1).mean():.3f}, matching {score(z_hat @ z.T, validation.women):.3f}")
    p = fit_posterior(training, validation, g)
    drawn, told = sample(p, z_hat, 8, seeded(1)), score(log_ratio(p, z_hat, z), validation.women)
    print(f"posterior: κ {p.kappa:g}, matching {told:.3f}, cosine of a draw {(drawn * z[:, None]).sum(2).mean():.3f}")
    m, pack = load_image_model(profile.part("prior")), FacePack.from_folder(profile.part("faces"))
    f_arc = differentiable_arcface(pack.arcface_path).requires_grad_(False)
    few, shown = (add_latents(m, pack, read_persons(*data, *which)) for which in (("train", 48), ("val", 12)))
    faces = draw_faces(m, drawn[: a.faces, 0], torch.randn(a.faces, 4, 16, 16), profile.guidance, 8)
    print("faces:", tuple(faces.shape))
    s2 = {"steps": a.steps2, "batch": 6, "rank": 16, "weight_self": 1e3, "rate": 1e-4, "rate_lora": 3e-3}
    losses = train_stage2(m, g, f_arc, few, s, s2)
    after = {name: round(value, 2) for name, value in monitors(m, g, shown, seeded(7)).items()}
    print(f"Stage II: L_self {losses[0]:.4f} to {losses[-1]:.4f};", after)


if __name__ == "__main__":
    main()
