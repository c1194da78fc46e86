"""Pruning methods: one file each."""
