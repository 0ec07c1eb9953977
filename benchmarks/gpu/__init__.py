"""Benchmarks for a card, each with its share of what the card reaches in the same call (`make gpu`)."""
