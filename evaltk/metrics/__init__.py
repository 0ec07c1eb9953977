"""Metrics as pure functions of arrays; fractions in [0, 1] unless stated otherwise."""
