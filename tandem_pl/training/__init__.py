"""Modules that train one network or twins, and what they are made of."""
