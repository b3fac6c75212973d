"""retrieve: point-in-time correct training, validation and test sets."""
