"""The embedded models: small, in the formats of the big ones, so that everything runs with no network."""
