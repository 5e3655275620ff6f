"""What numba compiles, by the module that calls it.

Each is imported where it is called: numba takes half a second, and most commands only look at a store.
"""
