"""The runs of a dataset, one beside the other, and merged."""
