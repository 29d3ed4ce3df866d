"""Images from jobs."""
