"""Pages for people who look at a catalogue, its vectors and its server, in a browser of this machine."""
