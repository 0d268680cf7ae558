"""What is shown to the hub and what it is made with: access tokens and the ring of keys that
sign them, API keys as text; and the seal of what the hub must be able to read again.
"""
