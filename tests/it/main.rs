//! What the crate promises, checked from outside: one binary, a module a subject.

#![allow(
    clippy::duplicate_mod,
    reason = "the tests of stacks run with each form of a stack"
)]

mod cache;
mod carriers;
mod conformance;
mod cross_site;
mod drain;
mod examples;
mod garbling;
#[cfg(feature = "tonic")]
mod greeter;
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
#[cfg(feature = "jwks")]
mod mcp;
mod on_axum;
mod paper;
mod printed;
mod query;
#[cfg(feature = "redis")]
mod redis;
mod remote_keys;
mod resource;
mod restrictions;
mod rotation;
mod schemes;
#[cfg(unix)]
mod scripts;
mod setting_errors;
mod shared_limiters;
mod stack;
mod structured;
mod support;
mod tidy;
#[cfg(feature = "tonic-tls")]
mod tls;
mod tokens;
mod tools;
mod usage_files;
mod usage_queues;
mod usage_sinks;
mod usage_totals;

/// The tests of stacks, with each form of a stack.
macro_rules! forms {
    ($($(#[$doc:meta])* $form:ident: $builder:path,)+) => {$(
        $(#[$doc])*
        #[path = "."]
        mod $form {
            use $builder as ServiceBuilder;

            #[path = "activity.rs"]
            pub(crate) mod activity;
            #[path = "audit.rs"]
            pub(crate) mod audit;
            #[path = "audit_kinds.rs"]
            pub(crate) mod audit_kinds;
            #[path = "authorization.rs"]
            pub(crate) mod authorization;
            #[path = "budgets.rs"]
            pub(crate) mod budgets;
            #[path = "claims.rs"]
            pub(crate) mod claims;
            #[path = "client_ip.rs"]
            pub(crate) mod client_ip;
            #[path = "contract.rs"]
            pub(crate) mod contract;
            #[path = "failure_limit.rs"]
            pub(crate) mod failure_limit;
            #[cfg(feature = "tonic")]
            #[path = "grpc.rs"]
            pub(crate) mod grpc;
            #[path = "limit_headers.rs"]
            pub(crate) mod limit_headers;
            #[path = "limits.rs"]
            pub(crate) mod limits;
            #[cfg(all(feature = "metrics", feature = "opentelemetry"))]
            #[path = "metrics.rs"]
            pub(crate) mod metrics;
            #[cfg(all(feature = "metrics", feature = "opentelemetry"))]
            #[path = "metrics_otel.rs"]
            pub(crate) mod metrics_otel;
            #[path = "refusals.rs"]
            pub(crate) mod refusals;
            #[path = "regressions.rs"]
            pub(crate) mod regressions;
            #[path = "rejection_log.rs"]
            pub(crate) mod rejection_log;
            #[path = "rules.rs"]
            pub(crate) mod rules;
            #[cfg(feature = "tonic")]
            #[path = "servers.rs"]
            pub(crate) mod servers;
            #[path = "transport.rs"]
            pub(crate) mod transport;
            #[path = "usage.rs"]
            pub(crate) mod usage;
            #[cfg(feature = "tonic")]
            #[path = "usage_of_calls.rs"]
            pub(crate) mod usage_of_calls;
            #[path = "usage_refusals.rs"]
            pub(crate) mod usage_refusals;
            #[path = "usage_sums.rs"]
            pub(crate) mod usage_sums;
        }
    )+};
}

forms! {
    /// Layers that are nested in a `tower::ServiceBuilder`.
    nested: tower::ServiceBuilder,
    /// The same layers in a `Tollgate`.
    stacked: crate::support::StackBuilder,
}
