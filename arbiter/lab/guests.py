"""Who is in a lab: of one that was built for the occasion, the last to leave removes it.

Each `lab shell` and `lab exec` has a shared lock (flock(2)) on the file `guests` in the lab's
folder. A lock ends with its process, however that ends.
"""

from __future__ import annotations

import fcntl
import os

from arbiter.lab.config import LabError
from arbiter.lab.state import directory


class Guest:
    """One command's stay in the lab `name`, which is up. Raises LabError where it is just going.

    `temporary`: the lab was built for this, and is to go with the last guest.
    """

    def __init__(self, name: str, temporary: bool) -> None:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        try:
            self._fd = os.open(directory(name) / "guests", flags, 0o600)
            fcntl.flock(self._fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except (FileNotFoundError, BlockingIOError):
            raise LabError(
                f"lab {name} is being taken down, as the last who was in it leaves: try again"
            ) from None
        if temporary:
            os.write(self._fd, b"temporary\n")

    def last(self) -> bool:
        """Whether the lab is to be removed now. From then on nobody gets in until `leave`."""
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        found = os.fstat(self._fd)
        # Unlinked: it was taken down meanwhile, and another of that name may be there.
        return found.st_size > 0 and found.st_nlink > 0

    def leave(self) -> None:
        """Be no guest any more."""
        os.close(self._fd)
