"""Which samples make up each batch, and how loaders fetch them."""
