"""What runs inside of a sandbox. Standard library only; the modules are compiled outside and handed in (`shipping`)."""
