"""A work directory: whose it is, what lies in it, and whether it is complete."""
