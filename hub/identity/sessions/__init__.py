"""Sessions: logins with their refresh tokens, those that clients keep, when they were last seen,
how fast they may be tried, and their sweeping.
"""
