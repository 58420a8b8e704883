"""The CoAP bridge: constrained devices over coaps+tcp and coaps, one resource tree for all."""
