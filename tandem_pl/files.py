"""Writing files and folders so that a reader sees the old one or the new one, never a part."""

from __future__ import annotations

import codecs
import csv
import errno
import hashlib
import io
import os
import re
import shutil
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from .errors import InputError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Writes `content` beside `path` and renames it into place.

    Raises:
        OSError: the folder cannot be written, or is full; nothing is left behind.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # one name, so that killed runs leave one file
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno is None:
            raise
        reason = f"{error.strerror} ({len(content) / 1e6:,.1f} MB needed)"
        raise OSError(error.errno, reason, str(path)) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextmanager
def new_folder(folder: Path, overwrite: bool = False, done: str | None = None) -> Iterator[Path]:
    """Gives a scratch folder that is renamed to `folder` at the end, and deleted on an error.

    So a process that was killed leaves nothing that could be loaded by mistake.

    Args:
        folder: the folder to make.
        overwrite: whether to replace a folder that is there; it is deleted once the new one is
            whole.
        done: a file that a complete folder has. Of several processes that build the same folder
            the first to finish wins, and the others discard their copy if `folder` has this file.

    Raises:
        InputError: no space is left on the device, or `folder` cannot be written.
    """
    scratch = folder.parent / f".{folder.name}.{uuid.uuid4().hex}.tmp"
    old = scratch.with_suffix(".old")
    try:
        scratch.mkdir(parents=True)
        yield scratch
        if overwrite and folder.exists():
            os.replace(folder, old)
        try:
            os.replace(scratch, folder)
        except OSError:
            if done is None or not (folder / done).exists():
                raise
    except OSError as error:
        if error.errno in NO_SPACE:
            raise InputError(
                f"{folder} cannot be written: no space is left on its device; free some or choose "
                "a folder elsewhere (nothing was left behind)."
            ) from error
        if isinstance(error, PermissionError | NotADirectoryError | FileExistsError):
            raise InputError(
                f"{folder} cannot be written ({error.strerror}: {error.filename}); choose a folder "
                "elsewhere."
            ) from error
        raise
    finally:
        if old.exists() and not folder.exists():
            os.replace(old, folder)
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def csv_bytes(header: Sequence[Any], rows: Iterable[Iterable[Any]]) -> bytes:
    r"""UTF-8 text of a CSV file; floats read back bit for bit.

    >>> csv_bytes(["domain", "loss"], [["code", 0.5]])
    b'domain,loss\ncode,0.5\n'
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue().encode()


def png_bytes(figure: Figure) -> bytes:
    """A figure as a PNG file."""
    picture = io.BytesIO()
    figure.savefig(picture, format="png")
    return picture.getvalue()


BYTE_ORDER_MARKS = {  # how a text file may begin, and its encoding then
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16, which begins with the same bytes
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def encoding_of(head: bytes) -> str:
    r"""Return the encoding of a text that begins with `head`: by its byte order mark, else UTF-8.

    >>> encoding_of(b"\xef\xbb\xbfabc"), encoding_of(b"abc")
    ('utf-8-sig', 'utf-8')
    """
    marks = BYTE_ORDER_MARKS.items()
    return next((encoding for mark, encoding in marks if head.startswith(mark)), "utf-8")


def read_text(path: str | os.PathLike[str]) -> str:
    r"""Return the text of a file, without a byte order mark and with line ends as "\n"."""
    with open(path, "rb") as file:
        encoding = encoding_of(file.read(4))
    return Path(path).read_text(encoding=encoding)


MOST_CHARACTERS = 240  # of a file's name without its suffix; systems take 255 bytes in all
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)  # files of Windows


def file_names(names: Iterable[str]) -> dict[str, str]:
    """Return the name of a file or folder, without suffix, for each of some names.

    It is the name itself, with special characters escaped, if every system can have that file
    beside the others: not if it is too long, a device, only dots, or differs from an earlier one in
    case alone. Then it ends with a digest of the name.

    >>> file_names(["web text", "a/b", "A/B"])
    {'web text': 'web text', 'a/b': 'a%2Fb', 'A/B': 'A%2FB-a447d403395a6844'}
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        file = quote(name, safe=" ")
        usable = file.strip(". ") and len(file) <= MOST_CHARACTERS and not DEVICES.fullmatch(file)
        if not usable or file.lower() in taken:
            digest = hashlib.blake2b(name.encode(), digest_size=8).hexdigest()
            start = re.sub("%.?$", "", file[: MOST_CHARACTERS // 3]).strip(". ").replace(".", "_")
            file = f"{start}-{digest}"
        taken.add(file.lower())
        found[name] = file
    return found
