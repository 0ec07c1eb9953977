"""What Python users call: evaluate a net in memory or a checkpoint, extract features, hold results."""
