"""One cell's process: `tandem fit`, then `tandem test`, so that imports are paid once.

python -m tandem_pl.cli.compare_worker CONFIG CHECKPOINT SECONDS
"""

from __future__ import annotations

import sys
import time
from pathlib import Path


def main(config: str, checkpoint: str, seconds: str) -> int:
    """Run both, write the seconds of the first without imports, and return the exit code."""
    from tandem_pl import cli
    from tandem_pl.cli import lightning_cli  # noqa: F401  (the import that takes long)

    start = time.perf_counter()
    code = cli.main(["fit", "--config", config])
    if code:
        return code
    Path(seconds).write_text(f"{time.perf_counter() - start:.2f}\n")
    return cli.main(["test", "--config", config, "--ckpt_path", checkpoint])


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
