"""Where caches go unless a data module says otherwise."""

import os
from pathlib import Path


def default_cache_dir() -> Path:
    """Return `$TANDEM_CACHE`, or `tandem_pl` in `$XDG_CACHE_HOME`, or `~/.cache/tandem_pl`."""
    if os.environ.get("TANDEM_CACHE"):
        return Path(os.environ["TANDEM_CACHE"]).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "tandem_pl"
