"""The embedded models: small ones in the formats of the big ones, so that everything runs without a network."""
