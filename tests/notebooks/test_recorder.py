"""A reader's own voice: recorded in JupyterLab, in a browser whose microphone plays a file; or a file of any kind."""

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from types import SimpleNamespace

import browser
import nbformat
import numpy as np
import pytest
import soundfile
from fakes import save_m4a, spoken
from nbformat import v4

import minivox
from v2f_core import InputError, read_clips
from v2f_core.show import faces

CELLS = (
    """from pathlib import Path
from v2f_core import read_clips
from v2f_core.show import players
recorder = players.Recorder(2)
recorder""",
    """import numpy as np
path = recorder.path_or("nothing.ogg")
wave = read_clips(path)[0].numpy()
spectrum = np.abs(np.fft.rfft(wave * np.hanning(len(wave))))
print("heard", len(wave), "samples, loudest at", round(spectrum.argmax() * 16_000 / len(wave), -1), "Hz")""",
)

START = Path(__file__).parents[2] / "notebooks" / "00_start_here.ipynb"
NO_BROWSER = pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here")


def heard(path):
    """What notebook 00's cell says of a recording; drawing is left out."""
    (cell,) = (cell.source for cell in nbformat.read(START, as_version=4).cells if "recorder.path_or(" in cell.source)
    face = np.zeros((8, 8, 3), np.uint8)
    names = {
        "recorder": SimpleNamespace(path_or=lambda _: path),
        "own_pipe": lambda *_, **__: SimpleNamespace(images=[face]),
    }
    names |= {"seeds": lambda *numbers: numbers, "display": lambda _: None, "np": np, "faces": faces, "Path": Path}
    names |= {"warnings": warnings, "read_clips": read_clips, "InputError": InputError, "minivox": minivox}
    with redirect_stdout(io.StringIO()) as said:
        exec(cell, names)
    return said.getvalue()


@pytest.mark.parametrize(
    ("name", "rate", "channels"), [("stereo.mp3", 44_100, 2), ("narrow.wav", 8_000, 1), ("phone.m4a", 48_000, 1)]
)
def test_an_ordinary_file_is_heard(name, rate, channels, tmp_path):
    if name == "phone.m4a":
        save_m4a(tmp_path / name, spoken(3, rate)[:, 0], rate)
    else:
        soundfile.write(tmp_path / name, spoken(3, rate, channels), rate)
    assert f"{name} has 3 windows; faces drawn: 1" in heard(tmp_path / name)


def test_what_cannot_be_heard_is_said_with_the_way_out(tmp_path):
    (tmp_path / "letter.mp3").write_text("Dear Ada,")
    soundfile.write(tmp_path / "silent.wav", np.zeros(48_000), 16_000)
    for name in ("letter.mp3", "silent.wav"):
        assert heard(tmp_path / name).startswith("This recording cannot be used.")
    assert "give a WAV" in heard(tmp_path / "letter.mp3")


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """The recorder's cell and one that reads the recording; the microphone hears a hummed 440 Hz, on and off."""
    folder = tmp_path_factory.mktemp("lab")
    seconds = np.arange(48_000 * 4) / 48_000
    hum = sum(np.sin(2 * np.pi * 440 * n * seconds) / n for n in (1, 2, 3)) * (np.sin(2 * np.pi * 2 * seconds) > -0.5)
    soundfile.write(folder / "hum.wav", 0.2 * hum, 48_000)
    notebook = folder / "book" / "a.ipynb"
    notebook.parent.mkdir()
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    cells = [v4.new_code_cell(source) for source in CELLS]
    nbformat.write(v4.new_notebook(cells=cells, metadata={"kernelspec": kernel}), notebook)
    with browser.jupyter(notebook, folder, folder / "hum.wav") as page:
        run(page, 0)
        page.wait("!!document.querySelector('.v2f-recorder button[onclick]')")
        page.notebook = notebook
        yield page


def run(page, cell):
    page.evaluate(f"jupyterapp.shell.currentWidget.content.activeCellIndex = {cell}")
    page.evaluate("jupyterapp.commands.execute('notebook:run-cell')")


STATUS = "document.querySelector('.v2f-recorder [role=status]').textContent"


def press(page, allowed):
    page.send("Browser.setPermission", permission={"name": "microphone"}, setting=allowed, origin=page.origin)
    page.evaluate("document.querySelector('.v2f-recorder button[onclick]').click()")


@pytest.mark.slow
@NO_BROWSER
def test_without_permission_and_without_a_microphone_the_way_out_is_told(page):
    press(page, "denied")
    page.wait(f"{STATUS}.includes('allow it beside the page')")
    page.evaluate(
        "window.ask = navigator.mediaDevices.getUserMedia, navigator.mediaDevices.getUserMedia = "
        "async () => { throw new DOMException('', 'NotFoundError'); }, 0"
    )
    press(page, "granted")
    page.wait(f"{STATUS}.includes('no microphone was found')")
    page.evaluate("navigator.mediaDevices.getUserMedia = window.ask, 0")


@pytest.mark.slow
@NO_BROWSER
def test_what_the_microphone_hears_reaches_the_kernel_and_no_file(page):
    press(page, "granted")
    page.wait(f"{STATUS}.startsWith('recorded')")
    run(page, 1)
    said = page.wait(
        "[...document.querySelectorAll('.jp-OutputArea-output')].map(o => o.innerText).find(t => /^heard/.test(t))"
    )
    assert said.strip() == "heard 20000 samples, loudest at 440.0 Hz"
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    page.wait("!jupyterapp.shell.currentWidget.context.model.dirty")
    assert "widgets" not in nbformat.read(page.notebook, as_version=4).metadata
    assert "base64" not in page.notebook.read_text(encoding="utf-8")
