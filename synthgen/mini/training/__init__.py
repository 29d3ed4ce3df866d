"""The training of the embedded models on composed scenes, and the scores of what was trained."""
