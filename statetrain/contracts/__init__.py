"""What components declare that they read and write, and what follows from it: data flow, order, debug mode, outline."""
