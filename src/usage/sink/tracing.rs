//! [`TracingSink`]: a sink that is the log.

use crate::audit::Event;
use crate::rejection::Rejection;
use crate::usage::record::{Record, seconds};
use crate::usage::sink::{Sink, SinkError};

/// A sink that makes an event of each item, at the level `INFO`: of records, under the target
/// `tollgate::usage`; of audit events, under `tollgate::audit`.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct TracingSink;

impl TracingSink {
    /// The sink.
    #[must_use]
    pub const fn new() -> Self {
        Self
    }
}

impl Sink<Record> for TracingSink {
    async fn deliver(&self, batch: &[Record]) -> Result<(), SinkError> {
        for record in batch {
            let principal = record.principal();
            tracing::info!(
                target: "tollgate::usage",
                id = %record.id(),
                requests = record.requests(),
                source = principal.map(|principal| principal.source()),
                tenant = principal.and_then(|principal| principal.tenant()),
                subject = principal.map(|principal| principal.subject()),
                route = record.route(),
                method = record.method().as_str(),
                status = record.status().map(|status| status.as_u16()),
                grpc_status = record.grpc_status(),
                refusal = record.refusal().map(|reason| reason.code()),
                end = record.end().as_str(),
                bytes_in = record.bytes_in(),
                bytes_out = record.bytes_out(),
                seconds = record.time_to_end().as_secs_f64(),
                "usage",
            );
        }
        Ok(())
    }
}

impl Sink<Event> for TracingSink {
    async fn deliver(&self, batch: &[Event]) -> Result<(), SinkError> {
        for event in batch {
            let (principal, rejection) = (event.principal(), event.rejection());
            let scopes = rejection.and_then(Rejection::required_scopes);
            let quotas = rejection.map(|rejection| rejection.violated_quotas().collect());
            let quotas = quotas.filter(|quotas: &Vec<_>| !quotas.is_empty());
            tracing::info!(
                target: "tollgate::audit",
                id = %event.id(),
                times = event.times(),
                event = event.kind().as_str(),
                source = principal.map(|principal| principal.source()),
                tenant = principal.and_then(|principal| principal.tenant()),
                subject = principal.map(|principal| principal.subject()),
                credential_id = event.credential_id(),
                client = event.client().map(tracing::field::display),
                method = event.method().map(|method| method.as_str()),
                route = event.route(),
                refusal = rejection.map(|rejection| rejection.reason().code()),
                cause = rejection.map(|rejection| rejection.cause().as_str()),
                request_id = rejection.and_then(Rejection::request_id),
                required_scopes = scopes.map(|scopes| scopes.as_str()),
                violated_quotas = quotas.map(|quotas| quotas.join(" ")),
                successor = event.successor().map(tracing::field::display),
                until = event.until().map(seconds),
                "audit",
            );
        }
        Ok(())
    }
}
