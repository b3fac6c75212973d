"""Stops a run where a step before refused; KFP keeps what that step wrote, for it succeeded."""
