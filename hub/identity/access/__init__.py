"""What somebody may do in a tenant at this moment: roles and groups, who has them, and what is
shared; the authority that says so on every node, and the watches that tell when it changes.
"""
