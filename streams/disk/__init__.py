"""What the embedded log needs to know of its file: checksums, and whether the file is whole."""
