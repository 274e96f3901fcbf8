"""What the container image is made of, and how it is built."""
