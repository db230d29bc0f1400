"""Sizes and times as people read them."""


def size(num_bytes: float) -> str:
    """Bytes, as MB or GB."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def duration(seconds: float) -> str:
    """Seconds, as s, min or h."""
    minutes, hours = seconds / 60, seconds / 3600
    if hours >= 2:
        return f"{hours:.1f} h"
    return f"{minutes:.1f} min" if minutes >= 2 else f"{seconds:.0f} s"
