"""Prototypes of a projection head: duplicates, the void set, and the mixture of von Mises-Fisher distributions."""
