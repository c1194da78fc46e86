"""What of a network lives and dies together, what it costs, and its removal."""
