#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

// Words: values without I/O.
pub mod clock;
mod config;
pub mod credential;
pub mod identity;
pub mod network;
mod origin;
pub mod problem;
pub mod rejection;
pub mod restriction;
pub mod scope;

// Engine.
pub mod body;
mod context;
pub mod drain;
mod gate;
mod grpc;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
mod json;
pub mod lapse;
pub mod pending;
mod rejection_log;
mod render;
pub mod respond;
mod sync;
mod tally;
mod timeout;
mod tollgate;

// Sources of truth.
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
pub mod jwks;
pub mod keys;

// Gates.
pub mod auth;
pub mod authorize;
pub mod limit;

// Observers: see every outcome, refuse nothing.
pub mod audit;
pub mod usage;

// Edge.
#[cfg(feature = "axum")]
mod axum;
pub mod guide;
#[cfg(feature = "test-util")]
pub mod testing;
#[cfg(feature = "tonic")]
pub mod tonic;

pub use auth::AuthLayer;
#[cfg(any(feature = "jwt", feature = "jwt-rust-crypto"))]
pub use auth::jwt::Jwt;
pub use authorize::{RequireLayer, role, scope};
#[cfg(feature = "axum")]
pub use axum::Claims;
pub use config::ConfigError;
pub use gate::{Gate, Policies, PoliciesFor, ResponseFuture};
pub use identity::Identity;
pub use keys::ApiKeys;
pub use limit::{Quota, RateLimitLayer};
pub use rejection::Rejection;
pub use tollgate::Tollgate;
pub use usage::UsageLayer;

#[cfg(test)]
mod vectors;
