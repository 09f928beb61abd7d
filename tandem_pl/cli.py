"""The `tandem` command: a table of verbs. Heavy imports wait until a verb needs them."""
def main() -> int:
    return 0
