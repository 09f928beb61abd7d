"""An agent that sets weights while training, learned from trajectories of finished runs."""
