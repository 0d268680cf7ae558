"""Who someone is: passwords, tokens, login sessions, and the actor that they make."""
