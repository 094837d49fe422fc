"""Politeness: whether, when and at which address a URL may be requested.

    ssrf_guard     which addresses may be connected to         host_slots           concurrency and pauses of one host
    url_normalize  one spelling per URL                        rate_limiter         one admission control per crawl
    robots         parsing and matching of robots.txt          rate_limiter_client  its client in each worker
    robots_fetcher robots.txt and Crawl-delay of an origin     http_session         connections with these rules

Every request passes the rate limiter, which knows the rules of its origin, and the address check of its connection.
"""
