"""A spec's stages, what each depends on, and how they are carried out in a run folder."""
