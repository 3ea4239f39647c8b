"""What runs handlers: coroutines, threads, processes."""
