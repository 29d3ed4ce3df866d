"""synthgen: a YAML dataset spec in, a labelled, filtered COCO dataset and a report out."""

__version__ = "0.1.0"
