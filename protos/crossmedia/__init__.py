"""The wire contract of CrossMedia and the stubs generated from it."""
