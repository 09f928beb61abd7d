"""What a run keeps beside its mixture."""
