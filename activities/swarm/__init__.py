"""What a swarm's activities do: its settings, its board's files, what lands in `tasks/`."""
