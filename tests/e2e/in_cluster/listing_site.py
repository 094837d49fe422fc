"""Runs in a Pod: the gallery under the name of its Service. Arguments: HOST NUM_PER_TAG."""

import sys
import time
from http.server import ThreadingHTTPServer

from emoji_ldm.demo.gallery import Gallery
from emoji_ldm.demo.server import GalleryServer

PORT = 8080
HOST, NUM_PER_TAG = sys.argv[1], int(sys.argv[2])


def bind(self):
    # The gallery is made for loopback. Here other Pods read it, and its links name the Service.
    self.server_address = ("0.0.0.0", PORT)
    ThreadingHTTPServer.server_bind(self)


GalleryServer.server_bind = bind
GalleryServer.url = property(lambda self: f"http://{HOST}")
with Gallery(num_openmoji=0, limit_per_tag=NUM_PER_TAG, slow_s=5, port=PORT):
    print("serving", flush=True)
    time.sleep(86400)
