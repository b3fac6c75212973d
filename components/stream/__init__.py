"""stream: events in, the batch path's own features out, online at once and offline soon after."""
