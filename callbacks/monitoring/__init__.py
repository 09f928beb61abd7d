"""Callbacks that show what a run does, while it trains and when it is evaluated."""
