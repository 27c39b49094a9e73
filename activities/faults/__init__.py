"""What goes wrong, by name: one table for agents (`agent.py`), one for projects' gates (`project.py`). Pure."""
