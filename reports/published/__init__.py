"""Published numbers with their source, what they are matched with, and verdicts."""
