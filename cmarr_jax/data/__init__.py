"""From a feature pack on disk to padded arrays, folds and conditions. Knows no model."""
