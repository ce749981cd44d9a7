"""An encoder in the form of other libraries: each form is written, and read back, by its own."""
