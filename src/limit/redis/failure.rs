//! [`Failure`]: a call to Redis that failed, with its cause.

use std::error::Error;
use std::io;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};
use tokio::task::JoinError;

use crate::limit::redis::fault::RedisFault;
use crate::limit::redis::rights;

/// A call that failed.
#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) fault: RedisFault,
    /// The number of failures that it counts as for the breaker.
    pub(super) weight: u32,
    /// Only this budget or its slot is affected, so that it does not count for the breaker.
    pub(super) is_of_one_key: bool,
    /// For the log: the missing right, or why there is no connection. Without addresses, secrets
    /// and keys, but a TLS error may name the host.
    pub(super) detail: Option<Arc<str>>,
    pub(super) source: Option<RedisError>,
}

impl Failure {
    pub(super) fn new(fault: RedisFault) -> Self {
        Self {
            fault,
            weight: 1,
            is_of_one_key: fault.is_of_one_key(),
            detail: None,
            source: None,
        }
    }

    /// The failure of a command.
    pub(super) fn of(error: RedisError) -> Self {
        let text = error.detail().unwrap_or_default();
        let fault = RedisFault::of(&error);
        let mut failure = Self::new(fault);
        // With `cluster-require-full-coverage no`, a node goes on serving the other slots.
        failure.is_of_one_key |=
            fault == RedisFault::ClusterDown && text.contains("slot not served");
        failure.detail = rights::missing_right(text).map(Into::into);
        failure.source = Some(error);
        failure
    }

    /// The failure to open a connection.
    pub(super) fn of_opening(error: RedisError) -> Self {
        let io = error
            .source()
            .and_then(|source| source.downcast_ref::<Arc<dyn Error + Send + Sync>>())
            .and_then(|source| source.downcast_ref::<io::Error>());
        // rustls and native TLS report a handshake that failed like that.
        let is_tls = io.is_some_and(|error| {
            error.kind() == io::ErrorKind::InvalidData && error.get_ref().is_some()
        });
        let text: Option<Arc<str>> = match error.kind() {
            ErrorKind::Io => Some(error.to_string().into()),
            ErrorKind::Server(_) | ErrorKind::InvalidClientConfig => error.detail().map(Into::into),
            _ => None,
        };
        let mut failure = Self::of(error);
        if is_tls {
            failure.fault = RedisFault::Tls;
        }
        if failure.detail.is_none() && failure.fault != RedisFault::Unauthenticated {
            failure.detail = text;
        }
        failure.is_of_one_key = false;
        failure
    }

    /// The failure of the task that opens a connection, such as a panic because there is no
    /// provider of cryptography for TLS.
    pub(super) fn of_task(error: JoinError) -> Self {
        let mut failure = Self::new(RedisFault::Unreachable);
        failure.detail = Some(match error.try_into_panic() {
            Ok(panic) => match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
                (Some(text), _) => (*text).into(),
                (_, Some(text)) => text.trim().into(),
                _ => "the task that opens the connection has panicked".into(),
            },
            Err(_) => "the runtime was shut down".into(),
        });
        failure
    }

    pub(super) const fn weighing(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }
}
