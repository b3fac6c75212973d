"""rollout: a canary taken step by step to all of the traffic, or back."""
