"""The folders of built corpora: named by their settings, or those of an earlier run."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tandem_pl.data_record import check_same_settings, folder_of_run
from tandem_pl.datamodules.sources.cache_folder import default_cache_dir

from .block_folder import MANIFEST, read_manifest


def corpus_folder(cache_dir: str | None, settings: dict[str, Any], like: str | None) -> Path:
    """Return the folder of a corpus, built or not; any change of the settings gives another one.

    Args:
        cache_dir: folder of the caches; None for `default_cache_dir`.
        settings: all that decides the content, as JSON values; "kind" is the data module's class.
        like: a run's folder, whose corpus is used although, say, other packages are installed now.

    Raises:
        InputError: the run's corpus is gone, or was built with other settings.
    """
    text = json.dumps(settings)
    if like is not None:
        folder = folder_of_run(like, MANIFEST)
        check_same_settings(like, read_manifest(folder)["settings"], json.loads(text))
        return folder
    caches = Path(cache_dir).expanduser() if cache_dir else default_cache_dir()
    name = hashlib.blake2b(text.encode(), digest_size=12).hexdigest()
    return caches / f"{settings['kind']}-{name}"
