"""Signing in through identity providers (OpenID Connect), and the users that they know."""
