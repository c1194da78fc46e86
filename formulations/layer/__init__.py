"""The layer problem: which input groups of a layer to keep, and its forms."""
