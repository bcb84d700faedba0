//! [`Link`]: the connection that all questions share.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::Shared;
use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client};
use tokio::runtime::Handle;

use crate::limit::redis::failure::Failure;
use crate::limit::redis::fault::RedisFault;

/// One connection, opened when it is first needed, and another one after it has failed.
///
/// The manager of the `redis` crate would do for what a network does. It keeps a connection
/// to a primary that has become a replica, one that has fallen silent, and the memory of a
/// password that was refused, for ever.
pub(super) struct Link {
    client: Client,
    /// The timeout for opening a connection, apart from the deadline of requests.
    timeout: Duration,
    state: Arc<Mutex<State>>,
}

#[derive(Clone)]
pub(super) struct Connection {
    pub(super) redis: MultiplexedConnection,
    id: u64,
}

#[derive(Default)]
struct State {
    /// Of the last connection.
    id: u64,
    stage: Stage,
}

#[derive(Default)]
enum Stage {
    #[default]
    Closed,
    Opening(Opening),
    Open(MultiplexedConnection),
}

type Opening = Shared<Pin<Box<dyn Future<Output = Result<Connection, Failure>> + Send>>>;

impl Link {
    pub(super) fn new(client: Client, timeout: Duration) -> Self {
        Self {
            client,
            timeout,
            state: Arc::default(),
        }
    }

    /// The connection. Whoever stops waiting for it does not stop it from being opened.
    pub(super) async fn connection(&self) -> Result<Connection, Failure> {
        let (opening, id) = {
            let mut state = self.state.lock();
            match &state.stage {
                Stage::Open(redis) => {
                    return Ok(Connection {
                        redis: redis.clone(),
                        id: state.id,
                    });
                }
                Stage::Opening(opening) => (opening.clone(), state.id),
                Stage::Closed => {
                    state.id += 1;
                    let opening = self.open(state.id)?;
                    state.stage = Stage::Opening(opening.clone());
                    (opening, state.id)
                }
            }
        };
        let opened = opening.await;
        if opened.is_err() {
            // The task may have died with its runtime, and not have said so itself.
            close(&self.state, id);
        }
        opened
    }

    /// Uses another one from now on. Says whether this one was still in use.
    pub(super) fn discard(&self, connection: &Connection) -> bool {
        close(&self.state, connection.id)
    }

    /// Uses another one from now on, but goes on opening if there is none yet.
    pub(super) fn discard_open(&self) {
        let mut state = self.state.lock();
        if matches!(state.stage, Stage::Open(_)) {
            state.stage = Stage::Closed;
        }
    }

    fn open(&self, id: u64) -> Result<Opening, Failure> {
        let runtime = Handle::try_current().map_err(|_| Failure::new(RedisFault::NoRuntime))?;
        let (client, state) = (self.client.clone(), Arc::clone(&self.state));
        let timeout = self.timeout;
        let task = runtime.spawn(async move {
            let config = AsyncConnectionConfig::new()
                .set_pipeline_buffer_size(WAITING)
                .set_connection_timeout(Some(timeout))
                .set_response_timeout(None);
            let opened = client
                .get_multiplexed_async_connection_with_config(&config)
                .await;
            let mut state = state.lock();
            let is_current = state.id == id;
            match opened {
                Ok(redis) => {
                    if is_current {
                        state.stage = Stage::Open(redis.clone());
                    }
                    Ok(Connection { redis, id })
                }
                Err(error) => {
                    if is_current {
                        state.stage = Stage::Closed;
                    }
                    Err(Failure::of_opening(error))
                }
            }
        });
        // It panics on a runtime without I/O, and if rustls has no provider.
        let opened = task.map(|opened| opened.unwrap_or_else(|error| Err(Failure::of_task(error))));
        Ok(opened.boxed().shared())
    }
}

fn close(state: &Mutex<State>, id: u64) -> bool {
    let mut state = state.lock();
    let is_current = state.id == id && !matches!(state.stage, Stage::Closed);
    if is_current {
        state.stage = Stage::Closed;
    }
    is_current
}

/// How many commands may wait to be written. Those for which there is no room wait outside.
const WAITING: usize = 1_024;
