"""Scores as pure functions of arrays; fractions in [0, 1]."""
