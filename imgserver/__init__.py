"""The image server: photos in, cached low-dimensional vectors out, keyed by image id.

``imgserver.client`` is all a trainer needs and imports no torch; everything else belongs to the server.
"""
