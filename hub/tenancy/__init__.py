"""Tenants: how they begin and end, what they settle for themselves, and who belongs to them."""
