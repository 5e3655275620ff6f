"""The commands of the trainer, by what they are for. Heavy imports wait until a command runs."""
