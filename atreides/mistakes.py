"""What a user can mend: it ends a command with one sentence and exit status 2."""

from __future__ import annotations

import errno
from typing import Final

#: Reasons for which a system refuses a file that are not the program's.
_REFUSALS: Final = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


class FileMistake(ValueError):
    """A file that cannot be what it should be; the message is one sentence with its name."""


def refusal(error: OSError) -> str | None:
    """What a full disk or a missing permission says, as a sentence; None for any other error."""
    if error.errno not in _REFUSALS:
        return None
    place = f"{error.filename}" if error.filename else "a file"
    return f"{place} must be writable: {error.strerror}"
