"""`kelip benchmark gpu`: every part of the project that only a GPU can check, each in a process of its own."""
