"""Files that are written whole or not at all, and that never take the place of a file that they must not replace."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import NamedTemporaryFile, TemporaryFile
from typing import IO

PROBE = bytes(65536)
"""What is written to find out whether a folder can be written to; a full disk often has room for an empty file."""


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name in the same folder, then rename it: readers never see a part of it.

    A link is followed, so that its target is replaced and not the link.

    Args:
        path: The file to make or to replace.
        data: Its bytes.

    Raises:
        OSError: It cannot be written, or the path is a device, a pipe or a folder.
    """
    path = Path(os.path.realpath(path))
    check_regular(path)
    temporary = _written(path.parent, path.name, data)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_at(files: Mapping[Path, bytes], owner: str | None = None) -> bool:
    """Write files that do not exist yet, all of them or none.

    Each file appears with all of its bytes, and a file that another process makes at the same time is never replaced.

    Args:
        files: Their bytes, by path.
        owner: Beginning of the temporary names, after a dot; None is the name of each file.

    Returns:
        False where a name is taken; nothing is written then.

    Raises:
        OSError: They cannot be written.
    """
    temporary: dict[Path, Path] = {}
    try:
        for path, data in files.items():
            temporary[_written(path.parent, owner or path.name, data)] = path
        return _linked(temporary)
    finally:
        for file in temporary:
            file.unlink(missing_ok=True)


def write_new(path: Path, parts: Mapping[str, bytes]) -> list[Path]:
    """Write files under free names of one stem: NAME, else NAME_2, NAME_3, ….

    Args:
        path: NAME with its ending.
        parts: What is written, by what follows the stem: {"": …, "-1": …} for NAME.png and NAME-1.png.

    Returns:
        The files in the order of `parts`.

    Raises:
        OSError: They cannot be written; no file is left then.
    """
    for names in free_names(path, tuple(parts)):
        if write_at(dict(zip(names, parts.values()))):
            return names
    raise AssertionError("free names never end")


class OwnFile:
    """A file that one run writes again and again: made under a free name the first time, replaced later.

    Args:
        path: The file that is wanted.
        mine: Whether the file may be replaced the first time too.
    """

    def __init__(self, path: Path, mine: bool = False):
        self.path = path
        self.mine = mine

    def write(self, data: bytes) -> None:
        """Write the file; OSError leaves what was there."""
        if self.mine:
            write_whole(self.path, data)
        else:
            [self.path] = write_new(self.path, {"": data})
            self.mine = True

    def remove(self) -> None:
        """Remove the file if the run has written it."""
        if self.mine:
            self.path.unlink(missing_ok=True)


def free_names(path: Path, parts: tuple[str, ...] = ("",)) -> Iterator[list[Path]]:
    """Sets of names of one stem that are all free: those of NAME, NAME_2, NAME_3, …."""
    for number in count(1):
        stem = path.stem if number == 1 else f"{path.stem}_{number}"
        names = [path.with_name(f"{stem}{part}{path.suffix}") for part in parts]
        if not any(os.path.lexists(name) for name in names):
            yield names


def check_regular(path: Path) -> None:
    """Raise OSError where a path exists and is not a regular file."""
    with suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(f"{path} is a folder: give the name of a file in it")
        if not stat.S_ISREG(mode):
            raise OSError(f"{path} is a device or a pipe: only regular files are replaced")


def make_folder(folder: Path) -> None:
    """Make a folder, and those that it is in, if they do not exist.

    Raises:
        OSError: One of them is a file, or they cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        name = next(path for path in (folder, *folder.parents) if path.exists())
        raise NotADirectoryError(f"cannot make the folder {folder}: {name} is a file") from None
    except OSError as error:
        raise OSError(f"cannot make the folder {folder}: {error.strerror or error}") from None


def check_writable(folder: Path) -> None:
    """Write a temporary file in a folder, to find what prevents it before the work is done and not after.

    Raises:
        OSError: The folder does not exist, is read-only or not the user's, or the disk is full.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder} to write in")
    try:
        with TemporaryFile(dir=folder) as file:  # without a name, so that a kill leaves nothing
            file.write(PROBE)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        tried = f" ({len(PROBE) // 1024} KiB were tried)" if error.errno == errno.ENOSPC else ""
        raise OSError(f"cannot write in {folder}: {error.strerror or error}{tried}") from None


def remove_temporaries(folder: Path, owner: str) -> None:
    """Remove what a killed `write_new` left; the caller makes sure that no other process writes for this owner."""
    for file in folder.iterdir():
        if file.name.startswith(f".{owner}.") and file.suffix == ".tmp":
            file.unlink(missing_ok=True)


@contextmanager
def temporary_file(folder: Path, owner: str) -> Generator[IO[bytes], None, None]:
    """A new file with a temporary name, which is on disk with the usual permissions at the end of the block.

    The caller renames or removes it; an exception in the block removes it.

    Args:
        folder: Where it is made.
        owner: What its name begins with, after a dot.
    """
    with NamedTemporaryFile(dir=folder, prefix=f".{owner}.", suffix=".tmp", delete=False) as file:
        try:
            yield file
            file.flush()
            os.fsync(file.fileno())
            umask = os.umask(0)
            os.umask(umask)
            os.chmod(file.name, 0o666 & ~umask)  # temporary files can be read by their owner only
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _written(folder: Path, owner: str, data: bytes) -> Path:
    """A new file with a temporary name, on disk with all of its bytes and the usual permissions."""
    with temporary_file(folder, owner) as file:
        file.write(data)
    return Path(file.name)


def _linked(pairs: Mapping[Path, Path]) -> bool:
    """Give files their names; False, with none of the names given, where one has been taken in the meantime."""
    made: list[Path] = []
    try:
        for file, name in pairs.items():
            try:
                os.link(file, name)
            except FileExistsError:
                _remove(made)
                return False
            except OSError:  # a file system without links
                if not _claimed(name):
                    _remove(made)
                    return False
                made.append(name)
                os.replace(file, name)
                continue
            made.append(name)
    except BaseException:
        _remove(made)
        raise
    return True


def _claimed(name: Path) -> bool:
    """Make an empty file; False where the name is taken."""
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    except FileExistsError:
        return False
    return True


def _remove(files: list[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)
