"""Fixtures (see the functions)."""
