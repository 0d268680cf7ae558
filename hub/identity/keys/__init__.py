"""Actors that are programs: API keys, and the service accounts that come in by them."""
