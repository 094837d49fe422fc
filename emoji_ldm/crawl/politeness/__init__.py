"""Politeness: whether, when and at which address a URL may be requested.

    url_normalize  one spelling per URL                        host_slots           concurrency and pauses of one host
    robots         robots.txt and Crawl-delay of an origin     rate_limiter         one admission control per crawl
    http_session   connections to checked addresses only       rate_limiter_client  its client in each worker

Every request passes the rate limiter, which knows the rules of its origin, and the address check of its connection.
"""
