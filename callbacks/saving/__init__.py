"""Callbacks that save more than the mixture: averaged weights, checkpoints, scores of samples."""
