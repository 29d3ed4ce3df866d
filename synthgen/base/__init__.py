"""What knows nothing of datasets: files, interrupts, YAML, words, pictures."""
