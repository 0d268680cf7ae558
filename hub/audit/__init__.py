"""The audit trail: what was done to whom by whom, in one transaction with the deed."""
