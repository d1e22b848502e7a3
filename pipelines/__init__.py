"""What a user runs: the `regatta` command and the stages behind it."""
