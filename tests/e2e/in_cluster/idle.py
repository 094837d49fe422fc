"""Runs in a Pod: nothing."""

import time

time.sleep(86400)
