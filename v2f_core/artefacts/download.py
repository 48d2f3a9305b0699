"""Downloads that go on where they were cut off, with a bar, and with errors that say what to do."""

from __future__ import annotations

from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from v2f_core.errors import InputError

BLOCK = 1 << 20
AGAIN = "run it again, it goes on from here"
SECONDS = 60.0  # without a byte before a download is given up


def download(url: str, target: str | Path) -> None:
    """Download a file; what a cut-off download left in ``target.part`` is kept, if the server's file is still the same.

    Raises:
        InputError: the address cannot be reached, the server refuses, the connection broke off, or the disk is full.
    """
    from tqdm import tqdm

    target = Path(target)
    part, tag = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.etag")
    target.parent.mkdir(parents=True, exist_ok=True)
    seen = tag.read_text(encoding="utf-8") if tag.is_file() else ""
    done = part.stat().st_size if seen and part.is_file() else 0
    request = Request(url)
    if done:
        request.add_header("Range", f"bytes={done}-")
        request.add_header("If-Range", seen)  # another file than that one is sent from its beginning
    try:
        with urlopen(request, timeout=SECONDS) as answer:
            if answer.status != 206:
                done = 0
            total = done + int(answer.headers.get("Content-Length") or 0)
            tag.write_text(answer.headers.get("ETag") or "", encoding="utf-8")
            with (
                part.open("ab" if done else "wb") as file,
                tqdm(total=total, initial=done, desc=target.name, unit="B", unit_scale=True) as bar,
            ):
                while block := answer.read(BLOCK):
                    file.write(block)
                    bar.update(len(block))
    except HTTPError as error:
        raise InputError(
            f"{url}: the server answers {error.code} {error.reason}; get it by hand and give --local"
        ) from error
    except (URLError, TimeoutError, ConnectionError) as error:
        raise InputError(f"{url}: cannot be reached or broke off ({error}); {AGAIN}") from error
    except OSError as error:
        raise InputError(f"{part}: cannot be written ({error.strerror}); free room, then {AGAIN}") from error
    if total and part.stat().st_size != total:
        raise InputError(f"{url}: broke off at {part.stat().st_size} of {total} bytes; {AGAIN}")
    part.replace(target)
    tag.unlink()


def from_hub(repository: str, path: str) -> Path:
    """A file of a hub repository, in the hub's own cache, resumed if an earlier download was cut off.

    Raises:
        InputError: it is restricted to people who have agreed to its terms there, is not there, or cannot be reached;
            the download broke off, or the disk is full.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    page = f"https://huggingface.co/{repository}"
    try:
        return Path(hf_hub_download(repository, path))
    except GatedRepoError as error:
        raise InputError(
            f"{repository}: access is restricted; agree to its terms on {page}, then log in here with 'hf auth login' "
            "or set HF_TOKEN"
        ) from error
    except LocalEntryNotFoundError as error:
        raise InputError(f"{repository}/{path}: the hub cannot be reached; run it again, or give --local") from error
    except (RepositoryNotFoundError, EntryNotFoundError) as error:
        raise InputError(f"{repository}/{path}: no longer published there; look at {page}") from error
    except HfHubHTTPError as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{repository}/{path}: the hub answers with an error ({reason}); run it again later"
        ) from error
    except Exception as error:  # of the HTTP library that the hub uses, which is not ours to know
        if isinstance(error, OSError) and error.errno:
            raise InputError(f"{repository}/{path}: cannot be written ({error}); free room, then {AGAIN}") from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(f"{repository}/{path}: the download broke off ({reason}); {AGAIN}") from error
