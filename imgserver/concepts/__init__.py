"""Concepts of a photo: a head whose numbers have names, learnt from stored features and a catalogue's own words."""
