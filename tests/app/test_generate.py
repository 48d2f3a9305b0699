"""``generate``: whole and labelled output on good input; one line, exit code 2 and an untouched folder on bad."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import soundfile
from fakes import spoken
from PIL import Image

from v2f_core import cli
from v2f_core.app import generate
from v2f_core.artefacts import profiles
from v2f_core.artefacts.files import folder_hash, sha256
from v2f_core.artefacts.profiles import MINI_ASSETS
from v2f_core.errors import InputError
from v2f_core.identity.aligner import Aligner

RATE = 16_000


@pytest.fixture
def run(tiny_profile, monkeypatch, capsys):
    """The command line in this process, on tiny models: exit code, stdout, stderr."""
    monkeypatch.setitem(profiles.PROFILES, "mini", lambda: tiny_profile)

    def run(*arguments):
        with pytest.raises(SystemExit) as left:
            cli.main(["generate", *map(str, arguments)])
        captured = capsys.readouterr()
        return left.value.code or 0, captured.out, captured.err

    return run


# --- good input


def test_a_recording_gives_labelled_pictures_a_sheet_and_a_report(run, voice, tmp_path):
    out = tmp_path / "faces"
    code, stdout, _ = run(voice, "-n", 3, "--seed", 5, "--out", out)
    assert code == 0
    assert "3 faces of voice.wav" in stdout
    assert sorted(path.name for path in out.iterdir()) == [
        *("voice.json", "voice_0.png", "voice_1.png", "voice_2.png", "voice_sheet.png")
    ]
    report = json.loads((out / "voice.json").read_text())
    identity = report["images"][2].pop("identity")
    first = int(sha256(voice)[:8], 16) + 5  # the recording's own place among the seeds, and the user's 5
    assert report["images"][2] == {"file": "voice_2.png", "seed": first + 2}
    assert (identity, report["truncation"]) == (report["identity"], 0)  # the tiny profile has no posterior
    assert report["faces_show"] == "the point estimate of the identity, on every face"
    assert np.linalg.norm(report["identity"]) == pytest.approx(1, abs=1e-5)
    assert set(report["seconds"]) == {"read", "load", "draw"}
    heard = report["voice"]
    assert (heard["windows"], heard["seconds"], heard["left_out"], heard["band_hz"]) == (3, 3.0, [0, 0, 0], 8000)
    assert heard["speech"] == pytest.approx(3, abs=0.1)
    assert heard["snr_db"] > 30
    assert report["notes"] == []
    with Image.open(out / "voice_2.png") as image:
        assert image.size == (32, 32)
        made = json.loads(image.text["v2f_core"])
        assert "Synthetic" in image.text["Description"]
        assert "No likeness of any person" in image.text["Description"]
    assert made["synthetic"] is True
    assert made["seed"] == first + 2
    assert made["weights_sha256"] == report["weights_sha256"]
    assert set(made["weights_sha256"]) == {"ast", "aligner", "prior"}
    with Image.open(out / "voice_sheet.png") as sheet:
        assert json.loads(sheet.text["v2f_core"])["seeds"] == [first, first + 1, first + 2]
        assert sheet.width > 3 * 32


def test_the_same_seed_gives_the_same_bytes(run, voice, tmp_path):
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        run(voice, "-n", 1, "--seed", seed, "--out", tmp_path / folder)
    a, b, c = ((tmp_path / folder / "voice_0.png").read_bytes() for folder in "abc")
    assert a == b != c
    one, other = (generate.image_seeds(digest * 64, 0, 4) for digest in "ab")  # of two recordings
    assert len({*one, *other}) == 8
    assert generate.image_seeds("a" * 64, 2, 2) == one[2:]


def test_what_was_left_out_and_what_is_doubtful_is_noted(run, tmp_path):
    """A line each on stderr and in the report: silence around the speech, and a clipped stretch."""
    faint, wave = 1e-4 * np.random.default_rng(0).standard_normal((2 * RATE, 1)), spoken(3)
    wave[RATE : RATE + 1500] = 1.0
    path = tmp_path / "voice.wav"
    soundfile.write(path, np.concatenate([faint, wave, faint]), RATE)
    code, _, err = run(path, "-n", 1, "--out", tmp_path / "faces")
    assert code == 0
    report = json.loads((tmp_path / "faces" / "voice.json").read_text())
    assert err == "".join(f"note: {note}\n" for note in report["notes"])
    seconds = r"(\d\.\d\d) s"
    form = rf"{seconds} before, {seconds} between and {seconds} after the speech were left out"
    (said,) = re.findall(f"{path}: {form}", err)
    assert [float(number) for number in said] == report["voice"]["left_out"]
    assert report["voice"]["left_out"] == pytest.approx([1.75, 0, 1.75], abs=0.2)  # words begin and end softly
    assert (report["voice"]["seconds"], report["voice"]["windows"]) == (7, 4)  # 3.5 s
    assert "1% of the samples are clipped" in err


# --- bad input; more of it in speech/test_audio.py


def test_a_bad_recording_and_a_missing_part_are_one_line_and_leave_nothing(
    run, voice, tmp_path, tiny_profile, monkeypatch
):
    soundfile.write(tmp_path / "silent.wav", np.zeros(32_000), RATE)
    (tmp_path / "text.wav").write_text("Dear reader")
    out = tmp_path / "faces"
    bad = [(tmp_path / "no.wav", "no such file"), (tmp_path, "a folder"), (tmp_path / "silent.wav", "silent")]
    bad += [(tmp_path / "text.wav", "not an audio file")]
    for path, said in bad:
        code, stdout, err = run(path, "--out", out)
        assert (code, stdout, err.count("\n")) == (2, "", 1)
        assert str(path) in err
        assert said in err
    for part in ("ast", "aligner", "prior"):
        lost = replace(tiny_profile, **{part: tmp_path / "lost"})
        monkeypatch.setitem(profiles.PROFILES, "mini", lambda lost=lost: lost)
        code, _, err = run(voice, "--out", out)
        assert (code, err.count("\n")) == (2, 1)
        assert str(tmp_path / "lost") in err
    assert not out.exists()


# --- who hears


@pytest.fixture
def two_ears(tiny_profile, monkeypatch):
    """The tiny profile with GE2E for people's own recordings, and an aligner for it."""
    profile = replace(tiny_profile, ge2e=MINI_ASSETS / "ge2e", own_voices="ge2e")
    Aligner(256, 8).save_pretrained(profile.with_encoder("ge2e").aligner)
    monkeypatch.setitem(profiles.PROFILES, "mini", lambda: profile)
    return profile


def test_ones_own_recording_is_heard_by_the_encoder_for_these_the_datasets_by_its_own_and_either_by_choice(
    run, two_ears, voice, tmp_path
):
    own, within = two_ears.with_encoder("ge2e"), two_ears.dataset / "wav" / "voice.wav"
    within.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(voice, within)
    for i, (path, chosen, profile) in enumerate(
        ((voice, (), own), (within, (), two_ears), (voice, ("--encoder", "ast"), two_ears))
    ):
        assert run(path, "-n", 1, *chosen, "--out", tmp_path / str(i))[0] == 0
        report = json.loads((tmp_path / str(i) / "voice.json").read_text())
        parts = {part: folder_hash(getattr(profile, part)) for part in (profile.encoder, "aligner", "prior")}
        assert (report["encoder"], report["weights_sha256"]) == (profile.encoder, parts)
    code, _, err = run(voice, "--encoder", "ecapa", "--out", tmp_path / "none")
    assert (code, "ecapa is missing" in err, err.count("\n")) == (2, True, 1)


# --- names


def test_two_recordings_of_one_name_keep_their_results_apart(run, voice, tmp_path):
    other, out = tmp_path / "voice.flac", tmp_path / "faces"
    soundfile.write(other, spoken(4), RATE)
    run(voice, "-n", 2, "--out", out)
    first = {path.name: path.read_bytes() for path in out.iterdir()}
    code, stdout, err = run(other, "-n", 2, "--out", out)
    stem = f"voice-{sha256(other)[:8]}"
    assert code == 0
    assert f"{stem}_sheet.png" in stdout
    assert f"{stem}_*.png" in err
    assert {name: (out / name).read_bytes() for name in first} == first
    names = {f"{stem}_0.png", f"{stem}_1.png", f"{stem}_sheet.png", f"{stem}.json"}
    assert {path.name for path in out.iterdir()} - set(first) == names
    assert run(voice, "-n", 1, "--out", out)[0] == 0  # its own results are written again
    assert {path.name for path in out.iterdir()} == {*first, *names}


@pytest.mark.parametrize("taken", ["voice_1.png", "voice_sheet.png", "voice.json", "VOICE_0.png"])
def test_a_file_that_is_no_result_is_never_overwritten(tmp_path, taken):
    digest = "e2c67f15" + 56 * "0"
    assert generate.result_name(tmp_path, tmp_path / "voice.wav", digest) == "voice"
    (tmp_path / taken).write_text("another's")
    assert generate.result_name(tmp_path, tmp_path / "voice.wav", digest) == "voice-e2c67f15"
    for stem in ("voice-e2c67f15", f"voice-{digest}"):
        (tmp_path / f"{stem}_0.png").touch()
    with pytest.raises(InputError, match="other files are named voice-e2c67f15"):
        generate.result_name(tmp_path, tmp_path / "voice.wav", digest)


@pytest.mark.parametrize("name", ["x" * 200, "$\\frac$:", "J\udcfcrgen"])
def test_results_of_an_odd_name_lie_in_the_folder_under_a_plain_one(run, voice, tmp_path, name):
    shutil.copyfile(voice, tmp_path / f"{name}.wav")
    out = tmp_path / "faces"
    assert run(tmp_path / f"{name}.wav", "-n", 1, "--out", out)[0] == 0
    assert len(list(out.iterdir())) == 3
    assert all(re.fullmatch(r"[\w .$-]+\.(png|json)", path.name) for path in out.iterdir())


def test_a_recording_is_not_overwritten_by_its_own_report(run, voice, tmp_path):
    recording = shutil.copyfile(voice, tmp_path / "voice.json")
    assert run(recording, "-n", 1, "--out", tmp_path)[0] == 0
    assert recording.read_bytes() == voice.read_bytes()
