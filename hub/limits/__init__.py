"""How much anybody may have: rates, quotas and budgets, what was used, and what is kept so that it
need not be asked for again.
"""
