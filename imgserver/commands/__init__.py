"""The commands of the image server, by what they work on."""
