"""synthgen: a YAML dataset spec in, a labelled, filtered dataset and a report out."""

__version__ = "0.1.0"
