"""External formats of events: the envelope, the digest and the JSON Schemas."""
