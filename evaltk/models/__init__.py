"""Nets and heads, built from an Arch and from tensors."""
