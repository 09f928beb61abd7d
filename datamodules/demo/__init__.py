"""Data that every installation has: text of installed packages, tasks made from it, digits."""
