"""People: registering, signing in, passwords, addresses and the letters to them, invitations,
and how an account comes to its end.
"""
