"""What a reader is told is what the program does."""
