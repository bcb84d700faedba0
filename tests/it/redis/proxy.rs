//! A network between a limiter and its Redis, which does as it is told.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

/// What happens to what is sent.
#[derive(Clone, Debug)]
pub(super) enum Mode {
    Passes,
    /// Each answer comes so much later.
    Delays(Duration),
    /// What is sent is swallowed.
    Swallows,
    /// The server has done what it was told, and its answer is lost with the connection.
    LosesAnswers,
    /// The connection is cut in the middle of an answer.
    CutsAnswers,
    /// Whoever connects is sent away.
    Refuses,
    /// The server is not asked, but the first question of a connection, about its setup.
    Answers(Vec<u8>),
}

pub(super) struct Proxy {
    pub(super) port: u16,
    shared: Arc<Shared>,
    task: tokio::task::JoinHandle<()>,
}

struct Shared {
    mode: Mutex<Mode>,
    cut: Notify,
    connections: AtomicUsize,
}

impl Proxy {
    pub(super) async fn to(upstream: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared {
            mode: Mutex::new(Mode::Passes),
            cut: Notify::new(),
            connections: AtomicUsize::new(0),
        });
        let serving = Arc::clone(&shared);
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                serving.connections.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(client, upstream, Arc::clone(&serving)));
            }
        });
        Self { port, shared, task }
    }

    pub(super) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub(super) fn turn(&self, mode: Mode) {
        *self.shared.mode.lock().unwrap() = mode;
    }

    /// How often somebody has connected.
    pub(super) fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Cuts all connections that there are.
    pub(super) fn cut(&self) {
        self.shared.cut.notify_waiters();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(client: TcpStream, upstream: u16, shared: Arc<Shared>) {
    let cut = shared.cut.notified();
    let mode = || shared.mode.lock().unwrap().clone();
    if matches!(mode(), Mode::Refuses) {
        // With what it has sent unread, this is a reset.
        client.set_zero_linger().unwrap();
        return;
    }
    let relay = async {
        let mut server = TcpStream::connect(("127.0.0.1", upstream)).await?;
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = server.split();
        let (mut asked, mut answered) = ([0; 65_536], [0; 65_536]);
        let mut is_set_up = false;
        loop {
            tokio::select! {
                read = from_client.read(&mut asked) => {
                    let read = read?;
                    if read == 0 {
                        break;
                    }
                    match mode() {
                        Mode::Swallows => {}
                        Mode::Answers(answer) if is_set_up => to_client.write_all(&answer).await?,
                        _ => to_server.write_all(&asked[..read]).await?,
                    }
                }
                read = from_server.read(&mut answered) => {
                    let read = read?;
                    if read == 0 {
                        break;
                    }
                    let answer = &answered[..read];
                    match mode() {
                        // Without the setup of a connection there is nothing to lose yet.
                        Mode::LosesAnswers if is_set_up => break,
                        Mode::CutsAnswers if is_set_up => {
                            to_client.write_all(&answer[..read / 2]).await?;
                            break;
                        }
                        Mode::Swallows => continue,
                        Mode::Delays(time) => tokio::time::sleep(time).await,
                        _ => {}
                    }
                    to_client.write_all(answer).await?;
                    is_set_up = true;
                }
            }
        }
        Ok::<_, std::io::Error>(())
    };
    tokio::select! {
        _ = relay => {}
        () = cut => {}
    }
}
