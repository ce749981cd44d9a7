"""What publishing needs beside the forms themselves: the check of each, and the model card."""
