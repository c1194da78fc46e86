"""Exact pruning of small ReLU networks: select units, or train and select at once."""
