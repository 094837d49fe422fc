"""Captions: one sentence of a fixed form per image, and the same facts as columns.

engine_registry -> metadata | qwen | vllm    engines behind `engine_protocol.CaptionEngine`
planner -> batching -> fault_isolation -> validators      from images that lack captions to rows of `captions`
manual_captions                              captions that people wrote
"""
