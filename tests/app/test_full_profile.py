"""The full profile's own loading code, on random weights in the files, names and formats that are published.

Nothing here is a real weight: the tensors are tiny and mean nothing, their names and the files' layout are the real
ones. That the real ones have the sizes these classes have at full size is counted on the meta device, without memory.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
import torch.nn.functional as F
from fakes import save_m4a, spoken
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    CLIPTextConfig,
    CLIPTextModel,
)

from minivox.dataset import unpack
from v2f_core.artefacts.files import folder_hash
from v2f_core.artefacts.profiles import MINI_ASSETS, load_profile
from v2f_core.artefacts.weights import ORIGINS
from v2f_core.cli import main
from v2f_core.data.voxceleb import read_layout
from v2f_core.diffusion.prior import Prior
from v2f_core.errors import InputError
from v2f_core.evaluation.judge import Judge
from v2f_core.identity.aligner import Aligner
from v2f_core.identity.sphere import normalise
from v2f_core.pipeline import Vox2FacePipeline
from v2f_core.speech.audio import read_audio

AST = "MIT/ast-finetuned-audioset-10-10-0.4593"
JUDGE_CONFIG = ORIGINS["judge"][0].config
TEXT = "text_model."  # what old versions of transformers put before every name


@pytest.fixture(scope="module")
def published(tmp_path_factory, tiny_profile):
    """What the publishers give out, as they lay it out, with tiny random tensors in it."""
    root = tmp_path_factory.mktemp("published")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        ASTForAudioClassification(ASTConfig(**small)).save_pretrained(root / AST)  # with the published grid of patches
        ASTFeatureExtractor().save_pretrained(root / AST)
    shutil.copytree(MINI_ASSETS / "ecapa", root / "speechbrain" / "spkrec-ecapa-voxceleb")

    arc2face, diffusion = root / "FoivosPar/Arc2Face", root / "stable-diffusion-v1-5/stable-diffusion-v1-5"
    shutil.copytree(tiny_profile.prior / "unet", arc2face / "arc2face")
    encoder = tiny_profile.prior / "text_encoder"
    config = json.loads((encoder / "config.json").read_text())
    (arc2face / "encoder").mkdir()
    (arc2face / "encoder" / "config.json").write_text(json.dumps({**config, "architectures": ["CLIPTextModelWrapper"]}))
    weights = {TEXT + name.removeprefix(TEXT): w for name, w in load_file(encoder / "model.safetensors").items()}
    weights[f"{TEXT}embeddings.position_ids"] = torch.arange(8)[None]  # a buffer that old versions saved
    torch.save(weights, arc2face / "encoder" / "pytorch_model.bin")
    shutil.copy(MINI_ASSETS / "faces" / "arcface_mini.onnx", arc2face / "arcface.onnx")

    for part in ("vae", "tokenizer", "scheduler"):
        shutil.copytree(tiny_profile.prior / part, diffusion / part)
    shutil.copy(tiny_profile.prior / "model_index.json", diffusion)
    as_published(diffusion / "tokenizer")

    nets = {"antelopev2": ("scrfd_10g_bnkps.onnx", "glintr100.onnx"), "buffalo_l": ("det_10g.onnx", "w600k_r50.onnx")}
    for pack, (detector, arcface) in nets.items():
        (root / pack).mkdir()
        shutil.copy(MINI_ASSETS / "faces" / "det_mini.onnx", root / pack / detector)
        shutil.copy(MINI_ASSETS / "faces" / "arcface_mini.onnx", root / pack / arcface)
    return root


def as_published(tokenizer):
    """The same tokenizer in the four files that Stable Diffusion 1.5 has, in place of today's one."""
    bpe = json.loads((tokenizer / "tokenizer.json").read_text())["model"]
    marks = {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"}
    config = {"model_max_length": 8, "pad_token": "<|endoftext|>", "tokenizer_class": "CLIPTokenizer", **marks}
    (tokenizer / "vocab.json").write_text(json.dumps(bpe["vocab"]))
    (tokenizer / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{a} {b}\n" for a, b in bpe["merges"]))
    (tokenizer / "special_tokens_map.json").write_text(json.dumps({**marks, "pad_token": "<|endoftext|>"}))
    (tokenizer / "tokenizer_config.json").write_text(json.dumps(config))
    (tokenizer / "tokenizer.json").unlink()


@pytest.fixture(scope="module")
def full(tmp_path_factory, published, tiny_profile):
    """The full profile, fetched from that, with an aligner as Stage I leaves it."""
    root = tmp_path_factory.mktemp("full")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("V2F_FULL", str(root))
        patch.setenv("HF_HUB_OFFLINE", "1")
        with pytest.raises(SystemExit) as done:
            main(["fetch", "ast", "ecapa", "faces", "prior", "scorer", "--local", str(published)])
        assert done.value.code == 0
        shutil.copytree(tiny_profile.aligner, root / "aligner")
        yield load_profile("full")


def test_the_whole_way_runs_on_published_files(full, tmp_path):
    soundfile.write(tmp_path / "voice.wav", spoken(3), 16_000)
    pipe = Vox2FacePipeline.from_profile(full)
    assert pipe.speech_encoder.frames == 128
    once, again = (
        pipe(str(tmp_path / "voice.wav"), num_images=1, num_steps=2, generator=torch.Generator().manual_seed(0))
        for _ in range(2)
    )
    assert torch.equal(once.identity, again.identity)
    assert once.images[0].size == (32, 32)
    pipe.save_pretrained(tmp_path / "saved")
    loaded = Vox2FacePipeline.from_pretrained(tmp_path / "saved")
    assert loaded.speech_encoder.frames == 128  # else another identity would be heard
    assert torch.equal(loaded(str(tmp_path / "voice.wav"), num_images=1, num_steps=1).identity, once.identity)


def test_the_prior_is_arc2face_s_unet_and_encoder_on_stable_diffusion(full, tiny_profile):
    ours, theirs = Prior.from_folder(full.part("prior")), Prior.from_folder(tiny_profile.prior)
    z = normalise(torch.randn(2, 512, generator=torch.Generator().manual_seed(0)))
    # the text encoder went through an old pickle with old names
    assert torch.equal(ours.condition(z), theirs.condition(z))
    for mine, its in zip(ours.unet.parameters(), theirs.unet.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_nothing_stands_in_for_a_published_file_that_is_missing(full, tmp_path):
    """antelopev2 has an ArcFace of its own, of the same shape: with it faces would be other points of the sphere."""
    folder = shutil.copytree(full.faces, tmp_path / "faces")
    (folder / "arcface.onnx").rename(folder / "glintr100.onnx")
    with pytest.raises(InputError, match=r"faces: lacks arcface\.onnx of what is published for it; .*fetch faces"):
        replace(full, faces=folder).part("faces")


# --- data


@pytest.fixture
def small_voxceleb(tmp_path):
    """Eighty persons of MiniVox as HQ-VoxCeleb and VoxCeleb lie on disk: folders, tables, JPEG, WAV, m4a."""
    source = read_layout(unpack())
    root, names = tmp_path / "dataset", source.persons("train").index
    # women and men take turns; every second ten backwards, so that both are among every ten's last two
    persons = [name for ten in range(8) for name in names[10 * ten : 10 * ten + 10][:: -1 if ten % 2 else 1]]
    tables = {"vox1": "VoxCeleb1 ID\tVGGFace1 ID\tGender\tNationality\tSet\n"}
    tables["vox2"] = "Class_ID,Name,Sample_Num,Flag,Gender_x,VoxCeleb2ID,VGGFace2ID,Gender_y,Set\n"
    for i, person in enumerate(persons):
        files = source.table[source.table.person == person]
        sex, part = files.sex.iloc[0], "vox1" if i < 40 else "vox2"
        identifier = f"id{10001 + i}" if part == "vox1" else f"id{i:05d}"
        row = {"vox1": f"{identifier}\t{person}\t{sex}\tIreland\tdev\n"}
        row["vox2"] = f"n{i:06d},{person},99,1,{sex},{identifier},n{i:06d},{sex},dev\n"
        tables[part] += row[part]
        (root / part / "masked_faces" / person).mkdir(parents=True)
        for n, path in enumerate(source.absolute(files[files.kind == "face"])[:2]):
            Image.open(path).convert("RGB").save(root / part / "masked_faces" / person / f"{n}.jpg", quality=95)
        wave = read_audio(source.absolute(files[files.kind == "voice"])[0])[:40_000].numpy()
        video = root / part / {"vox1": "wav", "vox2": "dev/aac"}[part] / identifier / "21Uxsk56VDQ"
        video.mkdir(parents=True)
        if part == "vox1":
            soundfile.write(video / "00001.wav", wave, 16_000)
        else:
            save_m4a(video / "00001.m4a", wave, 16_000)
    (root / "vox1_meta.csv").write_text(tables["vox1"])
    (root / "full_vox2_meta.csv").write_text(tables["vox2"])
    return root


@pytest.mark.slow
def test_a_small_voxceleb_goes_from_its_folders_to_a_report(full, small_voxceleb, tmp_path, monkeypatch, capsys):
    """The commands of docs/full_profile.md, each reading what the one before wrote where it wrote it."""
    root = tmp_path / "full"
    root.mkdir()
    for part in full.prior.parent.iterdir():
        if part.name != "aligner":
            (root / part.name).symlink_to(part)
    (root / "dataset").symlink_to(small_voxceleb)
    monkeypatch.delenv("V2F_PROFILE", raising=False)  # a notebook's test may have set it
    monkeypatch.setenv("V2F_FULL", str(root))
    monkeypatch.setenv("V2F_CACHE", str(tmp_path / "cache"))

    def run(*arguments):
        with pytest.raises(SystemExit) as done:
            main(list(arguments))
        said = capsys.readouterr()
        assert done.value.code == 0, said.err
        return said.out

    assert "train: 64 persons" in run("scan")
    said = run("extract", "--profile", "full")
    assert "0 files skipped" in said.splitlines()[0]  # every WAV and m4a was heard
    run("stage1", "--profile", "full", "--steps", "2", "--out", str(root / "aligner"))
    assert Aligner.from_pretrained(root / "aligner").provenance["persons"] == 64
    parts = ("--gradient-checkpointing",)
    run("stage2", "--profile", "full", "--steps", "1", *parts, "--out", str(root / "adapted"))
    made = json.loads((root / "adapted" / "provenance.json").read_text())
    assert made["settings"]["mixed_precision"] == "bf16"
    assert made["settings"]["gradient_checkpointing"]
    assert made["aligner_sha256"] == folder_hash(root / "aligner")
    assert pd.read_csv(root / "adapted" / "history.csv").step.tolist() == [0, 1]
    how = ("--steps", "1", "--out", str(tmp_path / "report"))
    run("evaluate", "--profile", "full", "--stage2", str(root / "adapted"), *how)
    told = json.loads((tmp_path / "report" / "about.json").read_text())
    assert told["profile"] == "full"
    assert told["weights_sha256"]["aligner"] == folder_hash(root / "aligner")
    assert (tmp_path / "report" / "report.html").stat().st_size > 10_000
    # faces are drawn with what Stage II left
    voice = next((root / "dataset").rglob("*.m4a"))
    run("generate", str(voice), "--profile", "full", "-n", "1", "--out", str(tmp_path / "faces"))
    assert len(list((tmp_path / "faces").glob("*.png"))) == 2  # a face and the sheet


# --- full size, counted without memory


def megabytes(net):
    return sum(tensor.numel() * 4 for tensor in net.state_dict().values()) / 1e6


def test_the_classes_at_full_size_weigh_what_the_published_files_weigh():
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from torchvision.models import resnet50

    text = CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12)
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device("meta"):
        nets = {
            346: ASTForAudioClassification(ASTConfig(num_labels=527)),
            3440: UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8),
            492: CLIPTextModel(text),
            335: AutoencoderKL(**blocks, block_out_channels=(128, 256, 512, 512), layers_per_block=2),
            164: resnet50(num_classes=JUDGE_CONFIG["n_classes"]),
        }
    for published, net in nets.items():
        assert megabytes(net) == pytest.approx(published, rel=0.01)


# --- the judge of VFS


def caffe_resnet50(w, x):
    """Written from the layers' definition, without torchvision: strides in the first 1×1, pooling without padding."""

    def norm(x, name):
        return F.batch_norm(
            x, w[f"{name}.running_mean"], w[f"{name}.running_var"], w[f"{name}.weight"], w[f"{name}.bias"]
        )

    x = F.relu(norm(F.conv2d(x, w["conv1.weight"], stride=2, padding=3), "bn1"))
    x = F.max_pool2d(x, 3, 2, ceil_mode=True)
    for layer, blocks in enumerate((3, 4, 6, 3), start=1):
        for block in range(blocks):
            at, stride = f"layer{layer}.{block}", 2 if layer > 1 and block == 0 else 1
            y = F.relu(norm(F.conv2d(x, w[f"{at}.conv1.weight"], stride=stride), f"{at}.bn1"))
            y = F.relu(norm(F.conv2d(y, w[f"{at}.conv2.weight"], padding=1), f"{at}.bn2"))
            y = norm(F.conv2d(y, w[f"{at}.conv3.weight"]), f"{at}.bn3")
            if block == 0:
                x = norm(F.conv2d(x, w[f"{at}.downsample.0.weight"], stride=stride), f"{at}.downsample.1")
            x = F.relu(x + y)
    return F.linear(x.mean((2, 3)), w["fc.weight"], w["fc.bias"])


def test_the_vggface2_judge_is_a_resnet50_in_caffe_s_manner(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**JUDGE_CONFIG, "n_classes": 7, "size": 75}))
    from torchvision.models import resnet50

    with torch.random.fork_rng():
        torch.manual_seed(0)
        weights = resnet50(num_classes=7).state_dict()
    save_file(weights, tmp_path / "model.safetensors")
    judge = Judge.from_folder(tmp_path)
    image = np.random.default_rng(0).integers(0, 256, (75, 75, 3), dtype=np.uint8)
    pixels = torch.from_numpy(image[..., ::-1].astype(np.float32) - np.float32(JUDGE_CONFIG["mean"]))  # BGR
    expected = caffe_resnet50(weights, pixels.permute(2, 0, 1)[None].float()).softmax(1)
    assert torch.allclose(torch.from_numpy(judge.posteriors([image])), expected, atol=1e-5)
