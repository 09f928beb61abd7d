"""Text as blocks of tokens."""
