"""How to score and how to learn: one file or folder per method, in the folder of its role."""
