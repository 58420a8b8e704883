"""The CoAP bridge in this process: transports, resources, abuse."""
