"""The whole build program, in small: from nothing to assets that rooms can load and that turn a voice into faces."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from minivox import dataset as minivox
from minivox.build import pack
from minivox.build.__main__ import STAGES
from v2f_core.artefacts.profiles import ENCODERS, PARTS, load_profile
from v2f_core.data.voxceleb import read_layout

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """The scratch folder of a tiny build; the package's own assets are not touched."""
    folder = tmp_path_factory.mktemp("build")
    command = [sys.executable, "-m", "minivox.build", "--tiny", "--work", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "tiny"


@pytest.fixture(scope="module")
def profile(work):
    assets = work / "pack" / "assets"
    parts = {part: assets / part for part in (*PARTS, "ge2e", "posterior")}
    return replace(load_profile("mini"), dataset=assets / "minivox", steps=2, **parts)


def test_every_stage_is_done(work):
    assert all((work / stage / "done").exists() for stage in STAGES)


def test_every_asset_has_its_hash(work, profile):
    listed = json.loads((work / "pack" / "assets" / "SHA256.json").read_text())
    assert {name.split("/")[0] for name in listed} == {*pack.SHIPPED, "minivox"}
    assert [profile.part(part).name for part in PARTS] == list(PARTS)


def test_the_dataset_unpacks_into_three_splits_of_both_sexes(profile, tmp_path):
    persons = read_layout(minivox.unpack(tmp_path, profile.dataset)).persons()
    assert set(persons.split) == {"train", "val", "test"}
    assert set(persons.sex) == {"f", "m"}


@pytest.mark.parametrize("encoder", ENCODERS)
def test_the_models_turn_a_voice_into_faces(encoder, profile, tmp_path):
    import torch

    from v2f_core.identity.sphere import check_unit
    from v2f_core.pipeline import Vox2FacePipeline

    manifest = read_layout(minivox.unpack(tmp_path, profile.dataset))
    voice = manifest.absolute(manifest.voices("test"))[0]
    pipe = Vox2FacePipeline.from_profile(profile.with_encoder(encoder))
    made = pipe(str(voice), num_images=2, generator=torch.Generator().manual_seed(0))
    assert [image.size for image in made.images] == [(profile.image_size, profile.image_size)] * 2
    check_unit(made.identity)
