"""Passes over all images of a source: in threads, and remembered in a file."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from tandem_pl.errors import InputError
from tandem_pl.files import write_atomically

CHUNK = 256  # images that a thread looks at in one task

Found = TypeVar("Found")


def map_chunks(
    function: Callable[[range], list[Found]], size: int, threads: int, what: str
) -> Iterator[Found]:
    """Yield what a function finds in ranges of the numbers below `size`, in order.

    Args:
        function: called with each range, in threads.
        size: how many numbers.
        threads: how many threads.
        what: label of the progress bar.
    """
    chunks = [range(start, min(start + CHUNK, size)) for start in range(0, size, CHUNK)]
    with ThreadPoolExecutor(max(threads, 1)) as pool:
        for found in tqdm(pool.map(function, chunks), what, len(chunks), delay=1):
            yield from found


def remember(file: Path, compute: Callable[[], Any]) -> Any:
    """Return the content of a JSON file; compute and write it if it is not there or damaged.

    Raises:
        InputError: the file cannot be written.
    """
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        content = compute()
    try:
        write_atomically(file, json.dumps(content).encode())
    except OSError as error:
        raise InputError(
            f"{file} cannot be written ({error.strerror}): choose another cache_dir."
        ) from error
    return content
