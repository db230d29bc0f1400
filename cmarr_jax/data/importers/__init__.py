"""From the feature archives of other toolkits to a feature pack; see `__main__` for the command."""
