"""Layers that backbones are made of, and a task's model around a backbone."""
