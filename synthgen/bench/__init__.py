"""What a whole run costs beside the bare models."""
