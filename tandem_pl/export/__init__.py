"""`tandem export`: mixtures and networks for other programs."""
