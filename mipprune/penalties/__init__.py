"""A term over all groups of a network at once."""
