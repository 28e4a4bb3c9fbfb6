"""The stand-ins next door, and what a person starts there."""
