"""Random requests made from the OpenAPI text of an application: valid ones, and all the ways in which they are not.

Every request is decided by a seed, so that a failure can be sent again.
"""

import io
import json
import random
import string

from PIL import Image

TEXTS = ("", " ", "a", "a cat", "\0", "\ud800", "é" * 300, "a" * 5000, "../..", "%00", "64x64", "1e999", "-0", "null",
         "{prompt}", "alias:best", "s3://x/y", "https://example.org", "\u202e", "🐱🐶", "b64_json", "url")  # fmt: skip
NUMBERS = (0, 1, -1, 2, 3, 10, 64, 201, 2**31, 2**63 - 1, 2**63, 10**30, 0.5, -0.0, 1e308, 1e-308)
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


class RequestFuzzer:
    """Makes requests to one application."""

    def __init__(self, openapi, known_ids=()):
        """Take its OpenAPI text, and ids that exist."""
        self.operations = [(path, method, operation) for path, methods in openapi["paths"].items()
                           for method, operation in methods.items()]  # fmt: skip
        self.schemas, self.known_ids = openapi.get("components", {}).get("schemas", {}), list(known_ids)

    def request(self, seed):
        """Return method, path and options of a request, for httpx."""
        rng = random.Random(seed)
        path, method, operation = rng.choice(self.operations)
        # More requests to the routes with bodies, which have the most to get wrong.
        if "requestBody" not in operation and rng.random() < 0.6:
            path, method, operation = rng.choice([each for each in self.operations if "requestBody" in each[2]])
        query, headers = {}, {}
        for parameter in operation.get("parameters", ()):
            value = rng.choice([*self.known_ids, *TEXTS, "1", "x"]) if rng.random() < 0.7 else self.value(rng, {})
            if parameter["in"] == "path":
                path = path.replace(f"{{{parameter['name']}}}", escaped(str(value)) or "x")
            elif parameter["in"] == "query" and rng.random() < 0.5:
                query[parameter["name"]] = printable(value)
            elif parameter["in"] == "header" and rng.random() < 0.2:
                headers[parameter["name"]] = "".join(rng.choices(string.ascii_letters, k=rng.choice((1, 8, 300))))
        if rng.random() < 0.1:
            headers["range"] = rng.choice(("bytes=0-", "bytes=5-2", "bytes=-5", "x", "bytes=999999999999-"))
        return method.upper(), path, {"params": query, "headers": headers} | self.body(rng, operation)

    def body(self, rng, operation):
        """Return the options that send a body of one of the operation's media types, or of another."""
        content = operation.get("requestBody", {}).get("content", {})
        if not content:
            return {}
        kind = rng.choice([*content, *content, "application/json", "text/plain"])
        schema = content.get(kind, {}).get("schema", {})
        example = content.get(kind, {}).get("example")
        if kind == "multipart/form-data":
            return self.form(rng, schema)
        values = dict(example) if example and rng.random() < 0.5 else self.value(rng, schema)
        if isinstance(values, dict):
            values = self.mutated(rng, values, schema)
        data = json.dumps(values).encode(errors="replace")
        if kind not in ("application/json", "text/plain"):
            data = b"\n".join(data for _ in range(rng.randrange(4)))
        if rng.random() < 0.2:
            data = broken(rng, data)
        return {"content": data, "headers": {"content-type": kind}}

    def form(self, rng, schema):
        fields, files = {}, []
        for name, field in schema.get("properties", {}).items():
            is_file = field.get("format") == "binary" or field.get("items", {}).get("format") == "binary"
            if is_file:
                for _ in range(rng.choice((0, 1, 1, 1, 2))):
                    files.append((name, (rng.choice(("a.png", "../x", "", "é.jpg")), image_bytes(rng))))
            elif rng.random() < (0.9 if name in schema.get("required", ()) else 0.15):
                fields[name] = printable(self.value(rng, field))
        return {"data": fields, "files": files or [("image", ("a.png", b""))]}

    def mutated(self, rng, values, schema):
        for _ in range(rng.choice((0, 0, 1, 1, 2, 4))):
            name = rng.choice([*values, *schema.get("properties", {}), "unknown", "prompt"])
            if rng.random() < 0.3:
                values.pop(name, None)
            else:
                values[name] = self.value(rng, schema.get("properties", {}).get(name, {}))
        return values

    def value(self, rng, schema, depth=0):
        """Return a value of a schema, or of another type."""
        if "$ref" in schema:
            schema = self.schemas.get(schema["$ref"].rpartition("/")[2], {})
        if "anyOf" in schema:
            schema = rng.choice(schema["anyOf"])
        if schema.get("enum") and rng.random() < 0.8:
            return rng.choice(schema["enum"])
        kind = schema.get("type") if rng.random() < 0.85 else None
        kind = kind or rng.choice(("string", "integer", "number", "boolean", "null", "array", "object"))
        if kind == "object":
            fields = schema.get("properties", {"a": {}})
            required = schema.get("required", ())
            return {name: self.value(rng, field, depth + 1) for name, field in fields.items()
                    if name in required or rng.random() < 0.2} if depth < 4 else {}  # fmt: skip
        if kind == "array":
            items = schema.get("items", {})
            return [self.value(rng, items, depth + 1) for _ in range(rng.choice((0, 1, 2, 9)))] if depth < 4 else []
        if kind == "string":
            return rng.choice([*TEXTS, *self.known_ids])
        if kind in ("integer", "number"):
            number = rng.choice(NUMBERS)
            return int(number) if kind == "integer" and abs(number) < 2**70 else number
        return rng.choice((True, False)) if kind == "boolean" else None


def broken(rng, data):
    """Bytes that are a little wrong: some flipped, cut, repeated or inserted."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 3, 20))):
        at = rng.randrange(len(data) + 1)
        match rng.randrange(4):
            case 0:
                data[at : at + 1] = bytes([rng.randrange(256)])
            case 1:
                del data[at : at + rng.choice((1, 10, 1000))]
            case 2:
                data[at:at] = bytes(rng.choices(range(256), k=rng.choice((1, 4, 100))))
            case 3:
                data[at:at] = data[max(0, at - 50) : at]
    return bytes(data)


def image_bytes(rng):
    """An image file, often broken."""
    mode, kind = rng.choice(("RGBA", "RGB", "L", "1", "P", "CMYK", "LA", "I;16")), rng.choice(FORMATS)
    sides = rng.choice((1, 8, 16, 33, 64)), rng.choice((1, 8, 16, 33, 64))
    stream = io.BytesIO()
    try:
        Image.frombytes("L", sides, rng.randbytes(sides[0] * sides[1])).convert(mode).save(stream, kind)
    except (OSError, ValueError, KeyError):
        return rng.randbytes(rng.choice((0, 10, 3000)))
    return broken(rng, stream.getvalue()) if rng.random() < 0.6 else stream.getvalue()


def printable(value):
    """A form field or query parameter: text that UTF-8 can write."""
    return str(value).encode(errors="replace").decode()


def escaped(text):
    return "".join(f"%{byte:02x}" for byte in text.encode(errors="replace"))
