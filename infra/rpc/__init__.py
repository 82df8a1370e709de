"""Calls between the processes: the server, its tokens and statuses, and the client with its breaker and coalescing."""
