"""Commands of `tandem`, for studies that consist of them."""

import subprocess
import sys


def tandem(*arguments: object) -> None:
    """Run a command; raise an error if it fails."""
    subprocess.run([sys.executable, "-m", "tandem_pl", *map(str, arguments)], check=True)
