"""The encoders, as linen modules that load published weights."""
