"""A trained model as one file that runs without this project's code, and how it is read."""
