"""Who someone is, and what they may do at this moment.

A room imports only rooms above it: ``tokens``, ``access``, ``sessions``, ``keys``, ``accounts``,
``factors``, ``providers``.
"""
