"""What is seen of a running link: pace, readings, whether it is ready, metrics."""
