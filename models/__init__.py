"""What is trained: configuration, data, networks, optimizers, schedules and the training of one segment."""
