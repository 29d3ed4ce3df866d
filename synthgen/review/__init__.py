"""Review of labels in the browser."""
