"""What is seen of requests: metrics, logs, traces, and the log of predictions."""
