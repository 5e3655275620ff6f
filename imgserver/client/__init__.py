"""Fetch image vectors by id: ``ImageClient`` is policy, a ``Transport`` carries single calls.

ImageClient     de-duplicates, splits by owner and size, keeps order, retries under one deadline, counts misses
  GrpcTransport   a daemon at an address
  LocalTransport  a service in this process
  MockTransport   vectors from a dictionary, for tests
ClientSecurity  TLS and token of the connections
HeadServers     vectors and gradients of a head that learns, through servers that each own a part of the images
"""

from crossmedia.imgserver.client.client import ImageClient
from crossmedia.imgserver.client.head_servers import HeadServers
from crossmedia.imgserver.client.listing import HeldVersion, HeldVersions, ListedImages
from crossmedia.imgserver.client.mock import MockTransport
from crossmedia.imgserver.client.results import FetchStats, Neighbours, Vectors
from crossmedia.imgserver.client.security import ClientSecurity
from crossmedia.imgserver.client.server_info import ServerInfo
from crossmedia.imgserver.client.transports import GrpcTransport, LocalTransport, Transport
from crossmedia.status import Status

__all__ = [
    "ClientSecurity",
    "FetchStats",
    "GrpcTransport",
    "HeadServers",
    "HeldVersion",
    "HeldVersions",
    "ImageClient",
    "ListedImages",
    "LocalTransport",
    "MockTransport",
    "Neighbours",
    "ServerInfo",
    "Status",
    "Transport",
    "Vectors",
]
