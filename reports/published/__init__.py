"""Published numbers with their sources, matching with our results, and verdicts."""
