"""Pushes a blessed model package: publishes it and gives it a share of a service's traffic."""
