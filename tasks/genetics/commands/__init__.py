"""The commands of `axoloci-genetics`, one module each."""
