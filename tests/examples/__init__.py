"""What applications copy, through real rotations."""
