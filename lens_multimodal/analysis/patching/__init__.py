"""Activation patching over many cells, and its first-order estimate."""
