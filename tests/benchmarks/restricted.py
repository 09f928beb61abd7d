"""The restricted study: small domains repeat. `python tests/benchmarks/restricted.py`, 20 min."""

from study import main

if __name__ == "__main__":
    main("restricted", "restricted.yaml", 4000)
