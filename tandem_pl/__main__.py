"""``python -m tandem_pl`` is the ``tandem`` command."""

import sys

from .cli import main

sys.exit(main())
