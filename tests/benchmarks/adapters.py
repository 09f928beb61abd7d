"""Memory of twin adapters beside plain LoRA fine-tuning: `python tests/benchmarks/adapters.py`.

A network of Qwen2-0.5B's shape with random weights, 1 min. See `memory.py`.
"""

from collections.abc import Sequence

import memory

NAME = "adapters"


def main(argv: Sequence[str] | None = None) -> memory.Record:
    """Command line."""
    return memory.main(argv, adapters=True)


if __name__ == "__main__":
    main()
