"""The abundant study: no domain is used up. `python tests/benchmarks/abundant.py`, 15 min."""

from study import main

if __name__ == "__main__":
    main("abundant", "abundant.yaml", 2000)
