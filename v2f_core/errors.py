"""The one error that a user can mend."""

from __future__ import annotations


class InputError(ValueError):
    """A file or value given by the user cannot be used.

    The message is one line: it names the file or value, says what was expected, and the way out.
    The command line prints it on stderr and exits with code 2.

    Example:
        >>> raise InputError("voice.txt: not an audio file; give a WAV, FLAC, OGG, MP3 or M4A file")
        Traceback (most recent call last):
        v2f_core.errors.InputError: voice.txt: not an audio file; give a WAV, FLAC, OGG, MP3 or M4A file
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows: the line, without the way that led to it."""
        return [f"InputError: {self}"]
