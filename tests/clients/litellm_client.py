"""LiteLLM against the service at argv[1]; prints what it got as JSON. Runs in an environment of its own."""

import json
import sys

import litellm

url = f"{sys.argv[1]}/v1"
drawn = litellm.image_generation(model="openai/demo-1", prompt="a cat", n=2, api_base=url, api_key="none", seed=7,
                                 extra_body={"num_inference_steps": 9})  # fmt: skip
found = {"images": len(drawn.data), "first": drawn.data[0]["b64_json"][:8]}
try:
    litellm.image_generation(model="openai/nobody", prompt="a", api_base=url, api_key="none", num_retries=0)
except litellm.NotFoundError as error:
    found["missing"] = type(error).__name__
try:
    litellm.image_generation(model="openai/demo-1", prompt="", api_base=url, api_key="none", num_retries=0)
except litellm.BadRequestError as error:
    found["refused"] = type(error).__name__
print(json.dumps(found))
