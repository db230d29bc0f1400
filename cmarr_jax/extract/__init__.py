"""From the official release of a corpus to a feature pack."""
