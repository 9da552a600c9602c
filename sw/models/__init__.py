"""Networks that the project knows: built and trained here, or read from published weights."""
