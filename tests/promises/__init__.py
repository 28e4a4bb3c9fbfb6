"""What holds for the whole house, whatever happens: crashes, walks, sinks, deputies."""
