"""What a person sees in a terminal: rows, where they go, and the keys that come back."""
