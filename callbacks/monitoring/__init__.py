"""What a run shows while it trains and when it is evaluated."""
