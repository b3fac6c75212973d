"""What a feature store holds: its views, how fresh they are, and what they look like."""
