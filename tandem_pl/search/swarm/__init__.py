"""Small runs on many mixtures, the rows of the table that `tandem search fit` reads."""
