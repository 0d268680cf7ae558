"""How much anybody may ask for: rates, and what is kept so that it need not be asked for again."""
