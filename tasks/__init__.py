"""What Celery may run: thin doors over the use cases of `worker`."""
