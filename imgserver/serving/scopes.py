"""What a caller's token must allow for each call; a method that is not named here takes the highest scope."""

from __future__ import annotations

from crossmedia.imgserver import wire

# A head is the trainer's own, named by the hash of its weights and never stored: it changes nothing for others, so
# a trainer needs no more than "read". PutImages changes what everybody is served, and stays.
READ = (
    *(wire.GET_INFO, wire.GET_VECTORS, wire.SEARCH, wire.GET_THUMBNAILS, wire.GET_CONCEPTS),
    *(wire.PUT_HEAD, wire.GET_HEAD_GRADIENT, wire.LIST_IMAGES, wire.LIST_VERSIONS),
)
SCOPE_OF = {wire.PUT_IMAGES.path: "write", wire.ACTIVATE_VERSION.path: "admin"} | {
    method.path: "read" for method in READ
}
