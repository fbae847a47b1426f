"""List files and folders, without what storage systems and desktops keep beside data."""

import os
from collections.abc import Iterator
from pathlib import Path

NOT_DATA = frozenset(
    (
        *("@eadir", "#recycle", "#snapshot"),  # Synology
        *("@recycle", "@recently-snapshot"),  # QNAP
        *("__macosx", "network trash folder", "temporary items", "icon\r"),  # macOS
        *("$recycle.bin", "system volume information", "desktop.ini"),  # Windows
        *("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db"),
        "lost+found",
    )
)
"""the casefolded names under which storage systems and desktops keep thumbnails, metadata and
deleted files"""


def entries_in(folder: Path) -> list[os.DirEntry[str]]:
    """Return the files and folders in a folder, in no order, without those that are not data.

    Raises:
        OSError: the folder cannot be read.
    """
    with os.scandir(folder) as entries:  # tells folders from files without a system call per file
        return [entry for entry in entries if _is_data(entry.name)]


def folders_in(folder: Path) -> tuple[str, ...]:
    """Return the sorted names of the folders in a folder, without those that are not data.

    Raises:
        OSError: the folder cannot be read.
    """
    return tuple(sorted(entry.name for entry in entries_in(folder) if entry.is_dir()))


def walk(folder: Path) -> Iterator[str]:
    """Yield the paths of the files in a folder and the folders below it, in no order.

    Links are followed. Left out is what begins with a dot or is called as in `NOT_DATA`.

    Args:
        folder: to walk through.

    Raises:
        OSError: a folder cannot be read.
    """

    def fail(error: OSError) -> None:
        raise error

    seen = set()
    for parent, folders, files in os.walk(folder, followlinks=True, onerror=fail):
        # A link to a parent folder would never end.
        seen.add(os.path.realpath(parent))
        folders[:] = [
            name
            for name in folders
            if _is_data(name) and os.path.realpath(os.path.join(parent, name)) not in seen
        ]
        yield from (os.path.join(parent, name) for name in files if _is_data(name))


def _is_data(name: str) -> bool:
    folded = name.casefold()
    return not (
        folded.startswith(".")  # also AppleDouble's `._image.jpg`
        or folded in NOT_DATA
        or folded.endswith(("@synoeastream", "@synoresource"))
    )
