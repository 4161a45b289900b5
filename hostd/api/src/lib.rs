//! HTTP front door: the Lambda REST API, plain HTTP invocation and health.
