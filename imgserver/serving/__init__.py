"""The daemon: the service, its misses, health, and the process around them."""
