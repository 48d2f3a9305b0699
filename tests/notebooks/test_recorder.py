"""A reader records a voice in JupyterLab: in a real browser, whose microphone plays a file."""

import browser
import nbformat
import numpy as np
import pytest
import soundfile
from nbformat import v4

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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(browser.CHROMIUM is None, reason="no Chromium here"),
]


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
        page.evaluate("jupyterapp.commands.execute('notebook:run-all-cells')")
        page.wait("document.querySelector('.v2f-recorder button[onclick]')")
        page.notebook = notebook
        yield page


STATUS = "document.querySelector('.v2f-recorder [role=status]').textContent"


def press(page, allowed):
    page.send("Browser.setPermission", permission={"name": "microphone"}, setting=allowed, origin=page.origin)
    page.evaluate("document.querySelector('.v2f-recorder button[onclick]').click()")


def test_who_forbids_the_microphone_is_told_what_to_do(page):
    press(page, "denied")
    page.wait(f"{STATUS}.includes('allow it beside the page')")


def test_where_there_is_no_microphone_a_file_is_asked_for(page):
    page.evaluate(
        "window.ask = navigator.mediaDevices.getUserMedia, navigator.mediaDevices.getUserMedia = "
        "async () => { throw new DOMException('', 'NotFoundError'); }, 0"
    )
    press(page, "granted")
    page.wait(f"{STATUS}.includes('no microphone was found')")
    page.evaluate("navigator.mediaDevices.getUserMedia = window.ask, 0")


def test_what_the_microphone_hears_reaches_the_kernel_and_no_file(page):
    press(page, "granted")
    page.wait(f"{STATUS}.startsWith('recorded')")
    run = "jupyterapp.shell.currentWidget.content.activeCellIndex = 1, jupyterapp.commands.execute('notebook:run-cell')"
    page.evaluate(run)
    said = page.wait(
        "[...document.querySelectorAll('.jp-OutputArea-output')].map(o => o.innerText).find(t => /^heard/.test(t))"
    )
    assert said.strip() == "heard 20000 samples, loudest at 440.0 Hz"
    page.evaluate("jupyterapp.commands.execute('docmanager:save')")
    page.wait("!jupyterapp.shell.currentWidget.context.model.dirty")
    assert "widgets" not in nbformat.read(page.notebook, as_version=4).metadata
    assert "base64" not in page.notebook.read_text(encoding="utf-8")
