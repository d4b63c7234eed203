"""What a walk consists of beside the loop: where it stands, its steps, what guards answered, its last transitions, signals."""
