"""JupyterLab in a headless Chromium: enough of the debugging protocol to press buttons and read a page."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import websocket

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
PATIENCE = 300  # seconds: a busy machine takes a minute to open JupyterLab


class Page:
    """One page of the browser."""

    def __init__(self, address: str) -> None:
        self.socket = websocket.create_connection(address, timeout=PATIENCE, suppress_origin=True)
        self.number = 0

    def send(self, method: str, **parameters: object) -> dict:
        """Call a method of the protocol, and wait for its result."""
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    def evaluate(self, script: str) -> object:
        """The value of a JavaScript expression; of a promise, once it is kept."""
        result = self.send("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def wait(self, script: str) -> object:
        """Ask again until the expression is true."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            with suppress(AssertionError):
                if value := self.evaluate(script):
                    return value
            time.sleep(0.3)
        raise TimeoutError(f"{script}; the page says: {self.evaluate('document.body.innerText')}")


@contextmanager
def running(command: list[str], folder: Path, **settings: str):
    """A process that is ended, with its children, at the end."""
    with (folder / f"{Path(command[0]).name}.log").open("w") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=log, cwd=folder, env={**os.environ, **settings}, start_new_session=True
        )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(timeout=60)


def ask(address: str) -> dict | list:
    """A JSON answer, as soon as the server is up."""
    end = time.monotonic() + PATIENCE
    while True:
        try:
            with urllib.request.urlopen(address, timeout=10) as answer:
                return json.load(answer)
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def jupyter(notebook: Path, folder: Path, microphone: Path):
    """A notebook open in JupyterLab, its kernel ready; the browser's microphone plays a WAV file."""
    lab, debug = free_port(), free_port()
    server = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={lab}", "--ip=127.0.0.1"]
    server += ["--IdentityProvider.token=", "--LabApp.expose_app_in_browser=True", "--ServerApp.port_retries=0"]
    server += [f"--ServerApp.root_dir={notebook.parent}"]
    chromium = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'user'}"]
    chromium += [f"--remote-debugging-port={debug}", "--use-fake-device-for-media-stream", "--window-size=1200,1600"]
    chromium += [f"--use-file-for-fake-audio-capture={microphone}", "about:blank"]
    private = {f"JUPYTER_{name}_DIR": str(folder / name) for name in ("CONFIG", "DATA", "RUNTIME")}
    with running(server, folder, **private), running(chromium, folder):
        ask(f"http://127.0.0.1:{lab}/api")
        pages = ask(f"http://127.0.0.1:{debug}/json/list")
        page = Page(next(one["webSocketDebuggerUrl"] for one in pages if one["type"] == "page"))
        page.origin = f"http://127.0.0.1:{lab}"
        page.send("Page.navigate", url=f"{page.origin}/lab/tree/{notebook.name}")
        try:
            page.send("Emulation.setFocusEmulationEnabled", enabled=True)  # the open notebook is the one with the focus
            page.wait("jupyterapp.shell.activateById([...jupyterapp.shell.widgets('main')][0].id), true")
            page.wait("jupyterapp.shell.currentWidget.sessionContext.session.kernel.status === 'idle'")
            yield page
        finally:
            page.socket.close()
