"""Curvature moved from the loss into the terms, and how much of it."""
