"""Failure: what stops a start, in words for the person who started it."""


class Failure(Exception):
    """Something is missing or went wrong; the message says what, and what to do about it."""
