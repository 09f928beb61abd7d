"""Domains for data without labels: documents are embedded and clustered, see README.md."""
