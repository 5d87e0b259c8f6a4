"""What models learn by: losses, metrics, optimizers, schedules."""
