"""Clients of others against our service: OpenAI's for TypeScript, LiteLLM, and the fuzzer Schemathesis.

They are no dependencies of the project. The tests skip themselves unless EMOJI_LDM_CLIENTS names a folder with them:

    python -m venv $EMOJI_LDM_CLIENTS/venv && $EMOJI_LDM_CLIENTS/venv/bin/pip install litellm schemathesis
    npm install --prefix $EMOJI_LDM_CLIENTS openai
"""
