"""What a daemon is apart from images: callers, admission, security, tracing."""
