//! What the crate promises, checked from outside: one binary, a module a subject.

mod activity;
mod audit;
mod audit_kinds;
mod authorization;
mod budgets;
mod cache;
mod carriers;
mod claims;
mod client_ip;
mod conformance;
mod contract;
mod cross_site;
mod drain;
mod examples;
mod failure_limit;
mod garbling;
#[cfg(feature = "tonic")]
mod greeter;
#[cfg(feature = "tonic")]
mod grpc;
mod headers;
mod issuer_config;
mod jwt_attacks;
mod key_events;
mod key_format;
mod key_hooks;
mod key_lookups;
mod key_owners;
mod key_sets;
mod key_updates;
mod keys;
mod lapse;
mod leaks;
mod lifecycle;
mod limit_headers;
mod limits;
#[cfg(feature = "jwks")]
mod mcp;
#[cfg(all(feature = "metrics", feature = "opentelemetry"))]
mod metrics;
#[cfg(all(feature = "metrics", feature = "opentelemetry"))]
mod metrics_otel;
mod on_axum;
mod paper;
mod printed;
mod query;
#[cfg(feature = "redis")]
mod redis;
mod refusals;
mod regressions;
mod rejection_log;
mod remote_keys;
mod resource;
mod restrictions;
mod rotation;
mod rules;
mod schemes;
#[cfg(unix)]
mod scripts;
#[cfg(feature = "tonic")]
mod servers;
mod setting_errors;
mod shared_limiters;
mod structured;
mod support;
mod tidy;
#[cfg(feature = "tonic-tls")]
mod tls;
mod tokens;
mod tools;
mod transport;
mod usage;
mod usage_files;
#[cfg(feature = "tonic")]
mod usage_of_calls;
mod usage_queues;
mod usage_refusals;
mod usage_sinks;
mod usage_sums;
mod usage_totals;
