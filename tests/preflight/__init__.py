"""The wing that only looks: its findings, and every breakage that it has to name."""
