"""Training of the embedded models on composed scenes, and scores of the trained models."""
