"""Says what is missing, on this machine or on a cluster, and which file brings it."""
