//! [`UsageSink`]: where records go, and those that are supplied.

use std::error::Error as StdError;
use std::fmt;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::io::{self, Write};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::mpsc;

use crate::usage::record::Record;

/// Takes records in batches, away from the requests: see [`Buffer`](crate::usage::Buffer).
///
/// # What a wrong answer costs
/// An `Ok` for what was not kept is usage that nobody ever hears of; an `Err` for what was
/// kept is usage that is seen twice, under the same [`Record::id`].
pub trait UsageSink: Send + Sync + 'static {
    /// Takes all of a batch or none. What is refused is offered again, the same batch, until
    /// it is taken; after a panic and after too long a time, too.
    ///
    /// # Cancellation
    /// The future is dropped when it takes too long, or the process has no time left.
    fn deliver(&self, batch: &[Record]) -> impl Future<Output = Result<(), SinkError>> + Send;
}

impl<K: UsageSink> UsageSink for Arc<K> {
    fn deliver(&self, batch: &[Record]) -> impl Future<Output = Result<(), SinkError>> + Send {
        (**self).deliver(batch)
    }
}

/// A sink has not taken a batch. What the source says is written to the log, so it must have
/// no password of a connection in it.
#[derive(Clone, Debug)]
pub struct SinkError {
    source: Arc<dyn StdError + Send + Sync>,
    pub(super) is_final: bool,
}

impl SinkError {
    /// The sink may take it later.
    pub fn unavailable(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            source: source.into().into(),
            is_final: false,
        }
    }

    /// The sink will never take it: the batch is lost, and counted as that.
    pub fn rejected(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self {
            is_final: true,
            ..Self::unavailable(source)
        }
    }

    /// What the sink said, for the log.
    pub(super) fn reason(&self) -> String {
        self.source.to_string()
    }
}

impl fmt::Display for SinkError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_final {
            "the sink will not take these records"
        } else {
            "the sink is unavailable"
        })
    }
}

impl StdError for SinkError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&*self.source)
    }
}

/// A sink that is the sending end of a channel, for batches. Make it with
/// [`ChannelSink::new`].
///
/// A batch that is in the channel counts as delivered; what was not received when the process
/// ends is lost.
#[derive(Clone, Debug)]
pub struct ChannelSink(mpsc::Sender<Vec<Record>>);

impl ChannelSink {
    /// The sink, with the end to receive from. There is room for so many batches.
    ///
    /// # Panics
    /// If there is room for none.
    #[must_use]
    #[track_caller]
    pub fn new(batches: usize) -> (Self, mpsc::Receiver<Vec<Record>>) {
        let (sender, receiver) = mpsc::channel(batches);
        (Self(sender), receiver)
    }
}

impl UsageSink for ChannelSink {
    async fn deliver(&self, batch: &[Record]) -> Result<(), SinkError> {
        let sent = self.0.send(batch.to_vec()).await;
        sent.map_err(|_| SinkError::rejected("nobody receives any more"))
    }
}

/// A sink that makes an event of each record, at the level `INFO`, under the target
/// `tollgate::usage`.
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

impl UsageSink for TracingSink {
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

/// A sink that appends a line of JSON for each record to a file.
///
/// A batch counts as delivered when the operating system has it. What a crash in the midst of
/// a batch leaves is a line that does not parse, and the batch again behind it.
#[derive(Clone, Debug)]
pub struct JsonLinesSink(Arc<Mutex<Lines>>);

#[derive(Debug)]
struct Lines {
    file: File,
    /// The last line may not have its end.
    is_torn: bool,
}

impl JsonLinesSink {
    /// Appends to a file, which is made if it is not there.
    ///
    /// # Errors
    /// If it cannot be opened.
    pub fn append(path: impl AsRef<Path>) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let is_torn = file.metadata()?.len() > 0;
        Ok(Self(Arc::new(Mutex::new(Lines { file, is_torn }))))
    }
}

impl UsageSink for JsonLinesSink {
    async fn deliver(&self, batch: &[Record]) -> Result<(), SinkError> {
        let mut text = Vec::with_capacity(batch.len() * 512);
        for record in batch {
            serde_json::to_writer(&mut text, record).map_err(SinkError::rejected)?;
            text.push(b'\n');
        }
        let lines = Arc::clone(&self.0);
        let written = tokio::task::spawn_blocking(move || lines.lock().write(&text)).await;
        let written = written.map_err(SinkError::unavailable)?;
        written.map_err(SinkError::unavailable)
    }
}

impl Lines {
    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        if self.is_torn {
            // An empty line is none; without it, a torn one would take ours with it.
            self.file.write_all(b"\n")?;
        }
        self.is_torn = true;
        self.file.write_all(text)?;
        self.is_torn = false;
        Ok(())
    }
}
