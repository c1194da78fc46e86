"""Typed settings of every command, recipes, and key=value overrides."""
