"""The machine: its processes, memory, disks and signals. Knows nothing of emotion."""
