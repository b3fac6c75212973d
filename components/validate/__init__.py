"""validate: rows that keep a data contract, and those that break it, with the reasons."""
