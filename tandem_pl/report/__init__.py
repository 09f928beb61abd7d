"""`tandem report`: one page on a run."""
