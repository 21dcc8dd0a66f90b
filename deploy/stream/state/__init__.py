"""What a display may show now: frames, masks, their age, and delays."""
