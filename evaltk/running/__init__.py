"""From a plan to results: what is to run, what it would take, and running it."""
