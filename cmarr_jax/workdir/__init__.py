"""A work directory: which config owns it, what lies in it, and whether it is complete."""
