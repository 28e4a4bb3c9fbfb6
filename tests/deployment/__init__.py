"""The template, its role, the build, and the function under Lambda's own runtime."""
