"""Recordings in a notebook: cards of faces, a player and a caption; and a recorder for the reader's own voice.

The sound is embedded as short MP3: a stored notebook plays it without this package and stays small.
"""

from __future__ import annotations

import base64
import html
import io
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets
import numpy as np
from jaxtyping import Float

from v2f_core.errors import InputError
from v2f_core.show.faces import Picture, data_url, mark, picture
from v2f_core.show.plots import SAMPLE_RATE

if TYPE_CHECKING:
    from IPython.display import HTML

SIZE = 96  # of a face, CSS pixels
_CARD = "display:inline-block; vertical-align:top; margin:0 14px 14px 0; width:{width}px; text-align:center"
_BESIDE = '<img style="display:inline; margin:0"'  # some style sheets put each picture on its own line


def mp3(wave: Float[np.ndarray, " samples"]) -> bytes:
    """A mono recording at 16 kHz, samples in [-1, 1], as MP3, about 4 kB a second."""
    import soundfile

    data = io.BytesIO()
    settings = {"format": "MP3", "subtype": "MPEG_LAYER_III", "bitrate_mode": "CONSTANT", "compression_level": 0.8}
    soundfile.write(data, wave, SAMPLE_RATE, **settings)
    return data.getvalue()


def cards(
    waves: Sequence[Float[np.ndarray, " _"]], captions: Sequence[str], faces: Sequence[Sequence[Picture]] = ()
) -> HTML:
    """One card a recording (mono, 16 kHz): faces, if any, a player, a caption; and a note."""
    from IPython.display import HTML

    rows = list(faces) or [[] for _ in waves]
    width = max([200, *((SIZE + 4) * len(row) for row in rows)])
    page = []
    for wave, caption, row in zip(waves, captions, rows, strict=True):
        pictures = "".join(f"{picture(face, SIZE, f'face: {caption}')} " for face in row).replace("<img", _BESIDE)
        sound = data_url("audio/mpeg", mp3(wave))
        player = f'<audio controls style="width:200px; height:36px" src="{sound}"></audio>'
        page.append(f'<div style="{_CARD.format(width=width)}">{pictures}<br>{player}<br>{html.escape(caption)}</div>')
    note = [f'<div style="font-size:80%">{mark()}</div>'] if any(rows) else []
    return HTML("\n".join(page + note))


class Recorder(ipywidgets.VBox):
    """A button that records 1 to 30 seconds from the microphone, and a field that takes a file, for a cell's last line.

    The sound goes from the browser to the kernel and into a temporary folder, which is removed when the kernel ends. A
    stored notebook holds a line of text in its place.

    Example:
        >>> recorder = Recorder()
        >>> recorder
        (recorder: run this cell in Jupyter to record 5 s, or to choose a file)
        >>> recorder.path_or("stand_in.ogg").name
        'stand_in.ogg'
    """

    def __init__(self, seconds: int = 5) -> None:
        if not 1 <= seconds <= 30:  # the sound travels to the kernel as one message
            raise InputError(f"a recording of {seconds} s; expected 1 to 30 s")
        self._folder, self._seconds = Path(tempfile.mkdtemp(prefix="v2f_recording_")), seconds
        weakref.finalize(self, shutil.rmtree, self._folder, True)
        self._path: Path | None = None
        press = html.escape(_RECORD.replace("SECONDS", str(seconds)))
        look = 'class="jupyter-button" style="width:auto; padding:0 12px; margin-right:8px"'
        button = f'<button {look} onclick="{press}">● record {seconds} s</button><span role="status"></span>'
        sound = ipywidgets.Textarea(layout={"display": "none"})  # what the browser has recorded, as a data URL
        sound.observe(self._take_recording, names="value")
        upload = ipywidgets.FileUpload(accept="audio/*,video/mp4,video/webm", description="or a file")
        upload.observe(self._take_file, names="value")
        super().__init__([ipywidgets.HTML(button), upload, sound])
        self.add_class("v2f-recorder")

    def path_or(self, stand_in: str | Path) -> Path:
        """The newest recording or file, or else the stand-in."""
        return self._path or Path(stand_in)

    def _take_recording(self, change: Any) -> None:
        self._keep("recording", base64.b64decode(change["new"].partition(";base64,")[2]))

    def _take_file(self, change: Any) -> None:
        for file in change["new"]:
            self._keep(Path(file["name"].replace("\\", "/")).name or "file", bytes(file["content"]))

    def _keep(self, name: str, data: bytes) -> None:
        self._path = self._folder / name
        self._path.write_bytes(data)

    def __repr__(self) -> str:
        return f"(recorder: run this cell in Jupyter to record {self._seconds} s, or to choose a file)"


_RECORD = """(async button => {
  const status = button.nextElementSibling, say = text => { status.textContent = text; };
  const sound = button.closest(".v2f-recorder").querySelector("textarea");
  if (!navigator.mediaDevices || !window.MediaRecorder)
    return say("no microphone on this page: browsers allow it on localhost and https only. Choose a file instead.");
  let stream;
  try { stream = await navigator.mediaDevices.getUserMedia({audio: true}); }
  catch (error) {
    return say(error.name === "NotAllowedError"
      ? "the microphone is not allowed here: allow it beside the page's address and press again, or choose a file."
      : "no microphone was found: plug one in and press again, or choose a file.");
  }
  const recorder = new MediaRecorder(stream), parts = [];
  recorder.ondataavailable = event => parts.push(event.data);
  recorder.onstop = () => {
    stream.getTracks().forEach(track => track.stop());
    button.disabled = false;
    const reader = new FileReader();
    reader.onload = () => {
      sound.value = reader.result;
      sound.dispatchEvent(new Event("input", {bubbles: true}));
      say("recorded: run the next cell.");
    };
    reader.readAsDataURL(new Blob(parts, {type: recorder.mimeType}));
  };
  button.disabled = true;
  recorder.start();
  say("speak now …");
  setTimeout(() => recorder.stop(), 1000 * SECONDS);
})(this)"""
