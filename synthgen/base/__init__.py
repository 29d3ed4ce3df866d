"""Modules that know nothing of datasets: files, interrupts, YAML, wording, pictures."""
