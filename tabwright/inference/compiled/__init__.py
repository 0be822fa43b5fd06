"""What predictions compute in C, where the extension module was built."""
