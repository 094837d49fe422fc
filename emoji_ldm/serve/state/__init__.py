"""What the HTTP layer keeps in the store beside jobs: linked images, repeated requests, what keys have used."""
