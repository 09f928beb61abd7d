"""Data that is already tokenised, in the formats of other trainers."""
