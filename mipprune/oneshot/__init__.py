"""Pruning without training, and certificates of what it kept."""
