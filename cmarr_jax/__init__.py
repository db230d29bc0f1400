"""Emotion recognition from text, speech and video when some of them are missing."""
