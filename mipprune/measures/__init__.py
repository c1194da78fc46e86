"""What a network is worth and what it costs: accuracy, MACs, parameters, latency."""
