"""A real model in pieces, joined and made a Mixture-of-Experts checkpoint. See README.md."""
