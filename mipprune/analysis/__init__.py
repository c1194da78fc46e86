"""What a network is worth, where it lies, and other forms of it."""
