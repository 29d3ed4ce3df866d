"""The report of a run, and its dataset card."""
