"""Rows and texts of files, saved datasets and the hub."""
